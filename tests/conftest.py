"""What tests share: a small real store, made once a session, and short training runs on it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import LITTLE, Tiny, prepare_tiny

from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils.container_image import DIGEST_VARIABLE
from phase2hpc.utils.package_files import CACHE_VARIABLE

# Marked slow, and left out by `make check`: tests that use a fixture that trains, and these, which
# take seconds of processor time or wait for other processes; by the beginning of their id.
TRAINING_FIXTURES = {"trained", "train_tiny"}
SLOW = (
    "tests/checkpointing/test_killed_writers.py",
    "tests/cluster/node/test_queued_by_old_version.py",
    "tests/cluster/node/test_train_task.py",
    "tests/cluster/submit/test_dry_run.py",
    "tests/cluster/submit/test_ensemble_plans.py",
    "tests/cluster/submit/test_job_array.py",
    "tests/cluster/submit/test_local_executor.py",
    "tests/cluster/submit/test_plan.py",
    "tests/cluster/submit/test_sbatch_options.py",
    "tests/cluster/submit/test_submission.py",
    "tests/cluster/submit/test_tuning.py",
    "tests/data/readers/cif/test_structures.py::test_agrees_with",
    "tests/data/readers/cif/test_structures.py::test_examples_are",
    "tests/data/readers/cif/test_structures.py::test_rounded",
    "tests/data/readers/test_hostile.py",
    "tests/data/readers/test_poscar.py",
    "tests/data/readers/test_registry.py::test_poscar_agrees",
    "tests/data/store/test_store.py",
    "tests/data/store/test_tampered.py",
    "tests/data/test_prepare_killed.py",
    "tests/data/test_prepare.py",
    "tests/data/test_sharded_prepare.py",
    "tests/data/test_splits.py::test_formula_split_is_that_of_the_sample",
    "tests/data/test_validation.py::test_the_sample_is_accepted",
    "tests/docs/test_your_own_data.py",
    "tests/examples/",
    "tests/analysis/test_report.py",
    "tests/analysis/test_report_in_browser.py",
    "tests/inference/test_export.py",
    "tests/inference/test_sharded_predict.py",
    "tests/models/test_invariance.py",
    "tests/runs/test_lease.py::test_of_many_takers_one_wins",
    "tests/test_disk_full.py",
    "tests/training/distributed/",
    "tests/training/test_chaos.py",
    "tests/training/test_compile.py",
    "tests/training/test_ensembles.py",
    "tests/training/test_exact_resume.py",
    "tests/training/test_loop.py",
    "tests/training/test_resume.py",
    "tests/training/test_signals.py",
    "tests/training/tuning/test_study.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        trains = TRAINING_FIXTURES & set(getattr(item, "fixturenames", ()))
        if trains or item.nodeid.startswith(SLOW):
            item.add_marker("slow")
    # Files with slow tests first, so that at the end of a parallel session no process is idle.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def no_trace_in_the_users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Bits depend on the number of threads, and tests are small."""
    try:
        import torch
    except ModuleNotFoundError:
        return
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Small crystals of the sample in their own splits, half with labels of the rarest property,
    and a user's own column ``mass`` on some."""
    return prepare_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def in_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """``in_image(variant="cpu")`` makes this process seem to run in an image of phase2hpc; the
    folder of the image's Python environment."""

    def enter(variant: str = "cpu") -> Path:
        folder = tmp_path / "image"
        folder.mkdir()
        label = {"version": "1.2", "variant": variant, "revision": "abc-dirty", "created": ""}
        (folder / "image.json").write_text(json.dumps(label))
        (folder / "packages.txt").write_text("numpy==2.0\ntorch==2.13.0+cpu\n")
        monkeypatch.setattr(sys, "prefix", str(folder))
        monkeypatch.delenv(DIGEST_VARIABLE, raising=False)
        return folder

    return enter


TrainTiny = Callable[..., RunDirectory]


@pytest.fixture(scope="session")
def train_tiny(tiny: Tiny) -> TrainTiny:
    """``train_tiny(models_dir, algorithm="cgcnn", properties="core4", **overrides)`` trains at
    lite with the settings of LITTLE."""

    def run(
        models_dir: Path,
        algorithm: str = "cgcnn",
        *,
        store: Path | None = None,
        properties: str | None = "core4",
        resume: bool = False,
        run_id: str | None = "one",
        init_from: RunDirectory | None = None,
        seed: int | None = None,
        accept_changes: bool = False,
        seeds: tuple[int, ...] = (),
        at_end: Callable[[RunDirectory], None] | None = None,
        **overrides: Any,
    ) -> RunDirectory:
        from phase2hpc.training.request import TrainRequest
        from phase2hpc.training.runner import train

        return train(
            TrainRequest(
                algorithm,
                "lite",
                models_dir,
                store=store or tiny.store,
                properties=properties,
                resume=resume,
                run_id=run_id,
                init_from=init_from,
                seed=seed,
                accept_changes=accept_changes,
                seeds=seeds,
                overrides={**({} if resume else LITTLE[algorithm]), **overrides},
            ),
            at_end,
        )

    return run


@pytest.fixture(scope="session")
def trained(
    train_tiny: TrainTiny, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, RunDirectory]:
    """A finished run of each algorithm, all nine properties, in one models folder."""
    models = tmp_path_factory.mktemp("models")
    return {
        algorithm: train_tiny(models, algorithm, properties="all9", run_id=algorithm)
        for algorithm in LITTLE
    }


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """``command("runs", "list", ...)`` -> (exit code, stdout, stderr) of the real ``main``."""
    from phase2hpc.cli.main import main

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["phase2hpc", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    yield run
