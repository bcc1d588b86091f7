"""Options of sbatch: those of the request for resources, of everyday flags, and of the user."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from plans import MakePlan, options

from phase2hpc.errors import InputError

RESOURCES = (
    "cpus-per-task", "cpus-per-gpu", "mem", "mem-per-cpu", "mem-per-gpu", "gres", "gpus",
    "gpus-per-node", "gpus-per-task", "ntasks-per-node", "nodes",
)  # fmt: skip
# The profile, and what a job of 2 nodes with 2 processes of 8 cores and 32 GiB each requests.
WAYS: dict[str, dict[str, str]] = {
    "": {"gres": "gpu:2", "cpus-per-task": "8", "mem": "32G"},
    "gpu_type: a100": {"gres": "gpu:a100:2", "cpus-per-task": "8", "mem": "32G"},
    "gpu_request: gpus-per-node\ngpu_type: a100\nmemory_gb: 0":
        {"gpus-per-node": "a100:2", "cpus-per-task": "8", "mem": "0G"},
    "gpu_request: gpus-per-task\nmemory_request: mem-per-cpu":
        {"gpus-per-task": "1", "cpus-per-task": "8", "mem-per-cpu": "2G"},
    "gpu_request: gpus\ncpu_request: cpus-per-gpu\nmemory_request: mem-per-gpu\nmemory_gb: 9.7":
        {"gpus": "4", "cpus-per-gpu": "8", "mem-per-gpu": "4967M"},
    "gpu_request: none\ncpu_request: none\nmemory_request: none": {},
    "gpu_request: none\nsbatch: {gres: 'shard:4,tmpfs:9G'}":
        {"gres": "shard:4,tmpfs:9G", "cpus-per-task": "8", "mem": "32G"},
    "gpu_request: none\nsbatch: {gres: 'gpu:a100:2', mem-per-gpu: 9G}":
        {"gres": "gpu:a100:2", "cpus-per-task": "8", "mem-per-gpu": "9G"},
    "sbatch: {gres: 'tmpfs:100G', cpus-per-gpu: 4}":
        {"gres": "gpu:2,tmpfs:100G", "cpus-per-gpu": "4", "mem": "32G"},
    "gpu_request: gpus-per-node\nsbatch: {gres: 'tmpfs:100G', mem-per-cpu: 3900M}":
        {"gpus-per-node": "2", "gres": "tmpfs:100G", "cpus-per-task": "8", "mem-per-cpu": "3900M"},
}  # fmt: skip


@pytest.mark.parametrize("profile", WAYS)
def test_every_way_to_request_resources(profile: str, plan: MakePlan, site: Path) -> None:
    (site / "jobs/way.yaml").write_text(profile)
    found = plan("way", wanted={"gpus_per_node": 2, "nodes": 2}, sources=("x.jsonl",),
                 train={"store": Path("new.h5")})  # fmt: skip
    given = options(found.script.text())
    expected = {"nodes": "2", "ntasks-per-node": "2", **WAYS[profile]}
    assert {name: value for name, value in given.items() if name in RESOURCES} == expected
    assert subprocess.run(["/bin/bash", "-n"], input=found.script.text(), text=True).returncode == 0
    # The job that prepares the store has no GPU, and asks for nothing by GPU.
    assert found.prepare is not None
    alone = options(found.prepare.text())
    assert (alone["nodes"], alone["ntasks-per-node"]) == ("1", "1")
    assert not [name for name in alone if "gpu" in name]
    assert alone.get("gres", "tmpfs") in ("tmpfs", "tmpfs:9G", "tmpfs:100G")
    assert ("mem" in alone or "mem-per-cpu" in alone) == (WAYS[profile] != {})


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ("sbatch: {gres: 'shard:2'}", "gres in the profile's sbatch both set the GPUs"),
        ("gpu_request: gpus\nsbatch: {gres: 'mps:50'}", "both set the GPUs"),
        ("gpu_request: none\ncpu_request: cpus-per-gpu", "cpu_request: cpus-per-gpu needs"),
        ("gpu_request: none\nmemory_request: mem-per-gpu", "memory_request: mem-per-gpu needs"),
        ("gpu_request: none\nsbatch: {gres: 'shard:4', mem-per-gpu: 9G}",
         "mem-per-gpu in the profile's sbatch needs a request of GPUs"),
        ("memory_request: mem-per-cpu\nsbatch: {cpus-per-gpu: 8}",
         "divides a node's memory by its cores, and these are cpus-per-gpu=8"),
    ],
)  # fmt: skip
def test_what_slurm_would_refuse(profile: str, words: str, plan: MakePlan, site: Path) -> None:
    (site / "jobs/way.yaml").write_text(profile)
    with pytest.raises(InputError, match=words):
        plan("way", wanted={"gpus_per_node": 2})


@pytest.mark.parametrize("request_", ["mem-per-cpu", "mem-per-gpu"])
def test_all_memory_of_a_node_is_no_amount_per_part(
    request_: str, plan: MakePlan, site: Path
) -> None:
    (site / "jobs/way.yaml").write_text(f"memory_request: {request_}")
    with pytest.raises(InputError, match=f"--memory 0 .* memory_request is {request_}"):
        plan("way", wanted={"gpus_per_node": 2, "memory_gb": 0.0})
    if request_ == "mem-per-gpu":
        text = plan("way", wanted={"gpus_per_node": 0, "memory_gb": 0.0}).script.text()
        assert options(text)["mem"] == "0G"


def test_no_gpus_no_word_of_them(plan: MakePlan, site: Path) -> None:
    (site / "jobs/way.yaml").write_text(
        "gpu_type: a100\ncpu_request: cpus-per-gpu\nmemory_request: mem-per-gpu\n"
        "sbatch: {gres: 'shard:1', gpu-bind: none, tres-per-task: 'gres/gpu:1'}\n"
    )
    text = plan("way", wanted={"gpus_per_node": 0}).script.text()
    assert "gpu" not in text.replace(str(site), "") and "shard" not in text
    assert options(text)["cpus-per-task"] == "8" and options(text)["mem"] == "32G"


def test_everyday_flags(plan: MakePlan) -> None:
    fields = {"partition": "short", "account": "bio", "qos": "high", "constraint": "a|b",
              "reservation": "course", "job_name": "mine", "other": None}  # fmt: skip
    found = plan("gpu", fields=fields, train={"store": Path("new.h5")}, sources=("x.jsonl",))
    given = options(found.script.text())
    expected = {name.replace("_", "-"): value for name, value in fields.items() if value}
    expected["constraint"] = "'a|b'"
    assert given | expected == given
    assert found.prepare is not None
    assert options(found.prepare.text()) | {**expected, "job-name": "mine-prepare"} == options(
        found.prepare.text()
    )
    arguments = found.submission.arguments(prepare=False)
    assert arguments[arguments.index("--constraint") + 1] == "a|b"
    for bad, words in (
        ({"fields": {"qos": "a b"}}, "flag 'qos' = 'a b': contains a character"),
        ({"fields": {"qos": "a"}, "sbatch": ("qos=b",)}, "--qos and --sbatch qos: give only one"),
        ({"profile": "here", "fields": {"qos": "a"}}, "qos: has no effect with 'executor: local'"),
        ({"profile": "here", "sbatch": ("exclusive",)}, "exclusive: has no effect with a local"),
    ):
        with pytest.raises(InputError, match=words):
            plan(**{"profile": "gpu", **bad})


def test_requeue_dependency_and_teardown(plan: MakePlan, site: Path) -> None:
    (site / "jobs/way.yaml").write_text(
        "gpus: 0\nrequeue: false\ndependency: singleton\nmax_hours: 2\n"
        "teardown: [rm -rf /scratch/x]\n"
    )
    found = plan("way", wanted={"time": "auto"}, overrides={"epochs": 90_000})
    text = found.script_after("7").text()
    given = options(text)
    assert "no-requeue" in given and "requeue" not in given
    assert given["dependency"] == "afterok:7,singleton"
    assert "\ncode=$?\nrm -rf /scratch/x\nif [" in text and "scontrol" not in text
    assert "continue it with submit --resume" in found.allocation.notes[0]
    assert options(plan("way").script.text())["dependency"] == "singleton"
    again = plan("way", sbatch=("requeue", "job-name=x")).script.text()
    assert "requeue" in options(again) and "scontrol requeue" in again
    assert options(again)["job-name"] == "x"


def test_the_time_limit_of_a_level(plan: MakePlan, site: Path) -> None:
    (site / "jobs/way.yaml").write_text("gpus: 0\nhours: 2\nhours_per_level: {std: 5}\n")
    for level, minutes in (("std", "300"), ("lite", "120")):
        found = plan("way", train={"level": level}, wanted={"time": "auto"})
        assert options(found.script.text())["time"] == minutes


def test_options_of_sbatch(plan: MakePlan) -> None:
    text = plan("gpu", sbatch=("mail-type=FAIL", "--nice", "partition=short")).script.text()
    for line in ("--mail-type=FAIL", "--nice", "--partition=short", "--exclusive"):
        assert f"#SBATCH {line}\n" in text
    assert "--wckey" not in text
    for option, words in (
        ("output=x", "'output' is set by phase2hpc"),
        ("array=0-3", "'array' is set by phase2hpc"),
        ("time=5", "'time' is set by the profile's field hours, or --time"),
        ("mem=5G", "'mem' is set by the profile's field memory_gb, or --memory"),
        ("partition=a b", "--sbatch: option 'partition' = 'a b'"),
    ):
        with pytest.raises(InputError, match=words):
            plan("gpu", sbatch=(option,))
