"""README and pages are true: their commands parse and run, their links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from phase2hpc.cli.command_line import command_line
from phase2hpc.cli.main import app
from phase2hpc.utils.package_files import CACHE_VARIABLE, shared_path

README = ROOT / "README.md"
QUICK_START = ROOT / "docs" / "quick-start.md"
OTHERS = ("CONTRIBUTING.md", "benchmarks/RESULTS.md", "data/README.md", "jobs/README.md")
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), *(ROOT / name for name in OTHERS)]
BLOCK = re.compile(r"(<!-- run in CI -->\n)?```bash\n(.*?)```", re.DOTALL)


def commands(page: Path, only_run: bool = False) -> list[str]:
    """The lines of a page's bash blocks, all or those that CI runs."""
    lines = [
        line
        for marked, block in BLOCK.findall(page.read_text())
        if marked or not only_run
        for line in block.splitlines()
    ]
    return [line for line in lines if line.strip() and not line.startswith("#")]


def lines_of_the_program() -> list[str]:
    found = {line: None for page in PAGES for line in commands(page)}
    # Commands in the text; dots stand for what the reader gives.
    for page in PAGES:
        for code in re.findall(r"`(phase2hpc [^`]+)`", page.read_text()):
            if not re.search(r"\.\.\.|…|COMMAND|phase2hpc --", code):
                found[code] = None
    return [line for line in found if line.startswith("phase2hpc ")]


def test_there_are_commands_of_both_kinds() -> None:
    for page in (README, QUICK_START):
        assert 3 < len(commands(page, only_run=True)) < len(commands(page))


@pytest.mark.parametrize("line", lines_of_the_program())
def test_every_command_parses(line: str) -> None:
    # Variables of a script: a quoted one is a value, another may be empty.
    line = re.sub(r"\$\w+", "", re.sub(r'"\$\w+"', "1", line))
    group, words = command_line(app), shlex.split(line, comments=True)[1:]
    context = group.make_context("phase2hpc", words, resilient_parsing=True)
    if not words:  # -h or -V alone: the parser has taken it
        return
    while words and hasattr(group, "commands"):
        group = group.commands[words[0]]
        words = words[1:]
    # Raises a usage error for an option that is not there or a value of a wrong type.
    group.make_context(group.name, words, parent=context)


@pytest.mark.slow
def test_the_commands_run_as_they_stand(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("phase2hpc")
    assert program.exists(), "the program is not installed: pip install --no-deps -e ."
    # The reader's working directory, without what earlier runs left there.
    shutil.copytree(shared_path("data/examples"), tmp_path / "data" / "examples")
    both = [line for page in (README, QUICK_START) for line in commands(page, only_run=True)]
    # What both pages have is run once, whatever comment it has.
    lines = {tuple(shlex.split(line, comments=True)): line for line in both}.values()
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", "\n".join(["set -euxo pipefail", *lines])],
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
        runs = [*(tmp_path / "models" / family).iterdir()]
        assert runs and all((run / "metrics.json").exists() for run in runs)
    assert "multitask_std_e3nn" in done.stdout  # the table of levels


def anchors(page: Path) -> set[str]:
    """The headings of a page, as Markdown renders make links of them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        target, _, anchor = link.partition("#")
        if "://" in link:
            continue
        path = page.parent / target if target else page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link


def test_the_readme_is_one_screen() -> None:
    assert len(README.read_text().splitlines()) <= 70
