"""Files that are broken, odd or hostile: one row each, with the true cause, in bounded time.

The corpus lies in hostile/, with what must come of each file in its expected.csv; what cannot be
committed (huge files, links, pipes) is made here.
"""

from __future__ import annotations

import csv
import gzip
import os
import random
import shutil
import socket
import time
import warnings
from pathlib import Path

import pytest
from paths import EXAMPLES

from phase2hpc.data.convert import Rejection, graphs_of
from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.graph import GraphSettings
from phase2hpc.data.prepare import prepare_store
from phase2hpc.data.readers import structure_files
from phase2hpc.data.readers.cif.structures import structures_in_cif
from phase2hpc.data.readers.cif.syntax import MAX_BYTES
from phase2hpc.data.readers.poscar import structures_in_poscar
from phase2hpc.data.readers.registry import read
from phase2hpc.utils.sandbox import sandboxed_map
from phase2hpc.utils.worker_pool import Worker

HOSTILE = Path(__file__).parent / "hostile"
EXAMPLE_FILES = sorted(EXAMPLES.glob("*.cif"))
GOOD = (HOSTILE / "ok-bom.cif").read_text(encoding="utf-8-sig")
CELL = GOOD[: GOOD.index("_symmetry")]
LOOP = GOOD[GOOD.index("loop_") : GOOD.index("Na1")]

with (HOSTILE / "expected.csv").open(newline="") as _table:
    EXPECTED = list(csv.DictReader(_table))


def outcomes(items) -> list[tuple[str, str]]:
    """Status and reason of each, as ``predict`` has them."""
    rows = []
    for item, result in zip(items, graphs_of(items, GraphSettings()), strict=True):
        if not isinstance(result, Rejection):
            rows.append(("ok", ""))
        else:
            rows.append(
                ("failed" if isinstance(item, UnreadableRecord) else "rejected", result.reason)
            )
    return rows


def read_folder(folder: Path):
    return list(read(folder, id_prop=False))


def test_the_corpus_file_by_file(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        items = read_folder(HOSTILE)
        rows = outcomes(items)
    assert len(rows) == len(EXPECTED) > 100
    wrong = []
    for item, (status, reason), expected in zip(items, rows, EXPECTED, strict=True):
        assert Path(item.input.split("#")[0]).name == expected["file"]
        if status != expected["status"] or expected["reason"] not in reason:
            wrong.append((expected["file"], status, reason))
        assert reason.isprintable() and len(reason) < 250 and (reason == "" or ": " in reason)
    assert not wrong
    assert not list(tmp_path.iterdir())  # no code in a file was run


def test_predict_has_a_row_for_each(trained, command, tmp_path) -> None:
    output, run = tmp_path / "x.csv", trained["cgcnn"].path
    code, _, err = command("predict", "--dir", HOSTILE, "--run", run, "--output", output)
    assert code == 0 and "Traceback" not in err
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == [row["status"] for row in EXPECTED]


def test_prepare_keeps_the_good_ones_among_them(tmp_path) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(HOSTILE, folder)
    for path in EXAMPLE_FILES:
        shutil.copy(path, folder)
    summary = prepare_store([folder], tmp_path / "s.h5", split="random", workers=1)
    good = sum(row["status"] == "ok" for row in EXPECTED)
    assert summary.kept == good + len(EXAMPLE_FILES)
    assert summary.read == len(EXPECTED) + len(EXAMPLE_FILES)


def special_files(folder: Path) -> dict[str, str]:
    """Things with a structure file's name that no file can be committed for; their reasons."""
    folder.mkdir()
    (folder / "folder.cif").mkdir()
    os.mkfifo(folder / "pipe.cif")
    listener = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(folder)  # a socket's path has little room
    listener.bind("socket.cif")
    os.chdir(here)
    listener.close()
    (folder / "zero.cif").symlink_to("/dev/zero")
    (folder / "loop.cif").symlink_to("loop.cif")
    (folder / "dangling.cif").symlink_to("nowhere.cif")
    with (folder / "huge.cif").open("wb") as file:
        file.truncate(2**41)
    bomb = gzip.compress(b"#" * (MAX_BYTES + 2), 1)
    (folder / "bomb.cif.gz").write_bytes(bomb)
    (folder / "very-long-line.cif").write_text(f"{CELL}_x '{'y' * 2**20}'\n{LOOP}Na Na 0 0 0 1\n")
    (folder / "rows.cif").write_text(CELL + LOOP + "Na Na 0 0 0 1\n" * 300_000)
    (folder / "blocks.cif").write_text("".join(f"data_{i}\n" for i in range(500_000)))
    (folder / "operations.cif").write_text(
        CELL
        + "loop_\n_symmetry_equiv_pos_as_xyz\n"
        + "x,y,z\n" * 100_000
        + LOOP
        + "Na Na 0 0 0 1\n"
    )
    (folder / "formula.cif").write_text(
        GOOD + "_chemical_formula_sum '" + "Na1 Cl1 " * 100_000 + "'\n"
    )
    (folder / "zz-good.cif").write_text(GOOD)
    return {
        "folder.cif": "not a file: it is a folder",
        "pipe.cif": "not a file: it is a named pipe",
        "socket.cif": "not a file: it is a socket",
        "zero.cif": "not a file: it is a device",
        "loop.cif": "a symbolic link that leads to itself",
        "dangling.cif": "a symbolic link to nowhere.cif, which is not there",
        "huge.cif": "file too large: 2097152.0 MiB, at most 32",
        "bomb.cif.gz": "file too large: more than 32 MiB",
        "very-long-line.cif": "",
        "rows.cif": "too many atoms: 300000 sites",
        "blocks.cif": "too many blocks: 500000, at most 10000",
        "operations.cif": "too many symmetry operations: 100000",
        "formula.cif": "",
        "zz-good.cif": "",
    }


def test_no_file_at_all_huge_or_a_bomb(tmp_path) -> None:
    expected = special_files(tmp_path / "in")
    begin = time.process_time()
    items = read_folder(tmp_path / "in")
    assert [Path(item.input).name for item in items] == sorted(expected)
    for item in items:
        reason = expected[Path(item.input).name]
        if reason:
            assert isinstance(item, UnreadableRecord) and reason in item.reason, item
        else:
            assert isinstance(item, RawCrystal), item
    assert time.process_time() - begin < 10


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path) -> None:
    for name in ("a.cif", "b.cif"):
        (tmp_path / name).write_text(GOOD)
    (tmp_path / "a.cif").chmod(0)
    first, second = read_folder(tmp_path)
    assert "no permission" in first.reason and isinstance(second, RawCrystal)


# ---- the process that reads ------------------------------------------------------------


def misbehave(task: str) -> str:
    if task == "sleep":
        time.sleep(600)
    if task == "grow":
        return str(len(bytearray(2**40)))
    if task == "die":
        os.abort()
    if task == "raise":
        raise ZeroDivisionError("by\nzero")
    return task.upper()


def test_each_misbehaviour_costs_its_own_task_only() -> None:
    tasks = ["a", "sleep", "b", "grow", "die", "raise", *"cdefghijklmnopqrstuvwxyz"]
    answers = list(sandboxed_map(misbehave, tasks, lambda task, why: why, time_limit=5.0))
    reasons = {task: a for task, a in zip(tasks, answers, strict=True) if a != task.upper()}
    assert set(reasons) == {"sleep", "grow", "die", "raise"}
    assert reasons["sleep"] == "too slow: reading it takes more than 5 s"
    assert reasons["grow"] == "too much memory: reading it takes more than 2048 MiB"
    assert reasons["die"] == "crashed the reader: a worker process was ended by SIGABRT"
    assert reasons["raise"].startswith("internal error: ZeroDivisionError, by zero; ")


def test_small_tasks_share_messages(monkeypatch) -> None:
    """A message for each would cost as much as the reading of a small file."""
    sent: list[int] = []
    original = Worker.send
    monkeypatch.setattr(
        Worker, "send", lambda self, *tasks: sent.append(len(tasks)) or original(self, *tasks)
    )
    tasks = [str(number) for number in range(200)]
    assert list(sandboxed_map(misbehave, tasks, lambda task, why: why)) == tasks
    start = [1, 1]  # the function, and the first task
    assert sum(sent[len(start) :]) == 200 and len(sent) <= len(start) + 200 // 16 + 1


class SlowToStart:
    """A function whose process needs longer to start than a task may take."""

    def __call__(self, task: str) -> str:
        return task.upper()

    def __setstate__(self, state: object) -> None:
        time.sleep(1.0)

    def __getstate__(self) -> tuple[int]:
        return (1,)


def test_the_start_of_the_process_is_not_the_tasks_time() -> None:
    answers = sandboxed_map(SlowToStart(), ["a", "b"], lambda task, why: why, time_limit=0.5)
    assert list(answers) == ["A", "B"]


def test_the_time_limit_holds_inside_c_code(tmp_path, monkeypatch) -> None:
    (tmp_path / "a.cif").write_bytes(b"data_a\nloop_\n_b\n" + b"1 " * (12 * 2**20))
    (tmp_path / "b.cif").write_text(GOOD)
    monkeypatch.setattr("phase2hpc.utils.sandbox.TIME_LIMIT", 0.05)
    first = structure_files.read_structure_file(tmp_path / "a.cif")
    assert [item.reason.split(":")[0] for item in first] == ["too slow"]


def test_memory_is_limited_while_gemmi_parses(tmp_path, monkeypatch) -> None:
    (tmp_path / "a.cif").write_bytes(b"data_a\nloop_\n_b\n" + b"1 " * (8 * 2**20))
    (tmp_path / "b.cif").write_text(GOOD)
    monkeypatch.setattr("phase2hpc.utils.sandbox.MEMORY_LIMIT", 300 * 2**20)
    first, second = read_folder(tmp_path)
    assert first.reason.startswith("too much memory") and isinstance(second, RawCrystal)


# ---- mutations -------------------------------------------------------------------------

TOKENS = (
    b"nan", b"1e308", b"-1e9", b"1/3", b"?", b".", b"data_", b"loop_", b"save_", b"'", b"\n;",
    b"\0", b"\xff", b"x+1e308,y,z", b"9999999999*x,y,z", b"x/0,y,z", b"_cell_length_a", b"[", b"0",
)  # fmt: skip


def mutated(data: bytes, rng: random.Random) -> bytes:
    separator = rng.choice((b"\n", b" "))
    parts = data.split(separator)
    place = rng.randrange(len(parts))
    kind = rng.randrange(5)
    if kind == 0:
        return data[: rng.randrange(len(data))]
    if kind == 1:
        i = rng.randrange(len(data))
        return data[:i] + bytes([rng.randrange(256)]) + data[i + 1 :]
    if kind == 2:
        del parts[place]
    elif kind == 3:
        parts.insert(rng.randrange(len(parts)), parts[place])
    else:
        parts[place] = rng.choice(TOKENS)
    return separator.join(parts)


def test_mutations_raise_nothing() -> None:
    rng = random.Random(7)
    small = [data for path in EXAMPLE_FILES if len(data := path.read_bytes()) < 5000]
    poscar = (HOSTILE / "POSCAR-ok-selective").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(400):
            items = structures_in_cif(mutated(rng.choice(small), rng), "x", "x.cif")
            items += structures_in_poscar(mutated(poscar, rng), "x", "POSCAR")
            for _status, reason in outcomes(items):
                assert reason.isprintable() and len(reason) < 300


@pytest.mark.parametrize("path", [p for p in EXAMPLE_FILES if p.stat().st_size < 2500], ids=str)
def test_no_truncation_is_silently_wrong(path) -> None:
    """Cut anywhere, a file with its formula gives the whole crystal or a reason."""
    data = path.read_bytes()
    (whole,) = structures_in_cif(data, "x", "x.cif")
    for end in range(0, len(data.rstrip())):
        (item,) = structures_in_cif(data[:end], "x", "x.cif")
        assert isinstance(item, UnreadableRecord) or item.species == whole.species, end
