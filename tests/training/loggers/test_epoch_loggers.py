"""Loggers write what they are asked for into the run directory, and never end a run."""

from __future__ import annotations

import csv
import importlib.util
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from phase2hpc.config.run_config import build_config
from phase2hpc.config.settings import RuntimeSettings
from phase2hpc.errors import InputError
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.training.loggers.epoch_logger import EpochLoggers, LoggedRun

CONFIG = build_config("cgcnn", "lite", ["band_gap"])


def record(epoch: int, score: float | None = 0.5) -> dict[str, Any]:
    return {
        "epoch": epoch, "step": 10 * epoch, "lr": 1e-3, "train_loss": 2.0 / epoch,
        "train_losses": {"band_gap": 1.5 / epoch}, "val_mae": {"band_gap": 0.25},
        "val_score": score, "crystals_per_second": 99.0,
    }  # fmt: skip


@pytest.fixture
def start(tmp_path: Path) -> Callable[[int, str], EpochLoggers]:
    """``start(step, name)``: a start of one run at this step."""
    run = RunDirectory(tmp_path / "run_one")
    run.path.mkdir()
    return lambda step, name: EpochLoggers([name], LoggedRun(run, CONFIG, step))


def needs(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed: the extra phase2hpc[{module}]")


def test_csv_without_what_a_later_start_repeats(start: Any, tmp_path: Path) -> None:
    with start(0, "csv") as loggers:
        for epoch in (1, 2, 3):
            loggers.write(record(epoch, None if epoch == 1 else 0.5))
    with start(20, "csv") as loggers:
        loggers.write(record(3))
    with (tmp_path / "run_one" / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["val_score"] for row in rows] == ["", "0.5", "0.5"]
    assert float(rows[1]["train_losses/band_gap"]) == 0.75 and rows[2]["step"] == "30"


def test_mlflow_continues_one_run(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("mlflow")
    from mlflow import MlflowClient

    with start(0, "mlflow") as loggers:
        loggers.write(record(1))
    with start(10, "mlflow") as loggers:
        loggers.write(record(2))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient(tracking_uri=(tmp_path / "run_one" / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("phase2hpc")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["batch_size"] == "96"
    history = client.get_metric_history(run.info.run_id, "train_losses/band_gap")
    assert sorted((m.step, m.value) for m in history) == [(10, 1.5), (20, 0.75)]


def test_wandb_offline(start: Any, tmp_path: Path) -> None:
    needs("wandb")
    with start(0, "wandb") as loggers:
        loggers.write(record(1))
    (file,) = (tmp_path / "run_one" / "wandb").glob("offline-run-*/run-one.wandb")
    content = file.read_bytes()
    assert b"train_losses/band_gap" in content and b"batch_size" in content


def test_one_that_fails_is_left_out(
    start: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it raises, and whenever; the others go on."""

    class Bad:
        def write(self, record: dict[str, Any]) -> None:
            raise RuntimeError("no server\nand more")

        def close(self) -> None:
            raise ValueError("closed twice")

    module = ModuleType("bad")
    module.open_logger = lambda logged: Bad()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "phase2hpc.training.loggers.bad", module)
    run = LoggedRun(RunDirectory(tmp_path / "run_one"), CONFIG, 0)
    with caplog.at_level(logging.WARNING), EpochLoggers(["bad", "csv"], run) as loggers:
        loggers.write(record(1))
        loggers.write(record(2))
    assert caplog.messages == ["--log bad: no server: the run continues without it"]
    assert len((run.run.path / "history.csv").read_text().splitlines()) == 3


def test_one_that_is_not_installed(
    start: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delitem(sys.modules, "phase2hpc.training.loggers.wandb", raising=False)
    with caplog.at_level(logging.WARNING), start(0, "wandb") as loggers:
        loggers.write(record(1))
    (message,) = caplog.messages
    assert "wandb is not installed (pip install 'phase2hpc[wandb]')" in message


def test_names() -> None:
    assert RuntimeSettings().log == ("tensorboard",)
    assert RuntimeSettings(log="csv, mlflow").log == ("csv", "mlflow")
    assert RuntimeSettings(log="none").log == ()
    with pytest.raises(InputError, match="setting 'log' = 'tensorbord'"):
        build_config("cgcnn", "lite", ["band_gap"], {"log": "csv,tensorbord"})


def test_nothing_is_imported_unasked() -> None:
    program = (
        "import sys, phase2hpc.training.loop; "
        "print(*{'tensorboard', 'wandb', 'mlflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "\n", done.stderr


@pytest.mark.slow
def test_of_a_real_run(command: Any, tiny: Any, tmp_path: Path) -> None:
    code, _, err = command(
        "train", "--algorithm", "cgcnn", "--level", "lite", "--store", tiny.store, "--models-dir",
        tmp_path, "--epochs", 2, "--max-samples", 20, "--set", "hidden=16", "--log", "csv",
    )  # fmt: skip
    assert code == 0, err
    (run,) = tmp_path.glob("*/run_*")
    with (run / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    history = json.loads((run / "history.json").read_text())
    assert [float(row["train_loss"]) for row in rows] == [one["train_loss"] for one in history]
    assert not (run / "tensorboard").exists()
