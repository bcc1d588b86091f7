"""Modules that commands import: what a login node waits for. Counted, since seconds vary."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

REFERENCE = """
import typer
app = typer.Typer()
@app.command()
def one(): pass
@app.command()
def two(): pass
"""
OURS = "from phase2hpc.__main__ import main as app\nimport sys\nsys.argv[0] = 'phase2hpc'\n"
REPORT = """
try:
    app()
except SystemExit as ended:
    assert not ended.code, ended.code
print(*sys.modules, file=sys.stderr)
"""


@cache
def imported(program: str, *arguments: str) -> frozenset[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}{REPORT}", *arguments],
        capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    return frozenset(done.stderr.splitlines()[-1].split())


def beyond_typer(*arguments: str) -> set[str]:
    """What our command imports and the help of an empty typer application does not."""
    return set(imported(OURS, *arguments) - imported(REFERENCE, "--help"))


def test_help_imports_what_typer_imports_and_our_commands() -> None:
    found = beyond_typer("--help")
    ours = {name for name in found if name.partition(".")[0] == "phase2hpc"}
    assert len(found - ours) <= 4, sorted(found - ours)
    assert len(ours) <= 30, sorted(ours)


@pytest.mark.parametrize("arguments", [("levels",), ("status",), ("runs", "list")], ids=" ".join)
def test_short_commands(arguments, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = imported(OURS, *arguments)
    # Packages that take a tenth of a second, and what only other commands need.
    heavy = {"rich", "yaml", "submitit", "asyncio", "packaging", "tomllib", "ssl", "numpy", "torch"}
    assert not heavy & found
    assert len(found - imported(REFERENCE, "--help")) <= 200
