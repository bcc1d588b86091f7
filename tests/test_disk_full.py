"""Disks without room, on real small ones: one line, the last good state intact, and on with room.

Mounting takes root; elsewhere only what needs no disk of its own is tested.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import LITTLE, Tiny

from phase2hpc.checkpointing.manager import load_best
from phase2hpc.config.run_config import build_config
from phase2hpc.data.store.verify import verify_store
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.training.loggers.epoch_logger import EpochLoggers, LoggedRun
from phase2hpc.utils.package_files import shared_path

Command = Callable[..., tuple[int, str, str]]
PROGRAM = (sys.executable, "-m", "phase2hpc.cli.main")
EXAMPLE = shared_path("data/examples") / "C-diamond.cif"
CONFIG = build_config("cgcnn", "lite", ["band_gap"])
RECORD = {
    "step": 5, "train_loss": 1.0, "val_score": 2.0, "lr": 1e-3, "crystals_per_second": 9.0,
    "train_losses": {"band_gap": 0.5, "bulk_modulus": None}, "val_mae": {"band_gap": 0.25},
}  # fmt: skip


class Disk:
    """A tmpfs of its own; sizes in kilobytes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def size(self, kilobytes: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", self.path], check=True)

    def read_only(self) -> None:
        subprocess.run(["mount", "-o", "remount,ro", self.path], check=True)

    def fill(self) -> None:
        """Leave no room at all."""
        left = shutil.disk_usage(self.path).free
        (self.path / "filler").write_bytes(bytes(left))

    def free(self) -> None:
        (self.path / "filler").unlink()

    def files(self) -> set[str]:
        return {str(p.relative_to(self.path)) for p in self.path.rglob("*") if p.is_file()}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(path)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted ({done.stderr.strip()}); it takes root")
    yield Disk(path)
    subprocess.run(["umount", "-l", path], check=True)


def is_one_line(text: str, *parts: str) -> bool:
    return text.count("\n") == 1 and all(part in text for part in ("phase2hpc: ", *parts))


def program(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)], text=True, stdin=subprocess.DEVNULL, timeout=120,
        check=False, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


# From no room for anything to room for all but the last bytes; the store takes about 100 kB.
@pytest.mark.parametrize("kilobytes", [4, 60])
def test_prepare(disk: Disk, tiny: Tiny, command: Command, kilobytes: int) -> None:
    store = disk.path / "s.h5"
    disk.size(kilobytes)
    # A process of its own: HDF5 crashes at its end if it has seen a write fail.
    done = program("prepare", tiny.source, "--store", store, "--workers", 1)
    assert done.returncode == 1
    assert is_one_line(done.stderr, str(store), "no space left on device", "make room")
    assert disk.files() == set()
    disk.size(16_000)
    assert command("prepare", tiny.source, "--store", store, "--workers", 1)[0] == 0
    assert verify_store(store).ok


def test_an_old_store_stays(disk: Disk, tiny: Tiny, command: Command) -> None:
    store = disk.path / "s.h5"
    shutil.copy(tiny.store, store)
    disk.fill()
    code, _, err = command(
        "prepare", tiny.source, "--store", store, "--cutoff", 4, "--overwrite", "--workers", 1
    )
    assert code == 1 and is_one_line(err, "the existing one is unchanged")
    assert store.read_bytes() == tiny.store.read_bytes()
    assert disk.files() == {"s.h5", "filler"}


def test_merge(disk: Disk, tiny: Tiny, tmp_path: Path, command: Command) -> None:
    stores = []
    for number in range(2):
        source = tmp_path / f"{number}.jsonl"
        records = tiny.records[number::2]
        source.write_text("".join(json.dumps(record) + "\n" for record in records))
        stores.append(tmp_path / f"{number}.h5")
        assert command("prepare", source, "--store", stores[-1], "--workers", 1)[0] == 0
    merge = ("store", "merge", *stores, "--store", disk.path / "m.h5")
    disk.size(60)
    code, _, err = command(*merge)
    assert code == 1 and is_one_line(err, "m.h5", "no space left on device")
    assert disk.files() == set()
    disk.size(16_000)
    assert command(*merge)[0] == 0


def results(run: RunDirectory) -> dict[str, Any]:
    history = json.loads(run.history.read_text())
    for record in history:
        del record["seconds"], record["crystals_per_second"]
    weights = load_best(run.best)["weights"]
    return {
        "history": history,
        "weights": {name: value.numpy().tobytes() for name, value in weights.items()},
        "metrics": run.metrics_json.read_text(),
        "predictions": run.predictions_val.read_text() + run.predictions_test.read_text(),
    }


@pytest.fixture(scope="module")
def undisturbed(
    train_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    return results(train_tiny(tmp_path_factory.mktemp("undisturbed"), checkpoint_steps=2))


# A full state takes about 200 kB: no room for the first, for the third, for one after best.pt.
@pytest.mark.parametrize("kilobytes", [40, 480, 620])
def test_training(
    disk: Disk, tiny: Tiny, command: Command, undisturbed: dict[str, Any], kilobytes: int
) -> None:
    train = ("train", "--algorithm", "cgcnn", "--level", "lite", "--models-dir", disk.path)
    own = {"batch_size", "epochs", "lr", "max_samples"}
    settings: list[str] = []
    for key, value in LITTLE["cgcnn"].items():
        flag = [f"--{key.replace('_', '-')}", str(value)]
        settings += flag if key in own else ["--set", f"{key}={value}"]
    disk.size(kilobytes)
    code, _, err = command(
        *train, "--store", tiny.store, "--properties", "core4", "--run-id", "one",
        "--checkpoint-steps", 2, *settings,
    )  # fmt: skip
    assert code == 1
    assert is_one_line(err.splitlines(keepends=True)[-1], "checkpoint.pt", "--resume")
    assert "Traceback" not in err
    run = RunDirectory(disk.path / "multitask_cgcnn_lite" / "run_one")
    assert run.checkpoint.exists() == (kilobytes > 40)
    assert run.best.exists() == (kilobytes > 600)
    assert command("runs", "list", "--models-dir", disk.path)[0] == 0
    disk.size(16_000)
    assert command(*train, "--resume")[0] == 0
    assert results(run) == undisturbed
    assert not any(name.endswith(".partial") for name in disk.files())


def test_results_of_a_run(
    disk: Disk, train_tiny: Callable[..., Any], command: Command, undisturbed: dict[str, Any]
) -> None:
    run = train_tiny(disk.path, checkpoint_steps=2)
    for path in (run.metrics_json, run.metrics_csv, run.predictions_val, run.predictions_test):
        path.unlink()
    run.update_manifest(state="stopped")
    state = run.checkpoint.read_bytes()
    disk.fill()
    resume = ("train", "--algorithm", "cgcnn", "--level", "lite", "--models-dir", disk.path,
              "--resume")  # fmt: skip
    code, _, err = command(*resume)
    assert code == 1 and "Traceback" not in err
    assert "space left on device" in err.splitlines()[-1]
    assert run.checkpoint.read_bytes() == state
    disk.free()
    assert command(*resume)[0] == 0
    assert results(run) == undisturbed


def test_scalars_are_given_up_once(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    disk.size(8)
    logged = LoggedRun(RunDirectory(disk.path), CONFIG, 0)
    with EpochLoggers(["tensorboard"], logged) as scalars:
        disk.fill()
        with caplog.at_level(logging.WARNING):
            for step in range(200):
                scalars.write({**RECORD, "step": step})
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "--log tensorboard: " in caplog.text and "No space left" in caplog.text


def test_scalars_without_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    logged = LoggedRun(RunDirectory(tmp_path), CONFIG, 0)
    with EpochLoggers(["tensorboard"], logged) as scalars:
        scalars.write(RECORD)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_predictions(
    disk: Disk, trained: dict[str, RunDirectory], command: Command, suffix: str
) -> None:
    output = disk.path / f"preds.{suffix}"
    output.write_text("of before")
    disk.fill()
    predict = ("predict", "--cif", EXAMPLE, "--run", trained["cgcnn"].path, "--output", output)
    code, _, err = command(*predict)
    assert code == 1
    assert is_one_line(err, str(output), "no space left on device")
    unfinished = f"{output.name}.unfinished"
    assert output.read_text() == "of before"
    files = {name for name in disk.files() if not name.startswith(unfinished)}
    assert files == {output.name, "filler"}
    disk.free()
    assert command(*predict)[0] == 0 and "C" in output.read_text()
    assert not (disk.path / unfinished).exists()


@pytest.mark.parametrize("is_there", [False, True])
def test_export(
    disk: Disk, trained: dict[str, RunDirectory], command: Command, is_there: bool
) -> None:
    folder = disk.path / "given"
    if is_there:
        folder.mkdir()
    disk.size(20)
    export = ("export", trained["cgcnn"].path, folder)
    code, _, err = command(*export)
    assert code == 1 and is_one_line(err, str(folder), "no space left on device", "was removed")
    assert disk.files() == set() and folder.exists() == is_there
    disk.size(16_000)
    assert command(*export)[0] == 0
    assert command("predict", "--cif", EXAMPLE, "--run", folder)[0] == 0


def test_a_disk_that_can_only_be_read(
    disk: Disk, tiny: Tiny, trained: dict[str, RunDirectory], command: Command
) -> None:
    run = trained["cgcnn"].path
    disk.read_only()
    for arguments in (
        ("prepare", tiny.source, "--store", disk.path / "s.h5", "--workers", 1),
        ("predict", "--cif", EXAMPLE, "--run", run, "--output", disk.path / "p.csv"),
        ("export", run, disk.path / "given"),
    ):
        code, _, err = command(*arguments)
        assert code == 2 and is_one_line(err, str(disk.path), "read-only", "another place")
    assert command("runs", "list", "--models-dir", disk.path)[0] == 0


def test_output_without_room() -> None:
    with open("/dev/full", "w") as full:
        done = program("levels", stdout=full)
        assert done.returncode == 1
        assert is_one_line(done.stderr, "the output cannot be written", "no space left")
        message_lost = subprocess.run([*PROGRAM, "store", "info", "no.h5"], stderr=full, timeout=60)
    assert message_lost.returncode == 2


def test_output_that_nobody_reads() -> None:
    levels = subprocess.Popen(
        [*PROGRAM, "levels", "--settings"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert levels.stdout is not None and levels.stderr is not None
    levels.stdout.close()
    with levels.stderr as stderr:
        assert stderr.read() == b""
    assert levels.wait(60) == 1
