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


def test_dry_run_imports_no_states_of_runs(tmp_path: Path, monkeypatch) -> None:
    """Beside our modules: typer, pydantic, submitit, PyYAML and packaging, and what these need."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")  # no Slurm
    Path("crystals.jsonl").write_text("{}")
    # As on a login node, without the packages that read stores.
    login_node = "import sys\nsys.modules |= dict.fromkeys(['h5py', 'numpy'])\n"
    libraries = "import packaging.requirements, pydantic.main, pydantic.types, submitit, yaml\n"
    found = imported(
        login_node + OURS,
        *("submit", "--level", "std", "--profile", "slurm-gpu", "--dry-run"),
        *("--store", "missing.h5", "--prepare", "crystals.jsonl"),
    ) - imported(login_node + libraries + REFERENCE, "--help")
    ours = {name for name in found if name.partition(".")[0] == "phase2hpc"}
    assert not {"phase2hpc.cluster.monitor.scheduler", "phase2hpc.runs.state"} & ours
    assert len(ours) <= 94, sorted(ours)
    assert len(found - ours) <= 40, sorted(found - ours)
