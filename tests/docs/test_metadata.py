"""One version and one address everywhere; the make targets that files name are there."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml
from paths import ROOT

import phase2hpc

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_citation() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == phase2hpc.__version__
    assert f"## [{citation['version']}] - {citation['date-released']}" in (
        (ROOT / "CHANGELOG.md").read_text()
    )
    assert citation["repository-code"] == PROJECT["project"]["urls"]["Source"]
    assert citation["license"] == PROJECT["project"]["license"]


@pytest.mark.parametrize(
    "name", [".github/workflows/ci.yml", ".ci/run", "README.md", "CONTRIBUTING.md", "mkdocs.yml"]
)
def test_make_targets(name: str) -> None:
    text = (ROOT / name).read_text()
    named = set(re.findall(r"^\s*(?:- run: )?make ([a-z-]+)|`make ([a-z-]+)", text, re.MULTILINE))
    named = {target for pair in named for target in pair if target}
    named |= set(re.findall(r"^ *(?:tests|step) ([a-z-]+)", text, re.MULTILINE))
    for matrix in re.findall(r"target: \[(.*)\]", text):
        named |= set(matrix.split(", "))
    assert named and named <= TARGETS


def test_every_group_and_extra_is_pinned() -> None:
    pins = {
        re.sub(r"[-_.]+", "-", line.partition("==")[0].lower())
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    }
    needed = [
        *PROJECT["project"]["dependencies"],
        *(need for extra in PROJECT["project"]["optional-dependencies"].values() for need in extra),
        *(need for group in PROJECT["dependency-groups"].values() for need in group),
    ]
    names = {re.match(r"[\w.-]+", need)[0].lower() for need in needed} - {"phase2hpc"}
    assert {re.sub(r"[-_.]+", "-", name) for name in names} <= pins
