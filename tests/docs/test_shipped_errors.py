"""The test errors that README and benchmarks give are those of the shipped models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from paths import ROOT

from phase2hpc.config.properties import PROPERTIES
from phase2hpc.utils import tables
from phase2hpc.utils.package_files import pretrained_models

# In the order of README's columns.
COLUMNS = (
    "formation_energy", "band_gap", "band_gap_mbj", "bulk_modulus", "shear_modulus", "ehull",
    "spillage", "dielectric", "piezoelectric",
)  # fmt: skip


def table(page: Path, begin: str) -> list[list[str]]:
    """Cells of the table whose header begins so."""
    below = page.read_text(encoding="utf-8").split(f"\n{begin}", 1)[1]
    lines = (begin + below).split("\n\n", 1)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def shipped() -> dict[str, Any]:
    """Test errors by model and property."""
    found = {}
    for folder in pretrained_models():
        (path,) = [*folder.glob("metrics.json"), *folder.glob("ensemble_*/metrics.json")]
        found[folder.name] = json.loads(path.read_text())["test"]
    return found


def test_the_table_of_the_readme() -> None:
    rows = {row[0]: row[1:] for row in table(ROOT / "README.md", "| test MAE |")}
    models = shipped()
    assert models and set(COLUMNS) == set(PROPERTIES)
    for model, errors in models.items():
        for name, cell in zip(COLUMNS, rows[model][: len(COLUMNS)], strict=True):
            assert float(cell) == float(f"{errors[name]['mae']:.3g}"), (model, name)


def test_the_table_of_the_benchmarks() -> None:
    header, _, *rows = table(ROOT / "benchmarks/RESULTS.md", "| property | unit | train / test |")
    assert {row[0] for row in rows} == set(PROPERTIES)
    for model, errors in shipped().items():
        place = header.index(f"{model}, ships")
        for row in rows:
            found = errors[row[0]]
            assert row[place] == tables.with_error(found["mae"], found["mae_se"]), (model, row[0])
