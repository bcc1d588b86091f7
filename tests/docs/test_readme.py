"""The README is true: its commands run, its options and its links exist."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from paths import ROOT

from phase2hpc.cli.main import app
from phase2hpc.utils.package_files import CACHE_VARIABLE, shared_path

README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"(<!-- run in CI -->\n)?```bash\n(.*?)```", re.DOTALL)


def commands(only_run: bool) -> list[str]:
    """The lines of the README's bash blocks, all or those that CI runs."""
    lines = [
        line
        for marked, block in BLOCK.findall(README)
        if marked or not only_run
        for line in block.splitlines()
    ]
    return [line for line in lines if line.strip() and not line.startswith("#")]


def test_the_readme_has_commands_of_both_kinds():
    assert 5 < len(commands(only_run=True)) < len(commands(only_run=False))


@pytest.mark.parametrize("line", [c for c in commands(False) if c.startswith("phase2hpc")])
def test_every_command_of_the_readme_parses(line):
    group, words = typer.main.get_command(app), shlex.split(line, comments=True)[1:]
    context = group.make_context("phase2hpc", words, resilient_parsing=True)
    while hasattr(group, "commands"):
        group = group.commands[words[0]]
        words = words[1:]
    # Raises a usage error for an option that is not there or a value of a wrong type.
    group.make_context(group.name, words, parent=context)


def test_the_commands_run_as_they_stand(tmp_path):
    program = Path(sys.executable).with_name("phase2hpc")
    assert program.exists(), "the program is not installed: pip install --no-deps -e ."
    # The reader's working directory, without what earlier runs left there.
    shutil.copytree(shared_path("data/examples"), tmp_path / "data" / "examples")
    script = "set -euxo pipefail\n" + "\n".join(commands(only_run=True))
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, CACHE_VARIABLE: str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert len((tmp_path / "preds.csv").read_text().splitlines()) == 1 + 10
    for family in ("multitask_lite_e3nn", "multitask_cgcnn_lite"):
        (run,) = (tmp_path / "models" / family).iterdir()
        assert (run / "metrics.json").exists()
    assert "multitask_std_e3nn" in done.stdout  # the table of levels


def test_the_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)", README)
    assert links
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert not missing
