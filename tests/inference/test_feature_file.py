"""``predict --features``: crystal vectors of one model, a row for each structure of the input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import phase2hpc
from phase2hpc.runs.run_directory import RunDirectory

Command = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("algorithm", ["e3nn", "cgcnn"])
def test_the_vectors_of_the_model(
    algorithm: str, trained: dict[str, RunDirectory], tiny: Any, command: Command, tmp_path: Path
) -> None:
    run, path, table = trained[algorithm], tmp_path / "v.h5", tmp_path / "p.json"
    records = tiny.of_split("test")
    bad = {**records[0], "id": "bad", "species": []}
    source = tmp_path / "s.jsonl"
    source.write_text("".join(json.dumps(r) + "\n" for r in [*records[:3], bad, *records[3:]]))
    options = ("--run", run.path, "--features", path)
    code, _, err = command("predict", source, *options, "--output", table)
    assert code == 0, err
    rows = json.loads(table.read_text())
    with h5py.File(path) as file:
        vectors = file["vectors"][:]
        columns = {name: file[name].asstr()[:].tolist() for name in ("id", "input", "formula",
                                                                     "status")}  # fmt: skip
        assert run.id in file.attrs["model"]
    for name, texts in columns.items():
        assert texts == [row[name] for row in rows]
    assert columns["id"][3] == "bad" and np.isnan(vectors[3]).all()
    model = phase2hpc.load_model(run)
    np.testing.assert_allclose(vectors, model.features(source), rtol=1e-5, atol=1e-6)
    code, _, _ = command("predict", source, *options)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["vectors"][:], vectors)


def test_of_several_models_they_are_refused(
    trained: dict[str, RunDirectory], tiny: Any, command: Command, tmp_path: Path
) -> None:
    runs = ",".join(str(run.path) for run in trained.values())
    path = tmp_path / "v.h5"
    code, _, err = command("predict", tiny.source, "--run", runs, "--features", path)
    assert code == 2 and "the vectors of 2 models are unrelated" in err and err.count("\n") == 1
    code, _, err = command("predict", tiny.source, "--run", trained["cgcnn"].path, "--features",
                           tmp_path / "v.csv")  # fmt: skip
    assert code == 2 and ".h5" in err and not path.exists()
