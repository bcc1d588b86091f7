"""A user's own label columns from ``prepare`` to predictions: settings, folds, auxiliaries."""

from __future__ import annotations

import csv
import json
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import LITTLE, Tiny

from phase2hpc.analysis.comparison import compare
from phase2hpc.analysis.report import report_html
from phase2hpc.analysis.run_results import results_of_run
from phase2hpc.cluster.monitor.scheduler import SlurmScheduler
from phase2hpc.config.properties import ColumnSettings, parse_columns, parse_renames
from phase2hpc.data.composition import composition_key
from phase2hpc.data.elements import ATOMIC_NUMBERS
from phase2hpc.data.prepare import prepare_store
from phase2hpc.data.splits import SPLITS
from phase2hpc.data.store.info import read_info
from phase2hpc.data.store.merge import merge_stores
from phase2hpc.data.store.reader import Store
from phase2hpc.data.store.verify import verify_store
from phase2hpc.errors import InputError, StoppedEarly
from phase2hpc.inference.export import export_runs
from phase2hpc.inference.labelled_predictions import read_labelled_predictions
from phase2hpc.inference.trained_model import TrainedModel
from phase2hpc.runs.listing import show_text
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.runs.state import status_of
from phase2hpc.training import trainer_state
from phase2hpc.training.request import TrainRequest, check_request
from phase2hpc.training.runner import train
from phase2hpc.training.trainer import Trainer

Command = Callable[..., tuple[int, str, str]]
FOLDS = 4


@pytest.fixture(scope="module")
def source(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny source with own columns only, one of them over many decades."""
    path = tmp_path_factory.mktemp("own") / "own.jsonl"
    lines = []
    for number, record in enumerate(tiny.records):
        size = float(len(record["species"]))
        own = {"tail (GPa)": 10.0 ** (number % 7), "size": size, "flag": number % 2 == 0}
        lines.append(json.dumps({**record, "properties": own}) + "\n")
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def store(source: Path) -> Path:
    columns = parse_columns(["tail:min=1,scale=log", "size:unit=atoms,scale=auto"])
    path = source.with_suffix(".h5")
    prepare_store([source], path, columns=columns, folds=FOLDS, workers=1)
    return path


def request(store: Path, models: Path, **options: Any) -> TrainRequest:
    asked = TrainRequest("cgcnn", "lite", models, store=store, overrides=LITTLE["cgcnn"])
    return replace(asked, **options)


def test_the_store_keeps_the_settings(store: Path, tmp_path: Path) -> None:
    info = read_info(store)
    assert info.columns == {
        "flag": ColumnSettings(unit=""),
        "size": ColumnSettings(unit="atoms", scale="auto"),
        "tail": ColumnSettings(unit="GPa", lower_bound=1.0, scale="log"),
    }
    assert verify_store(store).ok
    with h5py.File(store) as file:
        assert file.attrs["schema_version"] == 2
    merged = merge_stores([store, store], tmp_path / "merged.h5").path
    assert read_info(merged).columns == info.columns
    tampered = tmp_path / "tampered.h5"
    tampered.write_bytes(store.read_bytes())
    with h5py.File(tampered, "a") as file:
        file["labels/tail"].attrs["lower_bound"] = 2.0
    assert "content hash does not match" in verify_store(tampered).problems[0]


@pytest.mark.parametrize(
    ("name", "value"), [("scale", "sqrt"), ("lower_bound", np.nan), ("lower_bound", "a")]
)
def test_settings_that_cannot_be_are_damage(
    store: Path, tmp_path: Path, name: str, value: Any
) -> None:
    copy = tmp_path / "copy.h5"
    copy.write_bytes(store.read_bytes())
    with h5py.File(copy, "a") as file:
        file["labels/tail"].attrs[name] = value
    with pytest.raises(InputError, match=f"'{name}' of a label column is no"):
        Store.open(copy)


def test_a_store_without_settings_is_of_the_first_version(tiny: Tiny) -> None:
    with h5py.File(tiny.store) as file:
        assert file.attrs["schema_version"] == 1


def test_folds_are_leak_free_and_cover_everything(store: Path) -> None:
    opened, streamed = Store.open(store), Store.open(store, budget=0)
    assert opened.arrays is not None
    numbers = opened.arrays
    formulas = np.array(
        [
            composition_key(numbers.atomic_number[a:b])
            for a, b in zip(numbers.node_ptr[:-1], numbers.node_ptr[1:], strict=True)
        ]
    )
    own = opened.split.copy()
    tested: list[int] = []
    for fold in range(1, FOLDS + 1):
        opened.use_fold(fold)
        streamed.use_fold(fold)
        assert np.array_equal(opened.split, streamed.split)
        assert np.array_equal(opened.arrays.split, opened.split)
        for either in (opened, streamed):
            assert np.array_equal(either.read_block(3, 11).split, opened.split[3:11])
            copy = pickle.loads(pickle.dumps(either))
            assert np.array_equal(copy.read_block(3, 11).split, opened.split[3:11])
        sets = [set(formulas[opened.split_indices(name)]) for name in SPLITS]
        assert all(sets) and not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
        tested += opened.split_indices("test").tolist()
        if fold == 1:
            assert np.array_equal(opened.split, own)
    assert sorted(tested) == list(range(len(opened)))
    with pytest.raises(InputError, match=f"has folds 1 to {FOLDS}"):
        opened.use_fold(FOLDS + 1)


@pytest.fixture(scope="module")
def runs(store: Path, tmp_path_factory: pytest.TempPathFactory) -> list[RunDirectory]:
    models = tmp_path_factory.mktemp("models")
    return [train(request(store, models, fold=fold, run_id=f"f{fold}")) for fold in (1, 2)]


def test_the_store_columns_are_trained_by_default(runs: list[RunDirectory]) -> None:
    config = runs[0].read_config()
    assert config.properties == ("flag", "size", "tail") and config.fold == 1
    assert config.column("tail") == ColumnSettings(unit="GPa", lower_bound=1.0, scale="log")
    best = TrainedModel.load(runs[0].best)
    assert best.scaler.scales["tail"] == "log" and best.scaler.units["tail"] == "GPa"
    with runs[0].predictions_test.open() as file:
        rows = list(csv.DictReader(file))
    assert min(float(row["tail"]) for row in rows) >= 1.0
    with runs[0].metrics_csv.open() as file:
        assert {row["property"]: row["unit"] for row in csv.DictReader(file)}["size"] == "atoms"


def test_folds_are_pooled(
    runs: list[RunDirectory], tiny: Tiny, trained: Any, command: Command
) -> None:
    (group,) = compare(list(map(results_of_run, runs))).groups
    tables = [read_labelled_predictions(run.predictions_test) for run in runs]
    errors = np.abs(np.concatenate([table.error("size") for table in tables]))
    errors = errors[np.isfinite(errors)]
    found = group.mean_error("size")
    assert found.n == len(errors) and found.mae == pytest.approx(errors.mean())
    assert found.se == pytest.approx(errors.std(ddof=1) / np.sqrt(len(errors)))
    assert group.name == "cgcnn lite, 2 folds"
    models = runs[0].path.parent.parent
    code, out, _ = command("runs", "compare", "f1", "f2", "--models-dir", models, "--json")
    (record,) = json.loads(out)["groups"]
    assert code == 0 and record["mae"]["size"] == pytest.approx(errors.mean())
    assert record["folds"] == [1, 2]
    code, out, _ = command("runs", "compare", "f1", "f2", "--models-dir", models)
    assert code == 0 and "fold 1, seed 0" in out
    code, _, err = command("runs", "compare", runs[0].path, trained["cgcnn"].path)
    assert code == 2 and "were trained on different stores" in err


def test_different_test_sets_are_not_ranked(
    runs: list[RunDirectory], store: Path, tmp_path: Path
) -> None:
    plain = train(request(store, tmp_path, run_id="plain", properties="size"))
    with pytest.raises(InputError, match="different test sets"):
        compare(list(map(results_of_run, [runs[0], plain])))
    other = train(request(store, tmp_path, run_id="other", properties="size", fold=3))
    with pytest.raises(InputError, match="tested on different folds"):
        compare(list(map(results_of_run, [runs[0], other])))


def test_auxiliary_properties_are_trained_and_not_reported(store: Path, tmp_path: Path) -> None:
    run = train(request(store, tmp_path, properties="size", auxiliary="tail,flag"))
    best = TrainedModel.load(run.best)
    assert best.model.properties == ("size", "tail", "flag")
    assert best.scaler.reported == ("size",)
    assert set(json.loads(run.metrics_json.read_text())["test"]) == {"size"}
    assert run.predictions_test.read_text().splitlines()[0] == (
        "id,formula,atoms,size_target,size,size_sigma,size_low,size_high,size_error"
    )
    losses = json.loads(run.history.read_text())[0]["train_losses"]
    assert set(losses) == {"size", "tail", "flag"} and all(losses.values())
    shown = show_text([status_of(run, SlurmScheduler())])
    for line in ("auxiliary properties *tail, flag", "columns *size:unit=atoms,.*tail:unit=GPa"):
        assert re.search(line, shown), line
    assert "tail, flag" in report_html([results_of_run(run)])
    card = export_runs([run], tmp_path / "exported").model_card.read_text()
    assert "\nLabels of tail, flag were trained too" in card
    with pytest.raises(InputError, match="size: in --properties and in --auxiliary"):
        train(request(store, tmp_path, properties="size", auxiliary="size"))


def test_crystals_without_a_label_of_the_run_are_left_out(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their elements are not known to the model, and no distance is measured to them."""
    unlabelled = next(iter(tiny.of_split("train")[0]["species"]))
    records = []
    for record in tiny.records:
        own = {} if unlabelled in record["species"] else {"size": float(len(record["species"]))}
        records.append({**record, "properties": {**own, "other": 1.0}})
    source = tmp_path / "half.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    prepare_store([source], tmp_path / "half.h5", workers=1)
    counted = [r for r in records if r["split"] == "train" and "size" in r["properties"]]
    asked = request(tmp_path / "half.h5", tmp_path, properties="size")
    asked = replace(asked, overrides={**asked.overrides, "max_samples": 1000})
    run = train(asked)
    assert "left out" in capsys.readouterr().out
    assert run.read_manifest().training_crystals == len(counted)
    best = TrainedModel.load(run.best)
    assert ATOMIC_NUMBERS[unlabelled] not in best.elements
    assert len(load_file(run.calibration)["embedding.crystals"]) == len(counted)
    everything = train(replace(asked, auxiliary="other", run_id="all"))
    assert everything.read_manifest().training_crystals == len(tiny.of_split("train"))
    assert "left out" not in capsys.readouterr().out


@pytest.mark.parametrize("unlabelled", [True, False])
def test_a_run_that_drew_unlabelled_crystals_is_not_resumed_in_silence(
    unlabelled: bool, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are such crystals; the epoch in work then begins anew."""
    source, store = tmp_path / "own.jsonl", tmp_path / "own.h5"
    with source.open("w") as file:
        for number, record in enumerate(tiny.records):
            own = {} if unlabelled and number % 3 == 0 else {"size": 1.0 * len(record["species"])}
            print(json.dumps({**record, "properties": own}), file=file)
    prepare_store([source], store, workers=1)
    asked = request(store, tmp_path, properties="size", run_id="old")
    with monkeypatch.context() as older:
        older.setattr(trainer_state, "NUMERICS_VERSION", trainer_state.DRAWS_UNLABELLED)
        train(replace(asked, overrides={**asked.overrides, "epochs": 1}))
    again = replace(asked, resume=True, overrides={"epochs": 2})
    if unlabelled:
        with pytest.raises(InputError, match="crystals without a label of the run's properties"):
            train(again)
        again = replace(again, accept_changes=True)
    assert train(again).read_manifest().state == "finished"


@pytest.mark.parametrize("changed", ["seed", "max_samples"])
def test_bounds_follow_the_scaler_of_a_resumed_run(
    changed: str, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other crystals would give another scaler; the run keeps its own, and so do its bounds."""
    asked = request(tiny.store, tmp_path, properties="band_gap", run_id="one")
    train(replace(asked, overrides={**asked.overrides, "epochs": 1}))
    overrides: dict[str, Any] = {"epochs": 2}
    again = replace(asked, resume=True, accept_changes=True, overrides=overrides)
    again = replace(again, seed=7) if changed == "seed" else again
    if changed == "max_samples":
        overrides["max_samples"] = 30
    seen = []
    graphed = Trainer.optimise

    def looked_at(self: Trainer, *arguments: Any) -> bool:
        zeros = self.targets[self.training_labels[:, 0] == 0.0]
        assert len(zeros) and (zeros == self.loss.lower_bound).all()
        seen.append(1)
        return graphed(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "optimise", looked_at)
        train(again)
    assert seen


def test_a_run_with_folds_and_settings_resumes_exactly(
    store: Path, runs: list[RunDirectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0
    step = Trainer.optimise

    def stop_after_seven(self: Trainer, *arguments: Any) -> bool:
        nonlocal steps
        steps += 1
        done = step(self, *arguments)
        if steps == 7:
            raise StoppedEarly("by the test")
        return done

    monkeypatch.setattr(Trainer, "optimise", stop_after_seven)
    overrides = {**LITTLE["cgcnn"], "checkpoint_steps": 3}
    with pytest.raises(StoppedEarly):
        train(request(store, tmp_path, fold=2, run_id="f2", overrides=overrides))
    monkeypatch.undo()
    asked = TrainRequest("cgcnn", "lite", tmp_path, resume=True, run_id="f2")
    with pytest.raises(InputError, match="fold: 2 in the run, 1 requested"):
        train(replace(asked, fold=1))
    with pytest.raises(InputError, match="columns: "):
        train(replace(asked, columns=parse_columns(["tail:scale=asinh"])))
    # Settings that are the column's anyway.
    again = train(
        replace(asked, columns=parse_columns(["size:unit=atoms,scale=auto", "gap:scale=linear"]))
    )
    assert again.predictions_test.read_text() == runs[1].predictions_test.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overrides": {"epochs": -1}}, "'epochs' = -1"),
        ({"overrides": {"device": "gpu"}}, "'device' = 'gpu'"),
        ({"overrides": {"lr": float("nan")}}, "'lr' = nan"),
        ({"overrides": {"batch_size": 0}}, "'batch_size' = 0"),
        ({"algorithm": "e3nn", "overrides": {"gate_basis_size": 1}}, "0 (no gate) or at least 2"),
        ({"properties": "core5"}, "unknown property 'core5'"),
        ({"auxiliary": "gap"}, "unknown property 'gap'"),
        ({"fold": 0}, "'fold' = 0"),
        ({"level": "huge"}, "unknown level 'huge'"),
    ],
)
def test_wrong_settings_are_found_before_a_store_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = replace(TrainRequest("e3nn", "lite", tmp_path / "models"), **options)
    with pytest.raises(InputError) as caught:
        train(asked)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    check_request(TrainRequest("e3nn", "lite", tmp_path, store=tmp_path / "s", properties="mine"))


def test_labels_that_a_setting_contradicts(store: Path, tmp_path: Path) -> None:
    for text, message in (
        ("flag:scale=log", "flag: a log scale needs positive labels, 75 of 150"),
        ("size:min=1000", "size: its lower bound of 1000 is above half of the labels"),
    ):
        with pytest.raises(InputError, match=message):
            train(request(store, tmp_path, columns=parse_columns([text])))
    with pytest.raises(InputError, match="--column other: not among the properties"):
        train(request(store, tmp_path, columns=parse_columns(["other:min=1"])))
    with pytest.raises(InputError, match="without folds: prepare it with --folds"):
        Store.open(merge_stores([store, store], tmp_path / "m.h5").path).use_fold(1)
    assert not list(tmp_path.glob("multitask*"))


def test_two_sources_with_renamed_columns(source: Path, tiny: Tiny, tmp_path: Path) -> None:
    other = tmp_path / "b.jsonl"
    records = [{**r, "id": f"b-{r['id']}"} for r in tiny.records]
    other.write_text("".join(json.dumps(record) + "\n" for record in records))
    first = tmp_path / "a.jsonl"
    with_another = ({**r, "properties": {**r["properties"], "only_a": 1}} for r in tiny.records)
    first.write_text("".join(json.dumps(record) + "\n" for record in with_another))
    names = parse_renames(["b.jsonl:optb88vdw_bandgap=mp_gap"])
    path = tmp_path / "both.h5"
    summary = prepare_store([tiny.source, other], path, rename=names, workers=1)
    assert summary.labels["mp_gap"] == summary.labels["band_gap"]
    opened = Store.open(path)
    half = len(opened) // 2
    assert np.isnan(opened.labels["mp_gap"][:half]).all()
    assert np.isnan(opened.labels["band_gap"][half:]).all()
    # Also where another column, or another source, has the name.
    for wrong, message in (
        ("c.jsonl:a=b", "no such source"),
        ("a=b", "no label column 'a'"),
        ("gap=band_gap", "no label column 'gap'"),
        ("b.jsonl:gap=band_gap", "no label column 'gap' in b.jsonl, in all sources there are: "),
        ("b.jsonl:only_a=band_gap", "no label column 'only_a' in b.jsonl"),
    ):
        with pytest.raises(InputError, match=message):
            prepare_store(
                [first, other], tmp_path / "x.h5", rename=parse_renames([wrong]), workers=1
            )
    with pytest.raises(InputError, match="--column nothing: no label column"):
        columns = parse_columns(["nothing:min=0"])
        prepare_store([other], tmp_path / "x.h5", columns=columns, workers=1)
    assert not (tmp_path / "x.h5").exists()
