"""The pages in docs/ keep to what the program says and has."""

from __future__ import annotations

import ast
import re
from typing import get_args

import pytest
from paths import ROOT

import phase2hpc
from phase2hpc.runs.state import State

TROUBLE = ROOT / "docs" / "when-things-go-wrong.md"
# What the operating system, not this program, says.
NOT_OURS = {"no space left on device"}


def said_by_the_program() -> str:
    """Every text of the package, a line each; what is filled in is left out."""
    texts = []
    for path in (ROOT / "phase2hpc").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(re.sub(r"%[sdg]", "\n", node.value))
    return "\n".join(texts)


def messages() -> list[str]:
    """What stands in code in the first column of the tables."""
    rows = re.findall(r"^\|(.*?)\|", TROUBLE.read_text(), re.MULTILINE)
    return [key for row in rows for key in re.findall(r"`([^`]+)`", row)]


@pytest.fixture(scope="module")
def said() -> str:
    return said_by_the_program()


@pytest.mark.parametrize("message", messages())
def test_a_message_of_the_page_is_said_by_the_program(message: str, said: str) -> None:
    if message in NOT_OURS:
        return
    words = [part.strip(" :;,.()/") for part in message.split("…")]
    parts = [part for part in words if len(part) > 3]
    assert parts, "nothing to look for"
    assert [part for part in parts if part not in said] == []


def test_paths_in_code_are_there() -> None:
    """Files and folders of the package that the page on its architecture names."""
    text = (ROOT / "docs" / "how-it-works.md").read_text()
    named = set(re.findall(r"`([\w/]+(?:\.py|/))`", text))
    assert len(named) > 20
    missing = [n for n in named if not any((r / n).exists() for r in (ROOT, ROOT / "phase2hpc"))]
    assert missing == []


def test_the_python_api_is_documented() -> None:
    page = (ROOT / "docs" / "python-api.md").read_text()
    documented = set(re.findall(r"^::: phase2hpc\.(\w+)$", page, re.MULTILINE))
    assert documented == set(phase2hpc.__all__) - {"__version__"}


def test_the_states_of_the_page_are_those_of_the_program() -> None:
    page = (ROOT / "docs" / "on-your-cluster.md").read_text()
    table = page.split("| state | meaning |", 1)[1].split("\n\n", 1)[0]
    cells = re.findall(r"^\|(.*?)\|", table, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", "".join(cells))) == sorted(get_args(State))
