"""predictions_{val,test}.csv: what is in them, and that they are read as they were written."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import ROOT

from phase2hpc.data.store.reader import Store
from phase2hpc.errors import InputError
from phase2hpc.inference.labelled_predictions import (
    LabelledPredictions,
    read_labelled_predictions,
)

FROZEN = ROOT / "tests" / "checkpointing" / "frozen"


def test_both_splits_of_a_run(trained: Any, tiny: Any) -> None:
    store = Store.open(tiny.store)
    for run in trained.values():
        for split in ("val", "test"):
            with run.predictions(split).open(newline="") as file:
                rows = list(csv.DictReader(file))
            indices = store.split_indices(split)
            assert [row["id"] for row in rows] == store.ids(indices)
            records = tiny.of_split(split)
            assert [int(row["atoms"]) for row in rows] == [len(r["species"]) for r in records]
            for row, record in zip(rows, records, strict=True):
                assert all(symbol in row["formula"] for symbol in record["species"])
            for row in rows:
                target, error = row["band_gap_target"], row["band_gap_error"]
                assert bool(target) == bool(error) and row["band_gap"]
                if target:
                    wanted = float(row["band_gap"]) - float(target)
                    assert float(error) == pytest.approx(wanted, abs=1e-5)


def test_a_store_that_is_not_in_memory(tiny: Any) -> None:
    whole, streamed = Store.open(tiny.store), Store.open(tiny.store, budget=0)
    indices = whole.split_indices("test")[::-1]
    assert streamed.arrays is None and whole.arrays is not None
    for mine, other in zip(
        streamed.atomic_numbers(indices), whole.atomic_numbers(indices), strict=True
    ):
        assert mine.tolist() == other.tolist() != []


def test_written_and_read_back(tmp_path: Path) -> None:
    nan = float("nan")
    table = LabelledPredictions(
        ["a", "b,c"], ["NaCl", ""], np.array([2, 0]),
        {"gap": np.array([1.0, nan]), "mass": np.array([nan, nan])},
        {"gap": np.array([1.25, 2.0]), "mass": np.array([0.5, nan])},
        {"gap": np.array([0.1, nan])}, {"gap": np.array([1.0, nan])},
        {"gap": np.array([1.5, nan])},
    )  # fmt: skip
    path = tmp_path / "p.csv"
    table.write(path)
    assert path.read_text().splitlines()[1] == "a,NaCl,2,1,1.25,0.1,1,1.5,0.25,,0.5,,,,"
    again = read_labelled_predictions(path)
    assert again.properties == ("gap", "mass") and again.ids == table.ids
    for name in table.properties:
        for mine, other in ((again.target, table.target), (again.prediction, table.prediction)):
            np.testing.assert_array_equal(mine[name], other[name])
        np.testing.assert_array_equal(again.sigma_of(name), table.sigma_of(name))
        np.testing.assert_array_equal(again.interval_of(name), table.interval_of(name))
    assert again.rows() == table.rows()


def test_files_of_earlier_versions() -> None:
    old = read_labelled_predictions(FROZEN / "predictions_v1.csv")
    assert len(old) > 10 and set(old.formulas) == {""} and not old.atoms.any()
    assert np.isfinite(old.error("band_gap")).any()


@pytest.mark.parametrize(
    "text", ["", "id,gap\na,1\n", "id,gap,gap_target\na,1,x\n", "id,g,g_target\na\n"]
)
def test_not_such_a_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(InputError, match="p.csv"):
        read_labelled_predictions(path)
    with pytest.raises(InputError, match="none.csv"):
        read_labelled_predictions(tmp_path / "none.csv")
