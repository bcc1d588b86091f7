"""What would be submitted: the scripts against recorded ones, the dry run, errors in requests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from recorded_script import recorded_form

from phase2hpc.cluster.submit.local_executor import local_text
from phase2hpc.cluster.submit.plan import Plan, SubmitRequest, make_plans
from phase2hpc.cluster.submit.resources import ResourceOverrides
from phase2hpc.cluster.submit.submission import dry_run
from phase2hpc.errors import InputError
from phase2hpc.training.request import TrainRequest

RECORDED = Path(__file__).parent / "recorded"

CPU = "gpus: 0\npython: /opt/python\n"
GPU = """\
partition: gpu
account: chem
qos: normal
gpu_request: gpus-per-node
gpu_type: a100
max_hours: 24
signal_seconds: 60
python: /opt/python
setup: [module load cuda, source /opt/venv/bin/activate]
environment: {NCCL_DEBUG: INFO}
sbatch: {exclusive: true, mail-type: END}
srun: [--cpu-bind=none]
"""
CONTAINER = """\
gpus: 1
python: python3
environment: {OMP_NUM_THREADS: "4"}
container:
  image: image.sif
  binds: ["/scratch/data:/data:ro"]
"""
LOCAL = "executor: local\npython: /opt/python\nsetup: [module load cuda]\n"


@pytest.fixture
def site(tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a store, an image and profiles; no Slurm on PATH."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    shutil.copy(tiny.store, "tiny.h5")
    Path("image.sif").write_bytes(b"hsqs")
    Path("jobs").mkdir()
    for name, text in (("cpu", CPU), ("gpu", GPU), ("container", CONTAINER), ("here", LOCAL)):
        Path(f"jobs/{name}.yaml").write_text(text)
    return tmp_path


MakePlan = Callable[..., Plan]


@pytest.fixture
def plan(site: Path) -> MakePlan:
    """``plan("cpu", lr=1e-2, train={...}, wanted={...}, seeds="0-1", ...)``."""

    def make(
        profile: str = "cpu",
        *,
        train: dict[str, Any] | None = None,
        wanted: dict[str, Any] | None = None,
        overrides: dict[str, Any] | None = None,
        **job: Any,
    ) -> Plan:
        request = TrainRequest(
            **{
                "algorithm": "e3nn",
                "level": "std",
                "models_dir": Path("models"),
                "store": Path("tiny.h5"),
                "run_id": "mine",
                "overrides": overrides or {},
                **(train or {}),
            }
        )
        resources = ResourceOverrides(**{"time": 2.0, **(wanted or {})})
        (plan,) = make_plans(SubmitRequest(request, profile, wanted=resources, **job))
        return plan

    return make


# ---- the scripts -------------------------------------------------------------------------------


def several_nodes(plan: MakePlan) -> str:
    found = plan("gpu", wanted={"nodes": 2, "gpus_per_node": 4, "cpus": 6})
    return replace(found, dependencies=("17", "18_3")).script_after(None).text()


RECORDINGS: dict[str, Callable[[MakePlan], str]] = {
    "job": lambda plan: plan("cpu").script.text(),
    "several_nodes": several_nodes,
    "array": lambda plan: plan("cpu", seeds="0-2", wanted={"time": 0.05}).script.text(),
    "container": lambda plan: plan("container").script.text(),
    "local": lambda plan: local_text(plan("here").script),
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_scripts_are_as_recorded(name: str, plan: MakePlan, site: Path) -> None:
    """A change of a recorded text is a change of what runs on clusters: read it, then write it
    there."""
    text = recorded_form(RECORDINGS[name](plan), site)
    assert text == (RECORDED / f"{name}.sbatch").read_text()
    if name != "local":
        assert subprocess.run(["/bin/bash", "-n"], input=text, text=True).returncode == 0


def options(text: str) -> dict[str, str]:
    lines = re.findall(r"^#SBATCH --(\S+?)(?:=(.*))?$", text, re.MULTILINE)
    found = dict(lines)
    assert len(found) == len(lines)
    return found


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
    "gpu_request: none\nsbatch: {gres: 'shard:4,tmpfs:9G', mem-per-gpu: 9G}":
        {"gres": "shard:4,tmpfs:9G", "cpus-per-task": "8", "mem-per-gpu": "9G"},
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


def test_no_gpus_no_word_of_them(plan: MakePlan, site: Path) -> None:
    (site / "jobs/way.yaml").write_text(
        "gpu_type: a100\ncpu_request: cpus-per-gpu\nmemory_request: mem-per-gpu\n"
        "sbatch: {gres: 'shard:1', gpu-bind: none}\n"
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
    ):
        with pytest.raises(InputError, match=words):
            plan(**{"profile": "gpu", **bad})


def test_requeue_dependency_and_teardown(plan: MakePlan, site: Path) -> None:
    (site / "jobs/way.yaml").write_text(
        "requeue: false\ndependency: singleton\nmax_hours: 2\nteardown: [rm -rf /scratch/x]\n"
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


def test_members_of_an_ensemble(plan: MakePlan) -> None:
    found = plan("cpu", seeds="3,5", sweeps=("lr=1e-2,5e-3",), overrides={"epochs": 7})
    assert [r.run.id for r in found.runs] == [
        "mine-lr1e-2-s3", "mine-lr1e-2-s5", "mine-lr5e-3-s3", "mine-lr5e-3-s5",
    ]  # fmt: skip
    assert [(r.config.seed, r.config.training.lr) for r in found.runs] == [
        (3, 0.01), (5, 0.01), (3, 0.005), (5, 0.005),
    ]  # fmt: skip
    assert {r.config.training.epochs for r in found.runs} == {7}
    assert found.ensemble == "mine" and found.script.folder.name == "array_mine"
    assert "#SBATCH --array=0-3%4\n" in found.script.text()
    assert plan("cpu").ensemble is None


def test_how_many_jobs_of_an_array_run_at_once(plan: MakePlan, site: Path) -> None:
    (site / "jobs/way.yaml").write_text("gpus: 0\narray_parallelism: 3\n")
    assert options(plan("way", seeds="0-9").script.text())["array"] == "0-9%3"
    assert options(plan("way", seeds="0-9%2").script.text())["array"] == "0-9%2"
    assert "array" not in options(plan("way").script.text())


def test_a_sweep_of_lists_properties_and_ranges(plan: MakePlan) -> None:
    found = plan("cpu", sweeps=("channels=16,8/8,4", "properties=band_gap/core4"))
    assert [(r.config.model.channels, len(r.config.properties)) for r in found.runs] == [
        ((16, 8), 1), ((16, 8), 4), ((8, 4), 1), ((8, 4), 4),
    ]  # fmt: skip
    assert found.runs[0].run.id == "mine-propertiesband.gap-channels16.8"
    found = plan("cpu", sweeps=("lr=log:1e-4..1e-2:3",))
    assert [r.config.training.lr for r in found.runs] == [1e-4, 1e-3, 1e-2]
    # The time limit is that of the longest.
    wanted = {"time": "auto"}
    longest = plan("cpu", sweeps=("epochs=2,90000",), wanted=wanted).allocation.minutes
    assert longest == plan("cpu", overrides={"epochs": 90_000}, wanted=wanted).allocation.minutes
    with pytest.raises(InputError, match="--sweep properties: --properties .* is given too"):
        plan("cpu", train={"properties": "core4"}, sweeps=("properties=band_gap/ehull",))


def test_a_sweep_of_algorithms_is_an_array_of_each(plan: MakePlan, site: Path) -> None:
    """Their levels request different resources; the store is prepared once."""
    request = plan(
        "cpu", train={"store": Path("new.h5")}, sources=("x.jsonl",), seeds="0-1",
        wanted={"time": "auto"},
    ).request  # fmt: skip
    plans = make_plans(replace(request, sweeps=("algorithm=e3nn,cgcnn",)))
    assert [found.ensemble for found in plans] == ["mine-e3nn", "mine-cgcnn"]
    assert [found.allocation.minutes for found in plans] == [24 * 60, 12 * 60]
    assert [found.runs[0].run.path.parent.name for found in plans] == [
        "multitask_std_e3nn", "multitask_cgcnn_std",
    ]  # fmt: skip
    assert [found.prepare is not None for found in plans] == [True, False]
    text = dry_run(plans)
    assert text.count("--dependency=afterok:ID_OF_THE_FIRST_JOB") == 2
    assert text.count("# Script of the first job") == 1
    (alone,) = make_plans(replace(request, sweeps=("algorithm=cgcnn",), seeds=None))
    assert alone.ensemble is None and alone.runs[0].run.id == "mine-cgcnn"


# ---- a store that is not there -----------------------------------------------------------------


def test_a_missing_store_is_prepared_by_a_first_job(plan: MakePlan) -> None:
    found = plan("gpu", train={"store": Path("fresh.h5")}, sources=("x.jsonl",))
    assert found.prepare is not None
    then = replace(found, dependencies=("9",)).script_after("77").text()
    first = found.prepare.text()
    assert "#SBATCH --dependency=afterok:9:77\n" in then
    assert "#SBATCH --kill-on-invalid-dep=yes\n" in then
    assert "dependency" not in first and "--gpus" not in first and "ntasks-per-node=1\n" in first
    assert plan("cpu").prepare is None


def test_a_missing_store_is_not_made_of_the_sample_unasked(plan: MakePlan) -> None:
    with pytest.raises(InputError, match=r"no store tinny\.h5: did you mean tiny\.h5\? to prepare"):
        plan("cpu", train={"store": Path("tinny.h5")})
    with pytest.raises(InputError, match=r"no store other/fresh\.h5; to prepare it in a first job"):
        plan("cpu", train={"store": Path("other/fresh.h5")})
    assert plan("cpu", train={"store": Path("tinny.h5")}, sources=("x.jsonl",)).prepare
    with pytest.raises(InputError, match="exists already"):
        plan("cpu", sources=("x.jsonl",))


# ---- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"profile": "nowhere"}, "nowhere"),
        ({"train": {"properties": "bandgap"}}, "unknown property 'bandgap'"),
        ({"train": {"run_id": "a/b"}}, "run id 'a/b'"),
        ({"train": {"seed": 1}, "seeds": "0-1"}, "--seed and --seeds"),
        ({"train": {"resume": True, "run_id": None}}, "--resume: no run in"),
        ({"train": {"resume": True}, "seeds": "0-1"}, "leave out --seeds"),
        ({"overrides": {"lr": 1}, "sweeps": ("lr=1e-3,1e-2",)}, "--sweep lr"),
        ({"sweeps": ("lrr=1,2",)}, "unknown setting 'lrr'"),
        ({"sweeps": ("lr=fast,slow",)}, "setting 'lr' = 'fast'"),
        ({"after": "nobody"}, "no run 'nobody'"),
        ({"container": "gone.sif"}, "container image gone.sif: no such file"),
        ({"train": {"models_dir": Path("100%j")}}, "with '%'"),
        ({"profile": "here", "wanted": {"nodes": 2}}, "--nodes 2"),
    ],
)
def test_errors_in_a_request(changes: dict[str, Any], words: str, plan: MakePlan) -> None:
    with pytest.raises(InputError) as caught:
        plan(**changes)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("models").exists()


# ---- the dry run -------------------------------------------------------------------------------

_BLOCKED = """
import sys
for name in ("torch", "numpy", "h5py", "torch_geometric", "e3nn", "pymatgen", "ase"):
    sys.modules[name] = None
from phase2hpc.cli.main import main
main()
"""


def test_dry_run_needs_neither_torch_nor_slurm_and_leaves_no_trace(site: Path) -> None:
    before = sorted(site.rglob("*"))
    ended = subprocess.run(
        [sys.executable, "-c", _BLOCKED, "submit", "--level", "smoke", "--profile", "cpu",
         "--store", "tiny.h5", "--properties", "band_gap,mass", "--lr", "0.002", "--dry-run",
         "--run-id", "mine", "--time", "01:00:00"],
        capture_output=True, text=True, timeout=60, cwd=site,
        env=os.environ | {"PATH": "/nowhere", "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    for words in ('"band_gap",\n    "mass"', '"lr": 0.002', "#SBATCH --time=60\n", "\nsrun "):
        assert words in ended.stdout
    assert "whether the store has a column 'mass'" in ended.stderr
    assert sorted(site.rglob("*")) == before


def test_dry_run_prints_what_would_be_submitted(plan: MakePlan) -> None:
    found = plan("cpu", train={"store": Path("fresh.h5")}, seeds="0-1", sources=("x.jsonl",))
    assert found.prepare is not None
    text = dry_run([found])
    assert found.prepare.text() in text
    assert found.script_after("ID_OF_THE_FIRST_JOB").text() in text
    assert "mine-s1 (seed=1)" in text
    assert local_text(plan("here").script) in dry_run([plan("here")])


def test_dry_run_of_an_image_that_is_not_there_yet(plan: MakePlan, site: Path) -> None:
    (site / "image.sif").unlink()
    with pytest.raises(InputError, match=r"container image image\.sif: no such file"):
        plan("container")
    text = dry_run([plan("container", dry_run=True)])
    assert f"# container image {site}/image.sif is not checked: no such file here yet" in text
    assert f"{site}/image.sif python3 -u -m submitit" in text
    # One that is there is checked.
    (site / "image.sif").write_text("nothing")
    with pytest.raises(InputError, match="not an image"):
        plan("container", dry_run=True)


def test_dry_run_shows_what_becomes_of_variables_for_sbatch(
    plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "passed to sbatch" not in dry_run([plan("gpu")])
    monkeypatch.setenv("SBATCH_PARTITION", "other")
    monkeypatch.setenv("SBATCH_WCKEY", "w")
    text = dry_run([plan("gpu")])
    assert "# not passed to sbatch, since the script decides: SBATCH_PARTITION=other\n" in text
    assert "# passed to sbatch from this shell: SBATCH_WCKEY=w\n" in text
    # This one does not set a partition.
    assert "from this shell: SBATCH_PARTITION=other SBATCH_WCKEY=w\n" in dry_run([plan("cpu")])
