"""Data frames in JSON, in every orientation of pandas."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from json_sources import DICTS, assert_both

from phase2hpc.data.crystal import UnreadableRecord
from phase2hpc.data.readers.registry import read
from phase2hpc.errors import InputError

FRAME = pd.DataFrame({"structure": DICTS, "gap": [5.0, 8.3], "note": ["a", "b"]}, ["x", "y"])


@pytest.mark.parametrize("orient", ["split", "records", "index", "columns", "table"])
@pytest.mark.parametrize("suffix", ["json", "json.gz", "json.bz2", "json.xz", "json.zip"])
def test_orients_of_a_data_frame(tmp_path: Path, orient: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    FRAME.to_json(path, orient=orient)  # type: ignore[call-overload]
    ids = ["record 0", "record 1"] if orient == "records" else ["x", "y"]
    assert_both(list(read(path)), ids)


def test_values_without_column_names_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    FRAME.to_json(path, orient="values")
    with pytest.raises(InputError, match=r"orient='values'.*orient='split'"):
        list(read(path))


@pytest.mark.parametrize("orient", ["split", "records", "index", "columns", "table"])
def test_a_column_of_structures_may_have_any_name(tmp_path: Path, orient: str) -> None:
    path = tmp_path / "a.json"
    FRAME.rename(columns={"structure": "relaxed"}).to_json(path, orient=orient)  # type: ignore[call-overload]
    assert_both(list(read(path)))


def test_two_columns_of_structures_are_not_guessed_between(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    frame = FRAME.rename(columns={"structure": "relaxed"}).assign(initial=DICTS)
    frame.to_json(path, orient="records")
    for item in read(path):
        assert isinstance(item, UnreadableRecord)
        assert item.reason.startswith("several structures: in the fields relaxed, initial")


def test_a_data_frame_that_monty_wrote(tmp_path: Path) -> None:
    from monty.serialization import dumpfn

    dumpfn(FRAME, tmp_path / "a.json")
    assert_both(list(read(tmp_path / "a.json")), ["x", "y"])
