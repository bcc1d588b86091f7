"""Resume is exact: stopped after any step, by any means, a run ends as one that never stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paused import PausePoint
from same_run import assert_same_run, disturb

from phase2hpc.checkpointing.file_format import read_step
from phase2hpc.cli.command_line import command_line
from phase2hpc.cli.main import app
from phase2hpc.cluster.monitor.scheduler import SlurmScheduler
from phase2hpc.config.run_config import build_config
from phase2hpc.data.prepare import prepare_store
from phase2hpc.errors import InputError, StoppedEarly
from phase2hpc.runs.lease import LeaseLost
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.runs.state import status_of
from phase2hpc.training import loop
from phase2hpc.training.trainer import Trainer

STEPS_AN_EPOCH = 5
STEPS = 3 * STEPS_AN_EPOCH


def interrupt(monkeypatch, when: Callable[[Trainer], bool], method: str, act) -> None:
    """Do ``act`` after the trainer's ``method`` where ``when`` is true of it."""
    owner = Trainer if hasattr(Trainer, method) else loop.TrainingLoop
    original = getattr(owner, method)

    def wrapped(self, *args):
        result = original(self, *args)
        if when(self if owner is Trainer else self.trainer):
            act()
        return result

    monkeypatch.setattr(owner, method, wrapped)


# ---- stopped at every kind of boundary -------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["e3nn", "cgcnn"])
@pytest.mark.parametrize(
    ("method", "step"),
    [
        ("optimise", 1),
        ("optimise", STEPS_AN_EPOCH),  # last of an epoch: it stops in the validation
        ("optimise", STEPS_AN_EPOCH + 2),
        ("_end_epoch", 2 * STEPS_AN_EPOCH),
        ("optimise", STEPS),
    ],
)
def test_stopping_at_a_step_changes_nothing(
    algorithm, method, step, train_tiny, trained, tmp_path, monkeypatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt(
            patch, lambda t: t.step == step, method, lambda: signal.raise_signal(signal.SIGUSR2)
        )
        with pytest.raises(StoppedEarly, match=f"SIGUSR2.*step {step} of {STEPS}"):
            train_tiny(tmp_path, algorithm, properties="all9")
    reference = trained[algorithm]
    run = RunDirectory(tmp_path / reference.family / "run_one")
    manifest = run.read_manifest()
    epochs = step // STEPS_AN_EPOCH - (method == "optimise" and step % STEPS_AN_EPOCH == 0)
    assert (manifest.state, manifest.step, manifest.epoch) == ("stopped", step, epochs)
    assert read_step(run.checkpoint) == step and not run.metrics_json.exists()
    disturb()
    assert train_tiny(tmp_path, algorithm, resume=True, properties=None, run_id=None) == run
    assert_same_run(run, reference)


@pytest.mark.parametrize("algorithm", ["e3nn", "cgcnn"])
def test_stopping_again_and_again_changes_nothing(
    algorithm, train_tiny, trained, tmp_path, monkeypatch
) -> None:
    interrupt(
        monkeypatch, lambda t: t.step % 4 == 1, "optimise",
        lambda: signal.raise_signal(signal.SIGTERM),
    )  # fmt: skip
    stops, resume = 0, False
    while True:
        try:
            run = train_tiny(tmp_path, algorithm, properties="all9", resume=resume)
            break
        except StoppedEarly:
            stops, resume = stops + 1, True
            disturb()
    assert stops == 4
    assert_same_run(run, trained[algorithm])


class Crash(Exception):
    """The machine dies here."""


def crash() -> None:
    raise Crash


@pytest.mark.parametrize("method", ["optimise", "_end_epoch"])
def test_a_crash_falls_back_to_the_last_checkpoint(
    method, train_tiny, trained, tmp_path, monkeypatch
) -> None:
    """Behind it best.pt, TensorBoard and history may be ahead of the state that is resumed."""
    with monkeypatch.context() as patch:
        interrupt(patch, lambda t: t.step == 10, method, crash)
        with pytest.raises(Crash):
            train_tiny(tmp_path, properties="all9", checkpoint_steps=3)
    run = RunDirectory(tmp_path / "multitask_cgcnn_lite" / "run_one")
    assert read_step(run.checkpoint) == 9
    assert run.read_manifest().state == "failed" and "Crash" in run.read_manifest().message
    disturb()
    train_tiny(tmp_path, resume=True, properties=None)
    assert_same_run(run, trained["cgcnn"])


@pytest.mark.parametrize("saved", [True, False])
def test_a_crash_in_the_first_epoch_begins_again(
    saved, train_tiny, trained, tmp_path, monkeypatch, capsys
) -> None:
    """With the weights it was to start from, before its first save too."""
    source = trained["cgcnn"]
    reference = train_tiny(tmp_path / "a", init_from=source)
    with monkeypatch.context() as patch:
        interrupt(patch, lambda t: t.step == 5, "_end_epoch", crash)
        with pytest.raises(Crash):
            train_tiny(tmp_path / "b", init_from=source)
    disturb()
    if not saved:
        (tmp_path / "b" / reference.family / reference.path.name / "checkpoint.pt").unlink()
    run = train_tiny(tmp_path / "b", resume=True)
    said = "resuming from step 0 of 15" if saved else "starts from the beginning"
    assert said in capsys.readouterr().out
    assert_same_run(run, reference)
    assert len(scalar(run, "val_score")) == 3


def scalar(run: RunDirectory, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.tensorboard))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_scalars_are_not_written_twice(train_tiny, trained, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, lambda t: t.step == 10, "_end_epoch", crash)
        with pytest.raises(Crash):
            train_tiny(tmp_path, properties="all9", checkpoint_steps=3)
    # Event files are read in the order of their names, which begin with the second.
    time.sleep(1.1)
    run = train_tiny(tmp_path, resume=True, properties=None)
    assert scalar(run, "val_score") == scalar(trained["cgcnn"], "val_score")
    assert [step for step, _ in scalar(run, "lr")] == [5, 10, 15]


def test_a_damaged_newest_checkpoint_leaves_the_older_one(
    train_tiny, trained, tmp_path, monkeypatch, capsys
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, lambda t: t.step == 10, "optimise", crash)
        with pytest.raises(Crash):
            train_tiny(tmp_path, properties="all9", checkpoint_steps=3, keep_checkpoints=3)
    run = RunDirectory(tmp_path / "multitask_cgcnn_lite" / "run_one")
    assert [step for step, _ in run.older_checkpoints()] == [6, 5]
    data = bytearray(run.checkpoint.read_bytes())
    data[len(data) // 2] ^= 1
    run.checkpoint.write_bytes(data)
    train_tiny(tmp_path, resume=True, properties=None)
    assert "resuming from step 6 of 15 (checkpoint_6.pt)" in capsys.readouterr().out
    assert_same_run(run, trained["cgcnn"])
    assert len(run.damaged_checkpoints()) == 1


# ---- signals to a process --------------------------------------------------------------------

SIGNALS = ("SIGTERM", "SIGUSR2", "SIGINT", "SIGKILL")
LONG = 12


def arguments(models: Path, store: Path) -> list[str]:
    flags = {
        "algorithm": "cgcnn", "level": "lite", "store": store, "models-dir": models,
        "run-id": "one", "threads": 1, "epochs": LONG, "batch-size": 4, "max-samples": 60,
        "checkpoint-steps": 7,
    }  # fmt: skip
    settings = {"head_dropout": 0.2, "hidden": 16, "patience": "none"}
    return [
        sys.executable, "-m", "phase2hpc.cli.main", "train",
        *(word for key, value in flags.items() for word in (f"--{key}", str(value))),
        *(word for key, value in settings.items() for word in ("--set", f"{key}={value}")),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def signalled(tiny, tmp_path_factory) -> Iterator[dict[str, tuple[RunDirectory, Any, str, str]]]:
    """For each signal: the run, the exit code, stdout and stderr; all four at the same time."""
    processes = {}
    for name in SIGNALS:
        models = tmp_path_factory.mktemp(name)
        # In the second epoch.
        pause = PausePoint(models / "paused", "phase2hpc.training.trainer:Trainer.optimise", 20)
        process = subprocess.Popen(
            arguments(models, tiny.store), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | pause.environment,
        )  # fmt: skip
        run = RunDirectory(models / "multitask_cgcnn_lite" / "run_one")
        processes[name] = (process, pause, run)
    ended = {}
    try:
        for name, (process, pause, _) in processes.items():
            pause.wait(process)
            process.send_signal(getattr(signal, name))
        for name, (process, _, run) in processes.items():
            out, err = process.communicate(timeout=300)
            ended[name] = (run, process.returncode, out, err)
    finally:
        for process, _, _ in processes.values():
            process.kill()
    yield ended


@pytest.fixture(scope="module")
def not_signalled(tiny, tmp_path_factory) -> RunDirectory:
    """The same in this process."""
    models = tmp_path_factory.mktemp("whole")
    command_line(app)(arguments(models, tiny.store)[3:], standalone_mode=False)
    return RunDirectory(models / "multitask_cgcnn_lite" / "run_one")


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_stops_with_state_saved_and_resume_finishes(
    name, signalled, not_signalled, tiny, command
) -> None:
    run, code, _, err = signalled[name]
    before = run.read_manifest()
    if name == "SIGKILL":
        assert code == -signal.SIGKILL
        now = status_of(run, SlurmScheduler()).state
        assert (before.state, now) == ("running", "interrupted")
    else:
        assert code == 75, err
        line = err.splitlines()[-1]
        assert line.startswith(f"phase2hpc: {name}: state saved at step {before.step} of ")
        assert "Traceback" not in err and before.state == "stopped" and before.message in line
        assert read_step(run.checkpoint) == before.step == 20
    disturb()
    code, out, err = command(
        "train", "--algorithm", "cgcnn", "--level", "lite", "--models-dir", run.path.parents[1],
        "--resume",
    )  # fmt: skip
    assert code == 0 and "resuming from step" in out and f"results: {run.path}" in out, err
    assert_same_run(run, not_signalled)


# ---- when it saves and stops -----------------------------------------------------------------


def test_max_hours_stops_and_resume_goes_on(train_tiny, trained, tmp_path) -> None:
    words = r"--max-hours reached \(0:00:00\): state saved at step 1 of"
    with pytest.raises(StoppedEarly, match=words):
        train_tiny(tmp_path, properties="all9", max_hours=1e-9)
    run = train_tiny(tmp_path, properties=None, resume=True, max_hours=None)
    assert_same_run(run, trained["cgcnn"])


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, [0, 5, 10, 15]),
        ({"checkpoint_steps": 2}, [0, 2, 4, 5, 6, 8, 10, 12, 14, 15]),
        ({"checkpoint_minutes": 1e-9}, list(range(16))),
    ],
)
def test_saves_first_at_the_end_of_an_epoch_and_as_often_as_asked(
    settings, steps, train_tiny, tmp_path, monkeypatch
) -> None:
    saved: list[int] = []
    original = loop.save_checkpoint

    def record(run, state, step, keep):
        saved.append(step)
        original(run, state, step, keep)

    monkeypatch.setattr(loop, "save_checkpoint", record)
    run = train_tiny(tmp_path, keep_checkpoints=3, **settings)
    assert saved == steps
    assert [step for step, _ in run.older_checkpoints()] == steps[-2:-4:-1]


# ---- what may be resumed ---------------------------------------------------------------------


@pytest.fixture
def stopped(train_tiny, tmp_path) -> RunDirectory:
    with pytest.raises(StoppedEarly):
        train_tiny(tmp_path / "models", max_hours=1e-9)
    return RunDirectory(tmp_path / "models" / "multitask_cgcnn_lite" / "run_one")


def refused(call: Callable[[], object], *words: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_nothing_to_resume(train_tiny, tmp_path) -> None:
    refused(lambda: train_tiny(tmp_path, resume=True, run_id=None), "--resume", "no run in")
    refused(lambda: train_tiny(tmp_path, resume=True, run_id="gone"), "no run 'gone'")
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_without_checkpoints_is_not_begun_again(train_tiny, tmp_path) -> None:
    """An exported model, say: its weights must not be lost to a new beginning."""
    run = train_tiny(tmp_path, epochs=1, keep_checkpoints=1)
    run.checkpoint.unlink()
    before = run.best.read_bytes()
    refused(lambda: train_tiny(tmp_path, resume=True, epochs=2), "no checkpoint", "--init-from")
    assert run.best.read_bytes() == before and run.read_manifest().state == "finished"


def test_a_finished_run_is_said_in_one_line(trained, command) -> None:
    run = trained["cgcnn"]
    before = {p: p.read_bytes() for p in run.path.iterdir() if p.is_file()}
    code, out, err = command(
        "train", "--algorithm", "cgcnn", "--level", "lite", "--resume",
        "--models-dir", run.path.parents[1],
    )  # fmt: skip
    assert (code, err, out.count("\n")) == (0, "", 1) and "already finished" in out
    assert before == {p: p.read_bytes() for p in run.path.iterdir() if p.is_file()}


def test_a_run_that_patience_ended_goes_on_with_more(train_tiny, tmp_path, capsys) -> None:
    run = train_tiny(tmp_path, epochs=30, patience=1, lr=0.05)
    ended = run.read_manifest()
    assert ended.state == "finished" and ended.epoch < ended.epochs == 30
    capsys.readouterr()
    train_tiny(tmp_path, resume=True, accept_changes=True, weight_decay=0.1)
    assert capsys.readouterr().out.splitlines() == [
        f"run one is already finished, nothing to resume: {run.path}"
    ]
    train_tiny(tmp_path, resume=True, accept_changes=True, patience=100)
    assert "patience: 1 in the run, 100 requested" in capsys.readouterr().out
    assert run.read_manifest().epoch == 30


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"lr": 0.5}, ("lr: 0.01 in the run, 0.5 requested",)),
        (
            {"batch_size": 4, "dropout": 0.0},
            ("batch_size: 8 in the run, 4 requested", "dropout: 0.1 in the run"),
        ),
        (
            {"preset": "large"},
            ("hidden: 16 in the run, 256 requested", "layers: 2 in the run, 5 requested"),
        ),
        ({"properties": "band_gap"}, ("properties:",)),
        ({"seed": 3}, ("seed: 0 in the run, 3 requested",)),
        ({"preset": "huge"}, ("unknown preset 'huge'",)),
    ],
)
def test_other_settings_are_refused_with_the_difference(
    changed, words, stopped, train_tiny
) -> None:
    before = stopped.config.read_bytes(), stopped.manifest.read_bytes()
    models = stopped.path.parents[1]
    refused(lambda: train_tiny(models, **{"resume": True, "properties": None, **changed}), *words)
    assert before == (stopped.config.read_bytes(), stopped.manifest.read_bytes())


@pytest.mark.parametrize("with_checkpoint", [True, False])
def test_another_store_is_refused(with_checkpoint, stopped, train_tiny, tiny, tmp_path) -> None:
    source = tmp_path / "fewer.jsonl"
    source.write_text("".join(tiny.source.read_text().splitlines(keepends=True)[:-1]))
    other = tmp_path / "fewer.h5"
    prepare_store([source], other, workers=1)
    if not with_checkpoint:
        stopped.checkpoint.unlink()
    models = stopped.path.parents[1]
    refused(lambda: train_tiny(models, resume=True, store=other), "another store", "--store")


def test_runtime_settings_may_differ_and_the_folder_move(
    stopped, train_tiny, tiny, tmp_path
) -> None:
    reference = train_tiny(tmp_path / "reference")
    moved = tmp_path / "elsewhere"
    stopped.path.parents[1].rename(moved)
    copy = tmp_path / "copy.h5"
    copy.write_bytes(tiny.store.read_bytes())
    run = train_tiny(
        moved, resume=True, store=copy, device="cpu", threads=1, checkpoint_steps=1,
        checkpoint_minutes=5, keep_checkpoints=4, max_hours=3,
    )  # fmt: skip
    assert_same_run(run, reference)
    config = run.read_config().runtime
    assert (config.models_dir, config.store, config.checkpoint_steps) == (moved, copy, 1)
    assert len(run.older_checkpoints()) == 3


def test_plain_resume_takes_the_runs_own_settings(stopped, command, monkeypatch) -> None:
    """Its store too: the shipped sample's is not prepared for it."""
    monkeypatch.setenv("PHASE2HPC_CACHE", str(stopped.path / "cache"))
    before = stopped.read_config()
    code, out, err = command(
        "train", "--algorithm", "cgcnn", "--level", "lite", "--resume",
        "--models-dir", stopped.path.parents[1], "--max-hours", 5,
    )  # fmt: skip
    assert code == 0 and "preparing" not in out, err
    assert stopped.read_config().identity() == before.identity()
    assert not list(stopped.path.glob("cache/*.h5"))


def test_more_epochs_stretch_the_schedule(train_tiny, tmp_path, capsys) -> None:
    run = train_tiny(tmp_path, epochs=2, ema_decay=0.5)
    capsys.readouterr()
    train_tiny(tmp_path, resume=True, epochs=4)
    assert "epochs 2 -> 4: the learning rate schedule is stretched" in capsys.readouterr().out
    history = json.loads(run.history.read_text())
    assert [record["epoch"] for record in history] == [1, 2, 3, 4]
    assert history[2]["lr"] > history[1]["lr"]
    manifest = run.read_manifest()
    assert (manifest.state, manifest.epoch, manifest.epochs) == ("finished", 4, 4)
    assert run.read_config().training.epochs == 4


def test_fewer_epochs_than_are_done_are_refused(train_tiny, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        interrupt(
            patch, lambda t: t.step == 10, "_end_epoch",
            lambda: signal.raise_signal(signal.SIGTERM),
        )  # fmt: skip
        with pytest.raises(StoppedEarly):
            train_tiny(tmp_path)
    refused(lambda: train_tiny(tmp_path, resume=True, epochs=1), "--epochs 1", "has done 2")
    run = train_tiny(tmp_path, resume=True, epochs=2)
    assert run.read_manifest().state == "finished" and run.read_manifest().epoch == 2


HOLD = """
import sys
from pathlib import Path
from phase2hpc.runs.lease import Lease
from phase2hpc.runs.run_directory import RunDirectory
with Lease.acquire(RunDirectory(Path(sys.argv[1])), "77"):
    print("held", flush=True)
    input()
"""


def test_a_run_in_training_is_refused(stopped, train_tiny) -> None:
    """Its holder is named, and nothing of it is touched."""
    models = stopped.path.parents[1]
    before = stopped.manifest.read_bytes()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, stopped.path], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        for run_id in ("one", None):
            refused(
                lambda run_id=run_id: train_tiny(models, resume=True, run_id=run_id),
                f"process {process.pid}", "job 77",
            )  # fmt: skip
        assert stopped.manifest.read_bytes() == before
    finally:
        process.communicate("\n")
    train_tiny(models, resume=True, max_hours=None)
    assert stopped.read_manifest().pid == os.getpid()


def test_a_run_taken_over_is_not_written_any_more(train_tiny, tmp_path, monkeypatch) -> None:
    """The process that lost its lease stops before it writes."""
    interrupt(
        monkeypatch, lambda t: t.step == 7, "optimise",
        lambda: [path.unlink() for path in run.lease.iterdir()],
    )  # fmt: skip
    run = RunDirectory(tmp_path / "multitask_cgcnn_lite" / "run_one")
    with pytest.raises(LeaseLost, match="'one'"):
        train_tiny(tmp_path)
    assert read_step(run.checkpoint) == 5
    manifest = run.read_manifest()
    assert (manifest.state, manifest.step) == ("running", 5)


def test_the_newest_unfinished_run_is_taken(train_tiny, tmp_path) -> None:
    for name in ("a", "b"):
        with pytest.raises(StoppedEarly):
            train_tiny(tmp_path, run_id=name, max_hours=1e-9)
    train_tiny(tmp_path, run_id="c", epochs=1)
    resumed = [train_tiny(tmp_path, resume=True, run_id=None, max_hours=None).id for _ in range(2)]
    assert resumed == ["b", "a"]


def test_two_settings_alone_may_change() -> None:
    """What counts as the same run: all model and training settings but these."""
    from phase2hpc.training.resume_config import MAY_CHANGE_ON_RESUME

    identity = build_config("e3nn", "std", ["band_gap"]).identity()
    assert identity.keys() >= MAY_CHANGE_ON_RESUME == {"epochs", "max_edges"}
