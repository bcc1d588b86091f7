"""Data-parallel training: the same gradients as one process, one writer, a common end."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import Ranks, command_line, srun, torchrun
from same_run import assert_same, assert_same_run
from tiny import LITTLE

from phase2hpc.checkpointing.manager import load_newest
from phase2hpc.cluster.node import train_task as task
from phase2hpc.config.properties import resolve
from phase2hpc.config.run_config import build_config
from phase2hpc.data.store.reader import Store
from phase2hpc.errors import StoppedEarly
from phase2hpc.inference.out_of_memory import OutOfMemory
from phase2hpc.runs.lease import Lease
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.run_directory import RunDirectory, create_run
from phase2hpc.training.distributed import rendezvous
from phase2hpc.training.distributed.launch_environment import launch_environment
from phase2hpc.training.distributed.process_group import process_group
from phase2hpc.training.trainer import Trainer

RUN = Path("multitask_cgcnn_lite") / "run_one"
NOTHING_RANDOM = {"dropout": 0.0, "head_dropout": 0.0, "precision": "float64"}
# 29 crystals in batches of 7: shares of 4 and 3, and a last batch of a single crystal.
CRYSTALS, BATCH, EPOCHS = 29, 7, 2


def arguments(models: Path, store: Path, *more: object, **settings: Any) -> list[object]:
    flags = [
        f"--set={key}={_text(value)}" for key, value in {**LITTLE["cgcnn"], **settings}.items()
    ]
    where = ["--models-dir", models, "--store", store, "--run-id", "one", "--properties", "all9"]
    return ["train", "--algorithm", "cgcnn", "--level", "lite", *where, *flags, *more]


def resume(models: Path, *more: object) -> list[object]:
    where = ["--models-dir", models, "--run-id", "one", "--resume"]
    return ["train", "--algorithm", "cgcnn", "--level", "lite", *where, *more]


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


# ---- what is run in the processes --------------------------------------------------------------


def ten_steps(store: Path, algorithm: str, out: Path) -> None:
    opened = Store.open(store)
    settings = {
        **LITTLE[algorithm], **NOTHING_RANDOM,
        "max_samples": CRYSTALS, "batch_size": BATCH, "epochs": EPOCHS, "device": "cpu",
    }  # fmt: skip
    names = resolve("all9", list(opened.labels))
    config = build_config(algorithm, "lite", names, settings, seed=3)
    with process_group("cpu") as world:
        trainer = Trainer(config, opened, world)
        trainer.model.train()
        steps, seen = [], []
        for _ in range(EPOCHS):
            left = CRYSTALS
            for parts in trainer.loader.microbatches(None):
                batches = list(parts)
                for batch in batches:
                    seen += batch.index[batch.weight > 0].tolist()
                assert trainer.optimise(iter(batches), min(BATCH, left))
                left -= BATCH
                parameters = [*trainer.model.parameters(), *trainer.loss.parameters()]
                gradients = [p.grad for p in parameters if p.grad is not None]
                assert len(gradients) == len(parameters)
                steps.append(
                    {
                        "gradient": torch.cat([g.reshape(-1) for g in gradients]),
                        "state": {k: v.clone() for k, v in trainer.model.state_dict().items()},
                        "losses": trainer.loss_sums.clone(),
                        "counted": trainer.counted,
                    }
                )
        prediction = torch.from_numpy(
            trainer.infer_on_all_ranks(trainer.averaged.module, trainer.val).scaled
        )
        torch.save((steps, seen, prediction), out / f"{world.size}-{world.rank}.pt")


def disturbed(act: Callable[[], object], rank: int | None, step: int, *words: object) -> None:
    """The command line; after its optimiser step number ``step``, ``rank`` (None: each) acts."""
    original = Trainer.optimise

    def optimise(self: Trainer, *args: Any) -> bool:
        good = original(self, *args)
        if self.step == step and rank in (None, self.world.rank):
            act()
        return good

    Trainer.optimise = optimise  # type: ignore[method-assign]
    command_line(*words)


def disturbed_validation(rank: int, *words: object) -> None:
    original = Trainer.infer_on_all_ranks

    def predict(self: Trainer, model: Any, indices: Any, before_each: Any = None) -> Any:
        def asked(done: int) -> None:
            if self.world.rank == rank:
                signal.raise_signal(signal.SIGTERM)
            before_each(done)

        return original(self, model, indices, asked)

    Trainer.infer_on_all_ranks = predict  # type: ignore[method-assign]
    command_line(*words)


def sigterm() -> None:
    signal.raise_signal(signal.SIGTERM)


def interrupted_twice() -> None:
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def out_of_memory() -> None:
    raise OutOfMemory("out of memory on a batch of 9 crystals")


def full_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "checkpoint.pt")


def bug() -> None:
    raise ZeroDivisionError("something unforeseen")


def on_a_node(variables: Mapping[str, str], *words: object) -> None:
    """What submitit calls in each task of a job."""
    os.environ.update(variables)
    task.run_training(*words)  # type: ignore[arg-type]


def hasty(act: Callable[..., None], seconds: float, *words: object) -> None:
    rendezvous.RENDEZVOUS_SECONDS = seconds
    act(*words)


# ---- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", LITTLE)
def test_each_step_is_the_step_of_one_process(algorithm, tiny, tmp_path) -> None:
    ten_steps(tiny.store, algorithm, tmp_path)
    reference, crystals, predicted = torch.load(tmp_path / "1-0.pt")
    assert len(reference) == 10
    results = []
    for size in (2, 3):
        with Ranks(size, tmp_path / "log", ten_steps, tiny.store, algorithm, tmp_path) as ranks:
            assert ranks.codes() == [0] * size, ranks.text()
        shares = [torch.load(tmp_path / f"{size}-{rank}.pt") for rank in range(size)]
        # Each crystal once an epoch.
        assert sorted(i for _, seen, _ in shares for i in seen) == sorted(crystals)
        results += shares
        for steps, *_ in shares:
            assert_same(steps, shares[0][0])
    for steps, _, prediction in results:
        torch.testing.assert_close(prediction, predicted, rtol=1e-9, atol=1e-9)
        for step, mine in zip(reference, steps, strict=True):
            torch.testing.assert_close(mine["gradient"], step["gradient"], rtol=0, atol=1e-10)
            torch.testing.assert_close(mine["losses"], step["losses"], rtol=0, atol=1e-10)
            for name, value in step["state"].items():
                torch.testing.assert_close(mine["state"][name], value, rtol=0, atol=1e-9)
            assert mine["counted"] == step["counted"]
    assert len(set(crystals)) == CRYSTALS


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory) -> Ranks:
    """A finished run of two processes, with everything random on; its models folder beside it."""
    folder = tmp_path_factory.mktemp("whole")
    with Ranks(2, folder / "log", command_line, *arguments(folder, tiny.store)) as ranks:
        assert ranks.codes() == [0, 0], ranks.text()
    return ranks


def test_a_run_is_that_of_one_process_and_written_once(train_tiny, tiny, tmp_path) -> None:
    with Ranks(
        2, tmp_path / "log", command_line, *arguments(tmp_path, tiny.store, **NOTHING_RANDOM),
        launcher=srun,
    ) as ranks:  # fmt: skip
        assert ranks.codes() == [0, 0], ranks.text()
    reference = train_tiny(tmp_path / "alone", properties="all9", **NOTHING_RANDOM)
    run = RunDirectory(tmp_path / RUN)
    mine, theirs = load_newest(run), load_newest(reference)
    assert mine is not None and theirs is not None and mine[1] == theirs[1]
    assert len(mine[0]["rng"]) == 2
    for group in ("model", "averaged", "loss"):
        for name, value in theirs[0][group].items():
            torch.testing.assert_close(mine[0][group][name], value, rtol=0, atol=1e-9)
    for file in ("history.json", "metrics.json"):
        assert_close(*(json.loads((r.path / file).read_text()) for r in (run, reference)))
    ids = [[line.split(",")[0] for line in (r.path / "predictions_test.csv").open()]
           for r in (run, reference)]  # fmt: skip
    assert ids[0] == ids[1]
    manifest = run.read_manifest()
    assert (manifest.state, manifest.processes) == ("finished", 2)
    # The command line writes a report, the function that made the reference does not.
    assert {p.name for p in run.path.iterdir()} - {"report.html"} == {
        p.name for p in reference.path.iterdir()
    }
    assert len(list(run.tensorboard.iterdir())) == 1
    told = [line for line in ranks.lines() if line.startswith(("epoch", "run ", "val:", "test:"))]
    assert len(told) == len(set(told)) == 3 + 1 + 2
    assert sum(line.startswith("results:") for line in ranks.lines()) == 1


def assert_close(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a.keys() - {"seconds", "crystals_per_second"}:
            assert_close(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_close(x, y)
    else:
        assert a == b or a == pytest.approx(b, rel=1e-9, abs=1e-9)


# ---- stop and go on ----------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, None])
def test_all_stop_at_one_step_and_go_on_exactly(rank, whole, tiny, tmp_path) -> None:
    log, words = tmp_path / "log", arguments(tmp_path, tiny.store)
    with Ranks(2, log, disturbed, sigterm, rank, 7, *words) as ranks:
        assert ranks.codes() == [75, 75], ranks.text()
    # Asked for after a step, it is told along with the next one.
    ends = [line for line in ranks.lines() if "state saved" in line]
    assert ends == ["phase2hpc: SIGTERM: state saved at step 8 of 15"]
    manifest = RunDirectory(tmp_path / RUN).read_manifest()
    assert (manifest.state, manifest.step) == ("stopped", 8)
    with Ranks(2, tmp_path / "more", command_line, *resume(tmp_path), launcher=srun) as ranks:
        assert ranks.codes() == [0, 0], ranks.text()
    assert sum("resuming from step 8 of 15" in line for line in ranks.lines()) == 1
    assert "not identical bit by bit" not in ranks.text()
    assert_same_run(RunDirectory(tmp_path / RUN), RunDirectory(whole.log.parent / RUN))


def test_a_signal_to_one_in_the_validation_stops_all(whole, tiny, tmp_path) -> None:
    log, words = tmp_path / "log", arguments(tmp_path, tiny.store)
    with Ranks(2, log, disturbed_validation, 1, *words) as ranks:
        assert ranks.codes() == [75, 75], ranks.text()
    assert ranks.lines()[-1] == "phase2hpc: SIGTERM: state saved at step 5 of 15"
    with Ranks(2, tmp_path / "more", command_line, *resume(tmp_path)) as ranks:
        assert ranks.codes() == [0, 0], ranks.text()
    assert_same_run(RunDirectory(tmp_path / RUN), RunDirectory(whole.log.parent / RUN))


def test_the_time_limit_stops_all(tiny, tmp_path) -> None:
    words = arguments(tmp_path, tiny.store, "--max-hours", "1e-6")
    with Ranks(2, tmp_path / "log", command_line, *words) as ranks:
        assert ranks.codes() == [75, 75], ranks.text()
    ends = [line for line in ranks.lines() if line.startswith("phase2hpc:")]
    assert len(ends) == 1 and ends[0].startswith("phase2hpc: --max-hours reached (0:00:00): state")


@pytest.mark.parametrize(
    ("settings", "ends_soon", "code", "words"),
    [
        ({"max_hours": 1e-6}, False, task.MAX_HOURS_EXIT_CODE, "(by --max-hours: not requeued)"),
        ({"epochs": 100_000}, True, 75, "state saved at step"),
        ({"store": Path("gone.h5")}, False, 2, "gone.h5"),
    ],
)
def test_tasks_of_a_job_end_with_one_code(settings, ends_soon, code, words, tiny, tmp_path) -> None:
    """The highest of theirs is the job step's, and says whether the job is requeued."""
    chosen = {**LITTLE["cgcnn"], "store": tiny.store, "models_dir": tmp_path, **settings}
    config = build_config("cgcnn", "lite", ["band_gap"], chosen)
    run = create_run(tmp_path, RUN.parts[0], "one")
    run.write_config(config)
    manifest = Manifest.for_run(run, config, tiny.store, None)
    manifest.state = "submitted"
    run.write_manifest(manifest)
    hours = 2 / 3600 if ends_soon else 1.0
    with Ranks(2, tmp_path / "log", on_a_node, {}, str(run.path), hours, 2) as ranks:
        assert ranks.codes() == [code, code], ranks.text()
    told = [line for line in ranks.lines() if line.startswith("phase2hpc: ")]
    assert len(told) == 1 and words in told[0], ranks.text()
    assert run.read_manifest().state == ("failed" if code == 2 else "stopped")


def test_other_numbers_of_processes_go_on(train_tiny, tiny, tmp_path) -> None:
    """Without anything random they also come to the same."""
    settings = {**NOTHING_RANDOM, "epochs": 2}
    reference = train_tiny(tmp_path / "alone", properties="all9", **settings)
    with pytest.raises(StoppedEarly):
        train_tiny(tmp_path, properties="all9", max_hours=1e-6, **settings)
    said = "processes {} -> {}: same weights and crystals, but the result is not identical"
    on = resume(tmp_path, "--max-hours", "1")
    for size, before, step in ((3, 1, 4), (2, 3, None)):
        act = (disturbed, sigterm, 1, step) if step else (command_line,)
        with Ranks(size, tmp_path / f"log{size}", *act, *on) as ranks:
            assert ranks.codes() == ([75] * 3 if step else [0, 0]), ranks.text()
        assert sum(said.format(before, size) in line for line in ranks.lines()) == 1, ranks.text()
    run = RunDirectory(tmp_path / RUN)
    assert run.read_manifest().processes == 2
    assert_close(*(json.loads(r.history.read_text()) for r in (run, reference)))
    assert_close(*(json.loads(r.metrics_json.read_text()) for r in (run, reference)))


# ---- ends ----------------------------------------------------------------------------------------


def taken(models: Path) -> Lease:
    run = RunDirectory(models / RUN)
    run.path.mkdir(parents=True)
    return Lease.acquire(run)


def test_input_errors_end_all_with_one_line(train_tiny, tiny, tmp_path) -> None:
    train_tiny(tmp_path / "there", properties="all9", epochs=1)
    held = taken(tmp_path / "held")
    broken = tmp_path / "broken.h5"
    broken.write_bytes(tiny.store.read_bytes()[:5000])
    none = tmp_path / "none"
    cases = {
        "broken.h5": arguments(none, broken),
        "unknown property 'bandgap'": arguments(
            tmp_path / "a", tiny.store, "--properties", "bandgap"
        ),
        "is being trained by": arguments(tmp_path / "held", tiny.store),
        "other settings": resume(tmp_path / "there", "--lr", "0.5"),
        "--max-edges: cgcnn normalises": arguments(none, tiny.store, max_edges=400),
    }
    for words, case in cases.items():
        with Ranks(2, tmp_path / "log", command_line, *case) as ranks:
            assert ranks.codes() == [2, 2], ranks.text()
        errors = [line for line in ranks.lines() if not line.startswith("run one is held")]
        assert len(errors) == 1 and words in errors[0], (words, ranks.text())
    held.release()
    assert not none.exists() or not list(none.glob("*/*"))


@pytest.mark.parametrize(
    ("act", "rank", "code", "words", "state"),
    [
        (killed, 1, 1, "rank 1 of 2", "failed"),
        (full_disk, 0, 1, "checkpoint.pt: no space left on device", "failed"),
        (out_of_memory, 1, 1, "out of memory on a batch of 9 crystals", "failed"),
        (bug, 1, 1, "ZeroDivisionError: something unforeseen", "failed"),
        (interrupted_twice, 1, 130, "interrupted", "stopped"),
    ],
)
def test_one_that_fails_ends_the_others(act, rank, code, words, state, tiny, tmp_path) -> None:
    log = tmp_path / "log"
    with Ranks(2, log, disturbed, act, rank, 2, *arguments(tmp_path, tiny.store)) as ranks:
        codes = ranks.codes(30)
    assert codes[1 - rank] == code
    assert codes[rank] == (-signal.SIGKILL if act is killed else code), ranks.text()
    said = [line for line in ranks.lines() if not line.startswith("run one in")]
    if act is bug:
        assert said[0].startswith("Traceback") and said.count(words) == 1, ranks.text()
        assert sum(line.startswith("Traceback") for line in said) == 1, ranks.text()
    else:
        assert len(said) == 1 and words in said[0], ranks.text()
    manifest = RunDirectory(tmp_path / RUN).read_manifest()
    assert manifest.state == state and words.split(": ")[-1] in manifest.message.lower()


def test_after_the_main_one_was_killed_they_go_on(whole, tiny, tmp_path) -> None:
    words = arguments(tmp_path, tiny.store, checkpoint_steps=2)
    with Ranks(2, tmp_path / "log", disturbed, killed, 0, 7, *words) as ranks:
        assert ranks.codes(30) == [-signal.SIGKILL, 1], ranks.text()
    assert sum("phase2hpc: rank 0 of 2" in line for line in ranks.lines()) == 1, ranks.text()
    with Ranks(2, tmp_path / "more", command_line, *resume(tmp_path)) as ranks:
        assert ranks.codes() == [0, 0], ranks.text()
    assert "resuming from step 6 of 15" in ranks.text()
    assert_same_run(RunDirectory(tmp_path / RUN), RunDirectory(whole.log.parent / RUN))


# ---- how they find each other --------------------------------------------------------------------


def test_one_that_never_comes_is_named(tiny, tmp_path) -> None:
    def three_of(rank: int, size: int, number: int) -> Mapping[str, str]:
        return torchrun(rank, 3, number)

    words = arguments(tmp_path, tiny.store)
    with Ranks(2, tmp_path / "log", hasty, command_line, 1.0, *words, launcher=three_of) as ranks:
        assert ranks.codes() == [1, 1], ranks.text()
    assert any(
        line.endswith("did not connect within 1 s: rank 2; look at their logs")
        for line in ranks.lines()
    ), ranks.text()


def test_ports_that_others_have_are_passed_over(tiny, tmp_path) -> None:
    """Here one that accepts and says nothing."""
    number = 123
    place = launch_environment(torchrun(0, 2, number))
    assert place is not None
    first = rendezvous.FIRST_PORT + zlib.crc32(place.key.encode()) % rendezvous.PORTS
    words = arguments(tmp_path, tiny.store, epochs=1)
    with (
        socket.create_server(("", first), backlog=16),
        Ranks(
            2, tmp_path / "log", command_line, *words,
            launcher=lambda rank, size, _: torchrun(rank, size, number),
        ) as ranks,
    ):  # fmt: skip
        assert ranks.codes() == [0, 0], ranks.text()
