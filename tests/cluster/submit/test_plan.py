"""What would be submitted: the scripts against recorded ones, the store, errors in requests."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plans import MakePlan
from recorded_script import recorded_form

from phase2hpc.cluster.submit.local_executor import local_text
from phase2hpc.errors import InputError

RECORDED = Path(__file__).parent / "recorded"


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
