"""An exported model predicts as its run does and holds no paths or host of this machine."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from phase2hpc.config.properties import PROPERTIES
from phase2hpc.errors import InputError
from phase2hpc.inference.export import export_run
from phase2hpc.runs.model_selection import runs_to_predict_with
from phase2hpc.runs.registry import find_run
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils.package_files import pretrained_models, sample_source, shared_path

Command = Callable[..., tuple[int, str, str]]
EXAMPLES = shared_path("data/examples")


@pytest.mark.parametrize("algorithm", ["e3nn", "cgcnn"])
def test_export_predicts_as_its_run(
    trained: dict[str, RunDirectory], tmp_path: Path, command: Command, algorithm: str
) -> None:
    run = trained[algorithm]
    code, out, _ = command("export", run.path, tmp_path / "given")
    assert code == 0 and str(tmp_path / "given") in out
    outputs = []
    for model in (run.path, tmp_path / "given"):
        output = tmp_path / "preds.csv"
        assert command("predict", "--dir", EXAMPLES, "--run", model, "--output", output)[0] == 0
        outputs.append(output.read_text())
    assert outputs[0] == outputs[1] and outputs[0].count(",ok,") == len(list(EXAMPLES.iterdir()))
    code, out, _ = command("runs", "show", tmp_path / "given", "--handoff")
    assert code == 0 and "formation_energy" in out


def test_nothing_of_this_machine_is_exported(
    trained: dict[str, RunDirectory], tmp_path: Path
) -> None:
    run = trained["cgcnn"]
    exported = export_run(run, tmp_path / "given")
    private = (str(run.path.parent.parent), str(Path.home()), f'"{socket.gethostname()}"')
    for file in exported.path.iterdir():
        content = file.read_bytes()
        assert not any(text.encode() in content for text in private), file.name


def test_only_a_finished_run_to_a_new_folder(
    trained: dict[str, RunDirectory], tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="already exists"):
        export_run(trained["cgcnn"], tmp_path / "full")
    half = RunDirectory(tmp_path / "run_half")
    half.path.mkdir()
    half.write_manifest(trained["cgcnn"].read_manifest().model_copy(update={"state": "stopped"}))
    with pytest.raises(InputError, match="only a finished run"):
        export_run(half, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_shipped_model_serves_where_nothing_is_trained(
    tmp_path: Path, command: Command, trained: dict[str, RunDirectory]
) -> None:
    shipped = pretrained_models()
    assert shipped, "models/pretrained is empty"
    assert [run.path for run in runs_to_predict_with(tmp_path, None)] == shipped[:1]
    code, out, _ = command(
        "predict", "--cif", EXAMPLES / "HfN-rocksalt.cif", "--models-dir", tmp_path
    )
    assert code == 0 and "formation_energy" in out
    assert command("runs", "show", shipped[0].name, "--models-dir", tmp_path)[0] == 0
    namesake = RunDirectory(tmp_path / "multitask_std_e3nn" / f"run_{shipped[0].name}")
    namesake.path.mkdir(parents=True)
    assert find_run(tmp_path, shipped[0].name) == namesake


def test_the_shipped_model_has_the_errors_it_says(tmp_path: Path, command: Command) -> None:
    """On all test crystals of the sample, read from its source again."""
    (shipped,) = pretrained_models()
    said = json.loads(RunDirectory(shipped).metrics_json.read_text())["test"]
    with gzip.open(sample_source(), "rt") as lines:
        records = [record for record in map(json.loads, lines) if record["split"] == "test"]
    source, output = tmp_path / "test.jsonl", tmp_path / "preds.json"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert command("predict", source, "--run", shipped, "--output", output)[0] == 0
    rows = json.loads(output.read_text())
    assert [row["id"] for row in rows] == [record["id"] for record in records]
    for name, known in PROPERTIES.items():
        labels = [record["properties"].get(known.jarvis_field) for record in records]
        pairs = [(row[name], y) for row, y in zip(rows, labels, strict=True) if y is not None]
        mae = sum(abs(prediction - label) for prediction, label in pairs) / len(pairs)
        assert len(pairs) == said[name]["n"]
        assert mae == pytest.approx(said[name]["mae"], rel=1e-4), name
