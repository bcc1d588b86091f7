"""A run directory that someone changed by hand or to do harm: each command says so in one line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phase2hpc.runs.run_directory import RunDirectory

DEEP = "[" * 200_000
Command = Callable[..., tuple[int, str, str]]

WHOLE_FILES: dict[str, bytes] = {
    "empty": b"",
    "cut": b'{"run_id": "x", ',
    "a list": b"[1, 2]",
    "a number": b"7",
    "too deep": DEEP.encode(),
    "deep within": b'{"run_id": ' + DEEP.encode(),
    "a huge integer": b'{"epochs": ' + b"1" * 10_000 + b"}",
    "no text": b"\xff\xfe\x00",
    "nothing": b"null",
    "not a number": b"NaN",
}
MANIFEST: dict[str, dict[str, Any]] = {
    "a run id that is a list": {"run_id": ["../.."]},
    "epochs in words": {"epochs": "many"},
    "no properties": {"properties": 3},
    "a state of its own": {"state": "finished\n"},
    "a date that is none": {"created": "yesterday"},
    "a version that is a list": {"schema_version": [9]},
    "a later version": {"schema_version": 99},
    "versions of versions": {"versions": {"a": {"b": 1}}},
}
# What is read, and must be shown without harm.
ODD: dict[str, dict[str, Any]] = {
    "a date without a zone": {"created": "2024-01-01T00:00:00"},
    "the first day": {"created": "0001-01-01T00:00:00Z", "updated": "9999-12-31T23:59:59Z"},
    "a process of no machine": {"state": "running", "pid": 10**30, "process_start": None},
    "a score that is none": {"best_score": float("nan"), "best_epoch": 10**40},
    "a text that acts on a terminal": {"message": "\x1b[2J\nx", "level": "a\nb", "host": "\x1b"},
    "a run id that is a path": {"run_id": "../../../up", "store": "/etc/passwd"},
}
METRICS = [b"", b"[]", b'{"val": 1, "test": 2}', b'{"val": {}}', DEEP.encode(), b"\xff",
           b'{"val": {"band_gap": 3}, "test": {"band_gap": [1]}}',
           b'{"val": {}, "test": {"band_gap": {"mae": "x", "n": []}}}']  # fmt: skip


@pytest.fixture
def run(trained: dict[str, RunDirectory], tmp_path: Path) -> RunDirectory:
    """A copy of a finished run, beside nothing else."""
    target = tmp_path / "models" / trained["cgcnn"].family / "run_one"
    shutil.copytree(trained["cgcnn"].path, target)
    return RunDirectory(target)


def changed(run: RunDirectory, changes: dict[str, Any]) -> None:
    run.manifest.write_text(json.dumps(json.loads(run.manifest.read_text()) | changes))


def one_line(code: int, err: str, wanted: int = 2) -> None:
    assert code == wanted, err
    assert err.startswith("phase2hpc: ") and err.count("\n") == 1 and err.strip().isprintable()


def commands(run: RunDirectory) -> list[tuple[object, ...]]:
    models = ("--models-dir", run.path.parents[1])
    return [
        ("runs", "show", "one", *models),
        ("runs", "show", "--handoff", "one", *models),
        ("train", "--algorithm", "cgcnn", "--level", "lite", "--resume", "--run-id", "one",
         *models),
        ("export", "one", run.path.parents[2] / "exported", *models),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [*WHOLE_FILES, *MANIFEST])
def test_a_tampered_manifest(run: RunDirectory, command: Command, kind: str) -> None:
    if kind in MANIFEST:
        changed(run, MANIFEST[kind])
    else:
        run.manifest.write_bytes(WHOLE_FILES[kind])
    for arguments in commands(run):
        code, _, err = command(*arguments)
        one_line(code, err)
        assert "manifest.json" in err
    code, out, err = command("runs", "list", "--models-dir", run.path.parents[1])
    assert code == 0 and "unreadable" in out and "cannot be read" in out and err == ""


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_manifest(run: RunDirectory, command: Command, kind: str) -> None:
    other = RunDirectory(run.path.with_name("run_two"))
    shutil.copytree(run.path, other.path)
    changed(run, ODD[kind])
    for arguments in (*commands(run)[:2], ("runs", "list", "--models-dir", run.path.parents[1])):
        code, out, err = command(*arguments)
        assert code in (0, 2) and "\x1b" not in out
        if code:
            one_line(code, err)
    assert not list(run.path.parents[2].glob("up*"))


@pytest.mark.parametrize("kind", WHOLE_FILES)
def test_a_tampered_configuration(run: RunDirectory, command: Command, kind: str) -> None:
    """Resuming needs it; export takes the configuration within the weights."""
    run.config.write_bytes(WHOLE_FILES[kind])
    resume, export = commands(run)[2:]
    code, _, err = command(*resume)
    one_line(code, err)
    assert "config.json" in err
    assert command(*export)[0] == 0


@pytest.mark.parametrize("content", METRICS, ids=range(len(METRICS)))
def test_tampered_metrics(run: RunDirectory, command: Command, content: bytes) -> None:
    run.metrics_json.write_bytes(content)
    for arguments in commands(run)[:2]:
        code, _, err = command(*arguments)
        one_line(code, err)
        assert "metrics.json" in err


def test_files_that_are_none(run: RunDirectory, command: Command) -> None:
    for file in (run.manifest, run.metrics_json):
        whole = file.read_bytes()
        for make in (os.mkfifo, os.mkdir):
            file.unlink()
            make(file)
            code, _, err = command("runs", "show", "one", "--models-dir", run.path.parents[1])
            one_line(code, err)
            shutil.rmtree(file) if file.is_dir() else file.unlink()
            file.write_bytes(whole)
    with open(run.manifest, "r+b") as file:
        file.truncate(1 << 32)
    code, _, err = command("runs", "show", "one", "--models-dir", run.path.parents[1])
    one_line(code, err)


def test_prediction_names_stay_in_their_file(
    run: RunDirectory, command: Command, tmp_path: Path
) -> None:
    """An id that is a path, from a source, into the table that was asked for and nowhere else."""
    record = {
        "id": "../../up", "lattice": [[4, 0, 0], [0, 4, 0], [0, 0, 4]],
        "species": ["Cu"], "frac_coords": [[0, 0, 0]],
    }  # fmt: skip
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps(record))
    changed(run, {"run_id": "../../../up"})
    before = set(tmp_path.parent.rglob("*"))
    out = tmp_path / "out" / "p.csv"
    out.parent.mkdir()
    assert command("predict", source, "--run", run.path, "--output", out)[0] == 0
    code, _, err = command("export", run.path, tmp_path / "out" / "exported")
    assert code == 0, err
    made = set(tmp_path.parent.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "out") for path in made)
    assert "../../up" in out.read_text()
