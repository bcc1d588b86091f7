"""JSON documents read in parts, and keys that occur twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from json_sources import DICTS, written

from phase2hpc.data.crystal import RawCrystal
from phase2hpc.data.readers.json_stream import JsonStream, loads_unique
from phase2hpc.data.readers.registry import read


def test_an_id_that_occurs_twice_in_an_object_is_not_guessed(tmp_path: Path) -> None:
    one = json.dumps(DICTS[0])
    first, second = read(written(tmp_path / "a.json", f'{{"p": {one}, "p": {one}}}'))
    assert isinstance(first, RawCrystal) and "occurs twice" in second.reason


def test_records_by_id_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = 0
    more = JsonStream._more

    def watched(self: JsonStream) -> bool:
        nonlocal longest
        found = more(self)
        longest = max(longest, len(self._buffer))
        return found

    monkeypatch.setattr(JsonStream, "_more", watched)
    path = written(tmp_path / "a.json", {f"id{i}": DICTS[1] for i in range(6000)})
    assert len(list(read(path))) == 6000
    assert longest < path.stat().st_size / 1.5


@pytest.mark.parametrize(
    "text",
    [
        '{"id": "a:b", "x": {"y": [1.5, 2], "z": null}}',
        '{"id": 18446744073709551616}',
        '{"id": {"n": -18446744073709551617}}',
        '{"x": NaN, "y": [Infinity, 1e400]}',
        '{"sites": [{"a": 1}, {"a": 2}], "b": [[1, 2], [3, 4]]}',
        '{"id": "\\ud800"}',
        "7",
        "null",
    ],
)
def test_lines_are_read_as_by_json(text: str) -> None:
    assert repr(loads_unique(text)) == repr(json.loads(text))


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 1}',
        '{"x": [{"a": {"b": 1, "b": 2}}]}',
        '{"x": [[{"a": 1, "a": 2}]]}',
        '{"x": {"a": 1, "c": 2}, "x": ":"}',
        '{"a" : 1, "a" : 2, "b": 3}',
    ],
)
def test_a_key_that_occurs_twice_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="occurs twice"):
        loads_unique(text)
