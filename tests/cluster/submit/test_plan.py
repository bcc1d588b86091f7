"""What would be submitted: the scripts against recorded ones, the dry run, errors in requests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recorded_script import recorded_form

from phase2hpc.cluster.submit.local_executor import local_text
from phase2hpc.cluster.submit.plan import Plan, SubmitRequest, make_plan
from phase2hpc.cluster.submit.resources import ResourceOverrides
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
        return make_plan(SubmitRequest(request, profile, wanted=resources, **job))

    return make


# ---- the scripts -------------------------------------------------------------------------------


def several_nodes(plan: MakePlan) -> str:
    found = plan("gpu", wanted={"nodes": 2, "gpus_per_node": 4, "cpus": 6}, after="17,18_3")
    return found.script_after(None).text()


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


def test_the_three_ways_to_ask_for_gpus(plan: MakePlan, site: Path) -> None:
    for request, line in (
        ("gres", "--gres=gpu:a100:2"),
        ("gpus-per-node", "--gpus-per-node=a100:2"),
        ("gpus-per-task", "--gpus-per-task=a100:1"),
    ):
        profile = site / "jobs" / "ways.yaml"
        profile.write_text(f"gpu_type: a100\ngpu_request: {request}\n")
        text = plan("ways", wanted={"gpus_per_node": 2}).script.text()
        assert f"#SBATCH {line}\n" in text and "#SBATCH --ntasks-per-node=2\n" in text
    assert "gpu" not in plan("ways", wanted={"gpus_per_node": 0}).script.text().replace(
        str(site), ""
    )


def test_options_of_sbatch(plan: MakePlan) -> None:
    text = plan("gpu", sbatch=("mail-type=FAIL", "--nice", "partition=short")).script.text()
    for line in ("--mail-type=FAIL", "--nice", "--partition=short", "--exclusive"):
        assert f"#SBATCH {line}\n" in text
    assert "--wckey" not in text
    for option, words in (
        ("output=x", "'output' is set by phase2hpc"),
        ("time=5", "'time' is set by the profile's field hours"),
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


# ---- a store that is not there -----------------------------------------------------------------


def test_a_missing_store_is_prepared_by_a_first_job(plan: MakePlan) -> None:
    found = plan("gpu", train={"store": Path("fresh.h5")}, sources=("x.jsonl",), after="9")
    assert found.prepare is not None
    first, then = found.prepare.text(), found.script_after("77").text()
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
    from phase2hpc.cluster.submit.submission import dry_run

    found = plan("cpu", train={"store": Path("fresh.h5")}, seeds="0-1", sources=("x.jsonl",))
    assert found.prepare is not None
    text = dry_run(found)
    assert found.prepare.text() in text
    assert found.script_after("ID_OF_THE_FIRST_JOB").text() in text
    assert "mine-s1 (seed=1)" in text
    assert local_text(plan("here").script) in dry_run(plan("here"))
