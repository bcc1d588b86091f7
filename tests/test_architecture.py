"""Imports of the package: they point down its layers, and heavy packages stay where they belong."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from paths import ROOT

PACKAGE = "phase2hpc"
# From the bottom. A module imports from its own subpackage and from layers below; what shares a
# layer is independent of each other. The root is the public API: modules below take its version.
LAYERS = (
    {"errors"},
    {"utils"},
    {"config"},
    {"data", "runs"},
    {"models"},
    {"checkpointing"},
    {"inference"},
    {"training"},
    {"analysis"},
    {"api"},
    {"cluster"},
    {"cli"},
    {"", "__main__"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
TORCH = {"torch", "torch_geometric", "e3nn", "tensorboard"}
# A login node has no torch: what runs there loads it when it is needed.
WITHOUT_TORCH = {"", "errors", "utils", "config", "data", "runs", "cluster", "cli"}
TENSORS = {"data.crystal_data", "data.dataset", "data.device_arrays", "data.loader"}
FILES = {"data.store", "data.readers", "runs", "checkpointing", "utils.atomic_io"}

Imports = dict[str, int]


def modules() -> dict[str, Path]:
    """Dotted name below the package, "" for the package itself -> file."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()
LIGHT = [m for m in MODULES if m.partition(".")[0] in WITHOUT_TORCH and m not in TENSORS]


def statements(node: ast.AST, at_load: bool) -> Iterator[ast.stmt]:
    """Import statements; ``at_load``: those that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif at_load and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from statements(ast.Module([other], []), at_load)
            if not at_load:
                yield from statements(ast.Module(child.body, []), at_load)
        else:
            yield from statements(child, at_load)


@cache
def imports(module: str, at_load: bool = False) -> Imports:
    """What it imports -> line: our modules as in MODULES, of others the first part of the name."""
    found: Imports = {}
    for node in statements(ast.parse(MODULES[module].read_text()), at_load):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            assert isinstance(node, ast.ImportFrom) and node.level == 0 and node.module, module
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            first, _, rest = name.partition(".")
            if first == PACKAGE and rest not in MODULES:
                rest = rest.rpartition(".")[0]  # a name of a module
            found.setdefault(rest if first == PACKAGE else first, node.lineno)
    return found


def subpackage(module: str) -> str:
    return module.partition(".")[0]


def chain_to(module: str, targets: set[str], seen: set[str]) -> list[str]:
    """The modules by which importing ``module`` imports one of ``targets``; [] if it does not."""
    seen.add(module)
    for name in imports(module, at_load=True):
        if name in targets:
            return [module, name]
        # Importing a.b imports a.
        parts = name.split(".")
        for parent in (".".join(parts[: i + 1]) for i in range(len(parts))):
            known = parent not in MODULES or parent in seen
            if not known and (found := chain_to(parent, targets, seen)):
                return [module, *found]
    return []


def test_every_module_has_a_layer() -> None:
    assert {subpackage(module) for module in MODULES} <= LEVEL.keys()


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    mine = subpackage(module)
    for name, line in imports(module).items():
        other = subpackage(name)
        if name not in MODULES or other == mine or name == "":
            continue
        assert LEVEL[other] < LEVEL[mine], f"{MODULES[module]}:{line} imports {PACKAGE}.{name}"


@pytest.mark.parametrize("module", LIGHT)
def test_no_torch_when_imported(module: str) -> None:
    assert chain_to(module, TORCH, set()) == []


@pytest.mark.parametrize("module", [m for m in MODULES if m != "data.dataset"])
def test_torch_geometric_is_imported_for_its_datasets_only(module: str) -> None:
    """It takes as long as torch, with pandas and torch._dynamo."""
    assert "torch_geometric" not in imports(module)


@pytest.mark.parametrize("module", [m for m in MODULES if subpackage(m) == "data"])
def test_data_needs_no_torch_below_its_loader(module: str) -> None:
    if module not in TENSORS:
        assert imports(module).keys() & (TORCH | TENSORS) == set()


@pytest.mark.parametrize("module", [m for m in MODULES if subpackage(m) == "models"])
def test_models_know_no_files(module: str) -> None:
    names = imports(module)
    touched = [n for n in names if any(n == f or n.startswith(f"{f}.") for f in FILES)]
    assert touched == [] and not names.keys() & {"h5py", "pathlib", "os", "io"}
