"""Resources: the level's, the profile's, the flags'; time and memory that are estimated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phase2hpc.cluster.profiles.profile import Profile
from phase2hpc.cluster.submit.estimate import (
    EVALUATION_FACTOR,
    MARGIN,
    Estimate,
    estimate,
    measured_rate,
)
from phase2hpc.cluster.submit.resources import ResourceOverrides, allocate
from phase2hpc.cluster.submit.store_size import SAMPLE_TRAINING, PlannedStore, StoreSize
from phase2hpc.config.algorithms import ALGORITHMS, Resources
from phase2hpc.config.level_settings import preset_of
from phase2hpc.config.run_config import build_config
from phase2hpc.errors import InputError
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.run_directory import create_run

LEVEL = Resources(hours=24, cpus=8, memory_gb=32, gpus=1)
SIZE = StoreSize(15_000, 12_000, 2**30, "from the store")


def guess(**changes: Any) -> Estimate:
    return Estimate(**{"epochs": 100, "training": 12_000, "rate": 300.0, "rate_from": "measured",
                       "size": SIZE, "cuda": False, **changes})  # fmt: skip


def test_flags_go_before_the_profile_and_the_profile_before_the_level() -> None:
    bare = allocate(LEVEL, Profile(), ResourceOverrides(), None)
    assert (bare.nodes, bare.tasks_per_node, bare.gpus_per_node, bare.cpus) == (1, 1, 1, 8)
    assert (bare.memory_gb, bare.minutes) == (32, 24 * 60)
    profile = Profile(cpus=4, memory_gb=16, gpus=2, nodes=2, hours=3)
    of_site = allocate(LEVEL, profile, ResourceOverrides(), guess())
    assert (of_site.nodes, of_site.tasks, of_site.gpus_per_node, of_site.cpus) == (2, 4, 2, 4)
    assert (of_site.memory_gb, of_site.minutes) == (16, 180)
    flags = ResourceOverrides(
        nodes=1, gpus_per_node=0, tasks_per_node=3, cpus=1, memory_gb=2, time=0.5
    )
    asked = allocate(LEVEL, profile, flags, guess())
    assert (asked.nodes, asked.tasks, asked.gpus_per_node, asked.cpus) == (1, 3, 0, 1)
    assert (asked.memory_gb, asked.minutes) == (2, 30)
    assert asked.notes == ("time 0:30:00 (from --time)", "memory 2 GiB a node (from --memory)")


@pytest.mark.parametrize(
    ("profile", "wanted", "words"),
    [
        ({"max_nodes": 2}, {"nodes": 3}, "--nodes 3 is above the profile's limit of 2"),
        ({"max_gpus_per_node": 4}, {"gpus_per_node": 8}, "--gpus-per-node 8 .* 4"),
        ({"max_cpus": 8}, {"cpus": 16}, "--cpus 16 .* 8"),
        ({"max_cpus": 8, "gpus": 0}, {"cpus": 4, "tasks_per_node": 4}, "for 4 processes"),
        ({"max_memory_gb": 64}, {"memory_gb": 65}, "--memory 65"),
        ({"max_hours": 10}, {"time": 11.0}, "--time 11:00:00 .* requeue"),
        ({}, {"gpus_per_node": 2, "tasks_per_node": 4}, "--tasks-per-node 4"),
        ({"executor": "local"}, {"nodes": 2}, "--nodes 2: .* one machine"),
    ],
)
def test_above_the_limits(profile: Any, wanted: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        allocate(LEVEL, Profile(**profile), ResourceOverrides(**wanted), None)


OF_SBATCH = {"mem-per-cpu": "3900M"}


@pytest.mark.parametrize(
    ("profile", "flags", "wanted", "words"),
    [
        ({"memory_gb": 32, "sbatch": OF_SBATCH}, {}, {},
         "memory_gb in the profile and mem-per-cpu in the profile's sbatch both set the memory"),
        ({"memory_request": "mem", "sbatch": OF_SBATCH}, {}, {}, "memory_request in the profile"),
        ({"sbatch": OF_SBATCH}, {}, {"memory_gb": 32}, "--memory and mem-per-cpu in the profile's"),
        ({}, OF_SBATCH, {"memory_gb": 32}, "--memory and --sbatch mem-per-cpu both set the memory"),
        ({"memory_request": "none"}, {}, {"memory_gb": 32}, "--memory 32 has no effect"),
        ({"sbatch": {"tres-per-task": "cpu:2,mem:4G"}, "cpus": 4}, {}, {}, "both set the cores"),
        ({"sbatch": {"cpus-per-gpu": "12"}}, {}, {"cpus": 4}, "--cpus and cpus-per-gpu in the pro"),
        ({"cpu_request": "none"}, {}, {"cpus": 4}, "--cpus 4 has no effect with the profile's c"),
        ({"sbatch": OF_SBATCH}, {"mem-per-gpu": "64G"}, {}, "--sbatch mem-per-gpu and mem-per"),
        ({"sbatch": {"gres": "gpu:2"}}, {}, {}, "the level's number of GPUs and gres in"),
        ({"gpus": 2}, {"gpus-per-socket": "1"}, {}, "gpus in the profile and --sbatch gpus-per-s"),
        ({"sbatch": {"gres": "tmpfs:1G,gpu:a100:2"}}, {}, {"gpus_per_node": 1}, "gpu_request: n"),
        ({"sbatch": {"exclusive": True}}, {"oversubscribe": True}, {}, "both set the sharing of"),
    ],
)  # fmt: skip
def test_two_places_that_contradict_each_other_are_both_named(
    profile: Any, flags: Any, wanted: Any, words: str
) -> None:
    with pytest.raises(InputError) as caught:
        allocate(LEVEL, Profile(**profile), ResourceOverrides(**wanted), None, flags)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_level_gives_way_to_an_option_of_sbatch() -> None:
    bare = allocate(LEVEL, Profile(sbatch=OF_SBATCH), ResourceOverrides(), guess())
    assert bare.memory_gb is None and bare.cpus == 8
    assert bare.notes[1] == "memory mem-per-cpu=3900M (mem-per-cpu in the profile's sbatch)"
    # Without GPUs, what is per GPU is left out, and the level's memory is requested.
    per_gpu = Profile(sbatch={"mem-per-gpu": "64G", "cpus-per-gpu": "12"})
    found = allocate(LEVEL, per_gpu, ResourceOverrides(), None)
    assert (found.cpus, found.memory_gb) == (None, None)
    found = allocate(LEVEL, per_gpu, ResourceOverrides(gpus_per_node=0), None)
    assert (found.cpus, found.memory_gb) == (8, 32)
    removed = allocate(LEVEL, per_gpu, ResourceOverrides(memory_gb=1), None, {"mem-per-gpu": False})
    assert removed.memory_gb == 1
    nothing = Profile(memory_request="none", cpu_request="none", gpu_request="none")
    found = allocate(LEVEL, nothing, ResourceOverrides(), None)
    assert (found.cpus, found.memory_gb, found.gpus_per_node) == (None, None, 1)
    assert found.notes[1] == "memory not requested"
    whole = allocate(LEVEL, Profile(memory_gb=0), ResourceOverrides(), None)
    assert (whole.memory_gb, whole.notes[1]) == (0, "memory all of a node's (from the profile)")


def test_the_levels_own_cores_fit_the_node() -> None:
    assert allocate(LEVEL, Profile(max_cpus=4), ResourceOverrides(), None).cpus == 4
    assert (
        allocate(LEVEL, Profile(max_cpus=4, gpus=0), ResourceOverrides(tasks_per_node=3), None).cpus
        == 1
    )


def test_time_is_estimated_and_says_how() -> None:
    found = allocate(LEVEL, Profile(), ResourceOverrides(), guess())
    seconds = 100 * 12_000 / 300 * EVALUATION_FACTOR * MARGIN
    assert seconds / 60 < found.minutes - 9 < seconds / 60 + 20
    for words in ("100 epochs x 12,000 crystals (from the store)", "300 crystals/s (measured)"):
        assert words in found.notes[0]
    four = allocate(LEVEL, Profile(gpus=0), ResourceOverrides(tasks_per_node=4), guess())
    assert four.minutes < found.minutes / 2 and "x 4 processes" in four.notes[0]
    assert (
        "no data for an estimate" in allocate(LEVEL, Profile(), ResourceOverrides(), None).notes[0]
    )


def test_a_run_longer_than_the_site_allows_goes_on_by_requeue() -> None:
    found = allocate(LEVEL, Profile(max_hours=1), ResourceOverrides(), guess(epochs=1000))
    assert found.minutes == 60 and "continues by requeue" in found.notes[0]


def test_memory_grows_with_the_store_and_stays_within_the_node() -> None:
    assert allocate(LEVEL, Profile(), ResourceOverrides(), guess()).memory_gb == 32
    large = guess(size=StoreSize(10**7, 10**7, 100 * 2**30, "from the store"))
    found = allocate(LEVEL, Profile(), ResourceOverrides(), large)
    assert 100 < found.memory_gb < 300 and "estimated need" in found.notes[1]
    held = allocate(LEVEL, Profile(max_memory_gb=64), ResourceOverrides(), large)
    assert held.memory_gb == 64 and "capped at the profile's limit" in held.notes[1]


def test_the_warning_leaves_a_short_job_time_to_work() -> None:
    one_minute = allocate(LEVEL, Profile(), ResourceOverrides(time=1 / 60), None)
    assert one_minute.minutes == 1 and one_minute.signal_seconds(120) == 15
    assert allocate(LEVEL, Profile(), ResourceOverrides(time=2.0), None).signal_seconds(120) == 120


# ---- what it is estimated from -----------------------------------------------------------------


def test_every_preset_has_a_reference_speed() -> None:
    for algorithm in ALGORITHMS.values():
        assert algorithm.speed.keys() == algorithm.presets.keys()
        for name, level in algorithm.levels.items():
            assert preset_of(build_config(algorithm.name, name, ["band_gap"])) == level.preset


def test_size_of_a_store(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = PlannedStore.inspect(tiny.store).size(is_sample=False)
    assert found is not None and (found.crystals, found.training) == (150, 110)
    gone = PlannedStore.inspect(tmp_path / "gone.h5")
    assert gone.size(is_sample=False) is None
    sample = gone.size(is_sample=True)
    assert sample is not None and sample.training == SAMPLE_TRAINING
    # As on a login node: only the length of the file is known there.
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    for name in ("verify", "reader", "layout", "structure_checks"):
        monkeypatch.delitem(
            __import__("sys").modules, f"phase2hpc.data.store.{name}", raising=False
        )
    about = PlannedStore.inspect(tiny.store).size(is_sample=False)
    assert about is not None and about.source.startswith("estimated from")
    assert 0 < about.training <= about.crystals


def test_earlier_runs_go_before_the_reference(tmp_path: Path) -> None:
    config = build_config("cgcnn", "std", ["band_gap"])
    run = create_run(tmp_path, "multitask_cgcnn_std", "earlier")
    run.write_config(config)
    run.write_manifest(Manifest.for_run(run, config, tmp_path / "s.h5", None))
    run.update_manifest(device="cpu", processes=2)
    assert measured_rate(config, tmp_path, cuda=False) is None
    run.history.write_text(json.dumps([{"crystals_per_second": r} for r in (500, 900, 1000)]))
    found = estimate(config, "medium", tmp_path, SIZE, cuda=False)
    assert (found.rate, found.rate_from) == (450, "measured in run earlier")
    assert "reference" in estimate(config, "medium", tmp_path, SIZE, cuda=True).rate_from
    other = build_config("cgcnn", "std", ["band_gap"], {"batch_size": 4})
    assert "reference" in estimate(other, "medium", tmp_path, SIZE, cuda=False).rate_from
    run.history.write_text("[{]")
    assert "reference" in estimate(config, "medium", tmp_path, SIZE, cuda=False).rate_from


def test_what_is_left_of_a_run_and_what_is_asked_of_it(tmp_path: Path) -> None:
    config = build_config("cgcnn", "lite", ["band_gap"], {"epochs": 40})
    found = estimate(config, "small", tmp_path, SIZE, cuda=False, done=30)
    assert (found.epochs, found.training) == (10, 3000)
