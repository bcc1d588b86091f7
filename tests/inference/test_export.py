"""An exported model predicts as its run does and holds no paths or host of this machine."""

from __future__ import annotations

import gzip
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import phase2hpc
from phase2hpc.checkpointing.manager import load_best
from phase2hpc.config.properties import PROPERTIES
from phase2hpc.errors import InputError
from phase2hpc.inference.export import export_runs
from phase2hpc.inference.trained_model import TrainedModel
from phase2hpc.runs.ensemble import find_ensemble
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
    names = {path.name for path in (tmp_path / "given").iterdir()}
    assert names == {
        "README.md", "calibration.safetensors", "config.json", "manifest.json", "metrics.csv",
        "metrics.json", "model.json", "model.safetensors",
    }  # fmt: skip
    assert outputs[0] == outputs[1] and outputs[0].count(",ok,") == len(list(EXAMPLES.iterdir()))
    code, out, _ = command("runs", "show", tmp_path / "given", "--handoff")
    assert code == 0 and "formation_energy" in out


def test_nothing_of_this_machine_is_exported(
    trained: dict[str, RunDirectory], tmp_path: Path
) -> None:
    run = RunDirectory(shutil.copytree(trained["cgcnn"].path, tmp_path / "run_one"))
    config = run.read_config().model_copy(update={"init_from": str(run.path / "run_before")})
    run.write_config(config)
    run.update_manifest(
        message=f"{Path.home()}: no space", job_folder=str(run.path), job_ids=["17"],
    )  # fmt: skip
    best = TrainedModel.load(run.best)
    best.config = config
    best.save(run)
    exported = export_runs([run], tmp_path / "given")
    assert exported.read_config().init_from == "before"
    card = exported.model_card.read_text()
    assert "It began with the weights of before, whose data count as well." in card
    other = RunDirectory(shutil.copytree(run.path, tmp_path / "run_two"))
    best.config = config.model_copy(update={"init_from": str(tmp_path / "run_earlier")})
    best.save(other)
    card = export_runs([run, other], tmp_path / "both").model_card.read_text()
    assert "They began with the weights of before, earlier, whose data count as well." in card
    private = (
        str(tmp_path), str(trained["cgcnn"].path.parents[1]), str(Path.home()),
        f'"{socket.gethostname()}"',
    )  # fmt: skip
    for file in exported.path.iterdir():
        content = file.read_bytes()
        assert not any(text.encode() in content for text in private), file.name


def test_the_weights_are_read_without_phase2hpc(trained, tmp_path) -> None:
    exported = export_runs([trained["e3nn"]], tmp_path / "given")
    weights, state = load_file(exported.exported_weights), load_best(trained["e3nn"].best)
    assert weights.keys() == state["weights"].keys()
    assert all(torch.equal(weights[name], state["weights"][name]) for name in weights)
    scaler = json.loads(exported.model_json.read_text())["scaler"]
    assert scaler == state["scaler"]


def test_weights_exact_in_half_precision_take_half_the_space(trained, tmp_path) -> None:
    run = RunDirectory(shutil.copytree(trained["e3nn"].path, tmp_path / "run_half"))
    best = TrainedModel.load(run.best)
    for weight in best.model.parameters():
        weight.copy_(weight.half().float())
    best.save(run)
    exported = export_runs([run], tmp_path / "given")
    stored = load_file(exported.exported_weights)
    assert {stored[name].dtype for name, _ in best.model.named_parameters()} == {torch.float16}
    whole = export_runs([trained["e3nn"]], tmp_path / "whole")
    assert torch.float32 in {w.dtype for w in load_file(whole.exported_weights).values()}
    loaded = TrainedModel.load(exported.exported_weights)
    assert loaded.weights_hash == best.weights_hash


def test_the_card_says_what_others_need(trained, tmp_path, command) -> None:
    run = trained["cgcnn"]
    folder = tmp_path / "given"
    data = ("--data", "Labels of our group, $5 each.")
    assert command("export", run.path, folder, "--license", "CC BY 4.0", *data)[0] == 0
    card = (folder / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["license"] == "CC BY 4.0" and "cgcnn" in metadata["tags"]
    titles = ("Data", "Licence", "Errors", "Intended use", "Limits", "How to cite")
    assert all(f"\n## {title}\n" in card for title in titles)
    metrics = json.loads(run.metrics_json.read_text())["test"]["formation_energy"]
    assert f"{metrics['mae']:#.4g} ± {metrics['mae_se']:#.2g}" in card
    assert card.count("$") == 1 and "\nLabels of our group, $5 each.\n" in card
    assert "40 crystals" in card and "not stated" not in card


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"x" * 100),
        ("model.safetensors", None),
        ("model.json", b"[]"),
        ("model.json", b'{"kind": "best", "schema_version": 99}'),
        ("model.json", None),
        ("config.json", b"{}"),
    ],
)
def test_a_damaged_export_is_one_line(trained, tmp_path, command, name, content) -> None:
    exported = export_runs([trained["cgcnn"]], tmp_path / "given")
    file = exported.path / name
    file.unlink() if content is None else file.write_bytes(content)
    code, _, err = command(
        "predict", "--cif", EXAMPLES / "HfN-rocksalt.cif", "--run", exported.path
    )
    assert code == 2 and err.count("\n") == 1 and "Traceback" not in err


def test_an_exported_ensemble_predicts_as_its_members(
    train_tiny, tmp_path, command, monkeypatch
) -> None:
    runs = [train_tiny(tmp_path, seed=seed, run_id=f"s{seed}", epochs=1) for seed in range(2)]
    folder = tmp_path / "given"
    names = ",".join(str(run.path) for run in runs)
    assert command("export", names, folder)[0] == 0
    assert "The mean of the predictions of 2 models" in (folder / "README.md").read_text()
    outputs = []
    for model in (names, folder):
        output = tmp_path / "preds.csv"
        assert command("predict", "--dir", EXAMPLES, "--run", model, "--output", output)[0] == 0
        outputs.append(output.read_text())
    assert outputs[0] == outputs[1]
    frame = phase2hpc.load_model(folder).predict(EXAMPLES)
    assert len(frame) == len(list(EXAMPLES.iterdir()))


def test_an_exported_model_is_a_start_for_training(trained, train_tiny, tmp_path) -> None:
    exported = export_runs([trained["cgcnn"]], tmp_path / "given")
    runs = [
        train_tiny(tmp_path, init_from=source, run_id=name, epochs=1, properties="all9")
        for name, source in (("a", trained["cgcnn"]), ("b", exported))
    ]
    assert runs[0].metrics_json.read_bytes() == runs[1].metrics_json.read_bytes()


def test_only_a_finished_run_to_a_new_folder(
    trained: dict[str, RunDirectory], tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="already exists"):
        export_runs([trained["cgcnn"]], tmp_path / "full")
    with pytest.raises(InputError, match="two runs are named 'cgcnn'"):
        export_runs([trained["cgcnn"], trained["cgcnn"]], tmp_path / "new")
    half = RunDirectory(tmp_path / "run_half")
    half.path.mkdir()
    half.write_manifest(trained["cgcnn"].read_manifest().model_copy(update={"state": "stopped"}))
    with pytest.raises(InputError, match="only a finished run"):
        export_runs([half], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_shipped_model_serves_where_nothing_is_trained(
    tmp_path: Path, command: Command, trained: dict[str, RunDirectory]
) -> None:
    shipped = pretrained_models()
    assert shipped, "models/pretrained is empty"
    members = runs_to_predict_with(tmp_path, None)
    assert {run.path.parent for run in members} == {shipped[0]} and len(members) > 1
    code, out, _ = command(
        "predict", "--cif", EXAMPLES / "HfN-rocksalt.cif", "--models-dir", tmp_path
    )
    assert code == 0 and "formation_energy" in out
    for path in shipped:
        assert command("runs", "show", path.name, "--models-dir", tmp_path)[0] == 0
    with pytest.raises(InputError, match="is an ensemble: name one of its models, as .*run_"):
        find_run(tmp_path, shipped[0].name)
    namesake = RunDirectory(tmp_path / "multitask_std_e3nn" / f"run_{shipped[0].name}")
    namesake.path.mkdir(parents=True)
    assert find_run(tmp_path, shipped[0].name) == namesake
    assert find_ensemble(tmp_path, shipped[0].name) is None


@pytest.mark.parametrize("shipped", pretrained_models(), ids=lambda path: path.name)
def test_a_shipped_model_has_the_errors_it_says(
    shipped: Path, tmp_path: Path, command: Command
) -> None:
    """On all test crystals of the sample, read from its source again."""
    (folder, *_) = [*shipped.glob("ensemble_*"), shipped]
    said = json.loads(RunDirectory(folder).metrics_json.read_text())["test"]
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
