"""docs/environment.md lists the environment variables and exit codes of the package."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from paths import ROOT

PAGE = (ROOT / "docs" / "environment.md").read_text()
SOURCES = {path: path.read_text() for path in sorted((ROOT / "phase2hpc").rglob("*.py"))}
TREES = [ast.parse(text) for text in SOURCES.values()]
EXITS = {"exit", "_exit", "Exit", "_end"}


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def keys(table: str) -> list[str]:
    """The code in the first column of a table."""
    rows = re.findall(r"^\|(.*?)\|", table, re.MULTILINE)
    return [key for row in rows for key in re.findall(r"`([^`]+)`", row)]


def is_environment(node: ast.expr) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return name in ("environ", "environment")


def variables_read() -> Iterator[str]:
    """Names that the package reads from its environment, as far as they stand there as literals."""
    for tree in TREES:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                found = node.args[:1] if is_environment(node.func.value) else []
            elif isinstance(node, ast.Subscript) and is_environment(node.value):
                found = [node.slice]
            elif isinstance(node, ast.Compare) and any(map(is_environment, node.comparators)):
                found = [node.left]
            else:
                continue
            for name in found:
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    yield name.value


def own_variables() -> set[str]:
    constants = (n for tree in TREES for n in ast.walk(tree) if isinstance(n, ast.Constant))
    return {
        str(node.value)
        for node in constants
        if isinstance(node.value, str) and re.fullmatch(r"PHASE2HPC_[A-Z_]*[A-Z]", node.value)
    }


def exit_codes() -> set[int]:
    """Codes of error classes, and what is handed to the functions that end a process."""
    constants: dict[str, int] = {}
    used: set[str] = set()
    codes = {0}
    for node in (node for tree in TREES for node in ast.walk(tree)):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            for target in node.targets:
                if isinstance(target, ast.Name) and isinstance(node.value.value, int):
                    constants[target.id] = node.value.value
                    if target.id == "exit_code":
                        codes.add(node.value.value)
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            for argument in node.args[:1] if name in EXITS else []:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, int):
                    codes.add(argument.value)
                elif isinstance(argument, ast.Name):
                    used.add(argument.id)
    return codes | {constants[name] for name in used & constants.keys()}


def test_own_variables() -> None:
    assert own_variables() == set(keys(section("Variables of phase2hpc")))


def test_variables_of_others() -> None:
    listed = set(keys(section("Variables of others that count")))
    text = "\n".join(SOURCES.values())
    assert [name for name in sorted(listed) if name not in text] == []
    read = {name for name in variables_read() if not name.startswith("PHASE2HPC_")}
    assert "SLURM_JOB_ID" in read
    assert read - listed == set()


def test_exit_codes() -> None:
    rows = re.findall(r"^\| (\d+) \|", section("Exit codes"), re.MULTILINE)
    assert {int(code) for code in rows} == exit_codes()
    assert exit_codes() >= {0, 1, 2, 75, 130}
