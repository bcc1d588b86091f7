"""Interrupted predictions: they go on, and end with the table of an undisturbed one."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from paths import EXAMPLES
from tiny import Tiny

from phase2hpc.inference import predictor as module
from phase2hpc.inference.prediction_request import PredictionRequest
from phase2hpc.inference.prediction_table import write_predictions
from phase2hpc.inference.resumable_predict import predict_table
from phase2hpc.utils.chunk_journal import JournalWriter


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 8)


@pytest.fixture
def request_(trained: Any, tiny: Tiny, tmp_path: Path) -> PredictionRequest:
    """A folder, in which one file has many structures and one none, and lines, some of them bad."""
    folder = tmp_path / "in"
    folder.mkdir()
    texts = [path.read_text() for path in sorted(EXAMPLES.glob("*.cif"))]
    for number, text in enumerate(texts):
        (folder / f"{number:02d}.cif").write_text(text)
    (folder / "03.cif").write_text("".join(texts[:4] * 5))
    (folder / "05.cif").write_text("none")
    lines = tiny.source.read_text().splitlines()[:30]
    lines[7] = "{cut"
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    return PredictionRequest(
        inputs=(str(folder), str(tmp_path / "in.jsonl")), runs=(str(trained["cgcnn"].path),),
        id_prop=True, device="cpu", threads=1, max_atoms=None, interval=0.9,
    )  # fmt: skip


def undisturbed(request: PredictionRequest, path: Path) -> bytes:
    predictor = request.load()
    rows = predictor.predict_all(list(request.inputs), id_prop=request.id_prop)
    write_predictions(path, rows, predictor.properties)
    return path.read_bytes()


class Interrupted(BaseException):
    pass


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> list[int]:
    """Interrupt the writing of chunk number ``after``; the numbers that are written."""
    written: list[int] = []
    append = JournalWriter.append

    def append_or_stop(self: JournalWriter, number: int, content: Any) -> None:
        if len(written) == after:
            raise Interrupted
        append(self, number, content)
        written.append(number)

    monkeypatch.setattr(JournalWriter, "append", append_or_stop)
    return written


def leave_unfinished(request: PredictionRequest, output: Path, chunks: int) -> list[int]:
    """Interrupt a prediction after so many chunks; their numbers."""
    with pytest.MonkeyPatch.context() as context:
        written = interrupt(context, chunks)
        with pytest.raises(Interrupted):
            predict_table(request, output)
    return written


@pytest.mark.parametrize("name", ["out.csv", "out.json"])
def test_it_goes_on_where_it_was(
    name: str, request_: PredictionRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    expected = undisturbed(request_, tmp_path / f"whole-{name}")
    output = tmp_path / name
    output.write_text("of before")
    first = leave_unfinished(request_, output, 2)
    assert output.read_text() == "of before", "nobody reads half a table"
    # The last line was being written.
    part = next(output.with_name(f"{name}.unfinished").rglob("*.jsonl"))
    part.write_bytes(part.read_bytes()[:-20])
    with monkeypatch.context() as context, caplog.at_level(logging.WARNING):
        rest = interrupt(context, -1)
        counts = predict_table(request_, output)
    assert (
        first == [0, 1] and rest[0] == 1 and sorted({*first, *rest}) == list(range(len(rest) + 1))
    )
    assert "going on after" in caplog.text and "anew" not in caplog.text
    assert output.read_bytes() == expected
    assert counts["failed"] >= 2 and counts["ok"] > 30
    assert not output.with_name(f"{name}.unfinished").exists()


def test_other_settings_start_anew(
    request_: PredictionRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out.csv"
    leave_unfinished(request_, output, 2)
    other = replace(request_, max_atoms=3)
    with caplog.at_level(logging.WARNING):
        predict_table(other, output)
    assert "it starts anew" in caplog.text and "going on" not in caplog.text
    assert output.read_bytes() == undisturbed(other, tmp_path / "whole.csv")


def test_a_changed_input_starts_anew(
    request_: PredictionRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out.csv"
    leave_unfinished(request_, output, 1)
    folder = Path(request_.inputs[0])
    (folder / "00a.cif").write_text((folder / "00.cif").read_text())
    with caplog.at_level(logging.WARNING):
        predict_table(request_, output)
    assert "it starts anew" in caplog.text
    assert b"00a.cif" in output.read_bytes()


@pytest.mark.parametrize("content", ["", "[]"])
def test_no_structures_are_a_table_with_all_columns(
    request_: PredictionRequest, tmp_path: Path, content: str
) -> None:
    source = tmp_path / "none.json"
    source.write_text(content)
    nothing, output = replace(request_, inputs=(str(source),)), tmp_path / "out.csv"
    predict_table(nothing, output)
    assert output.read_text().startswith("id,input,formula,status,reason,formation_energy,")
    assert output.read_bytes() == undisturbed(nothing, tmp_path / "whole.csv")


@pytest.mark.slow
def test_several_workers_write_the_same_table(
    request_: PredictionRequest, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2,600 lines are three chunks, the last of them not full."""
    monkeypatch.setattr(module, "CHUNK", 1024)  # as in the workers
    rows = [json.loads(line) for line in tiny.source.read_text().splitlines()[:20]]
    small = min(rows, key=lambda row: len(row["species"]))
    lines = [json.dumps({**small, "id": f"c{number}"}) for number in range(2600)]
    source = tmp_path / "many.jsonl"
    source.write_text("\n".join(lines))
    many = replace(request_, inputs=(str(source),))
    counts = predict_table(many, tmp_path / "two.csv", workers=2)
    assert counts["ok"] == 2600
    assert (tmp_path / "two.csv").read_bytes() == undisturbed(many, tmp_path / "one.csv")
