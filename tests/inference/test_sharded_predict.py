"""Predictions in shards: byte by byte the table of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from paths import EXAMPLES
from tiny import Tiny

from phase2hpc.errors import Phase2Error
from phase2hpc.inference import predictor as module
from phase2hpc.inference.prediction_table import STATUSES, write_predictions
from phase2hpc.inference.predictor import Predictor
from phase2hpc.inference.sharded_predict import join_shards, predict_shard
from phase2hpc.utils.shard_folder import ShardFolder

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 16)


@pytest.fixture(scope="module")
def predictor(trained: Any) -> Predictor:
    return Predictor([trained[name] for name in ("e3nn", "cgcnn")], CPU)


@pytest.fixture
def inputs(tiny: Tiny, tmp_path: Path) -> list[str]:
    """A folder in which a file has many structures and one none; lines, some of them bad, that
    break off."""
    folder = tmp_path / "in"
    folder.mkdir()
    texts = [path.read_text() for path in sorted(EXAMPLES.glob("*.cif"))]
    for number, text in enumerate(texts * 2):
        (folder / f"{number:02d}.cif").write_text(text)
    (folder / "03.cif").write_text("".join(texts[:4] * 5))
    (folder / "05.cif").write_text("none")
    lines = tiny.source.read_text().splitlines()[:60]
    lines[7] = "{cut"
    broken = tmp_path / "in.json"
    broken.write_text(f"[{', '.join(line for line in lines if line != '{cut')}, {{cut")
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    return [str(folder), str(tmp_path / "in.jsonl"), str(broken)]


@pytest.mark.parametrize("shards", [1, 3, 7, 20])
def test_the_same_bytes(
    shards: int, inputs: list[str], predictor: Predictor, tmp_path: Path
) -> None:
    rows = predictor.predict_all(inputs)
    statuses = {row.status for row in rows}
    assert statuses == {"ok", "failed"} and "damaged or cut" in rows[-1].reason
    for name in ("out.csv", "out.json"):
        write_predictions(tmp_path / name, rows, predictor.properties)
        output = tmp_path / f"shards.{name}"
        folder = ShardFolder.beside(output, shards, {})
        for shard in range(shards):
            predict_shard(folder, shard, predictor, inputs, id_prop=False)
        counts = join_shards(folder, inputs, output)
        assert output.read_bytes() == (tmp_path / name).read_bytes()
        assert sum(counts[status] for status in STATUSES) == len(rows)
        assert not folder.path.parent.exists()
        assert counts["ok"] == sum(row.status == "ok" for row in rows)


def test_only_what_is_missing_is_predicted(
    inputs: list[str], predictor: Predictor, tmp_path: Path
) -> None:
    output = tmp_path / "out.csv"
    folder = ShardFolder.beside(output, 3, {})
    for shard in (0, 2):
        predict_shard(folder, shard, predictor, inputs, id_prop=False)
    with pytest.raises(Phase2Error, match=r"1 of 3 shards are missing \(1\)"):
        join_shards(folder, inputs, output)
    kept = folder.part(0).stat().st_mtime_ns
    for shard in range(3):
        predict_shard(folder, shard, predictor, inputs, id_prop=False)
    assert folder.part(0).stat().st_mtime_ns == kept
    assert join_shards(folder, inputs, output)["ok"] > 100


def test_inputs_that_changed_meanwhile(
    inputs: list[str], predictor: Predictor, tmp_path: Path
) -> None:
    folder = ShardFolder.beside(tmp_path / "out.csv", 2, {})
    for shard in range(2):
        predict_shard(folder, shard, predictor, inputs[1:2], id_prop=False)
    with Path(inputs[1]).open("a") as file:
        file.write("\n\n")
    with pytest.raises(Phase2Error, match="the inputs changed"):
        join_shards(folder, inputs[1:2], tmp_path / "out.csv")
    assert not folder.path.exists() and not (tmp_path / "out.csv").exists()
