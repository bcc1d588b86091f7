"""Plans of ensembles and sweeps: members, arrays, limits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from plans import MakePlan, options

from phase2hpc.cluster.submit.plan import make_plans
from phase2hpc.cluster.submit.submission import dry_run
from phase2hpc.errors import InputError


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
