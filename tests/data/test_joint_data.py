"""The joint training data: nothing of val or test leaks into what is added to train."""

from __future__ import annotations

import gzip
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from paths import ROOT, SAMPLE

import phase2hpc
from phase2hpc.config.properties import GROUPS, PROPERTIES
from phase2hpc.data.composition import composition_key
from phase2hpc.data.elements import ATOMIC_NUMBERS
from phase2hpc.data.splits import formula_split
from phase2hpc.data.store.reader import Store
from phase2hpc.inference.batched import infer
from phase2hpc.inference.trained_model import TrainedModel

MP_COLUMNS = {"mp_formation_energy", "mp_gap"}


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("joint") / "joint.jsonl.gz"
    script = ROOT / "benchmarks/joint_data.py"
    subprocess.run([sys.executable, script, out], check=True, timeout=120)
    return read(out)


def read(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


def numbers(record: dict[str, Any]) -> list[int]:
    return [ATOMIC_NUMBERS[symbol] for symbol in record["species"]]


def test_no_compound_of_val_or_test_is_added(joint: list[dict[str, Any]]) -> None:
    sample = {record["id"]: record for record in read(SAMPLE)}
    kept_out = {composition_key(numbers(r)) for r in sample.values() if r["split"] != "train"}
    added = [record for record in joint if record["id"] not in sample]
    assert len(added) > 20_000
    for record in added:
        assert record["split"] == "train", record["id"]
        assert formula_split(numbers(record)) == "train", record["id"]
        assert composition_key(numbers(record)) not in kept_out, record["id"]
        assert record["properties"].keys() <= MP_COLUMNS, record["id"]


def test_the_sample_is_in_it_unchanged_but_for_mp_labels_of_train(
    joint: list[dict[str, Any]],
) -> None:
    by_id = {record["id"]: record for record in joint}
    assert len(by_id) == len(joint)
    with_mp_labels = 0
    for record in read(SAMPLE):
        own = by_id[record["id"]]
        further = {k: own["properties"].pop(k) for k in MP_COLUMNS & own["properties"].keys()}
        assert own == record
        assert not further or record["split"] == "train"
        with_mp_labels += bool(further)
    assert with_mp_labels > 8_000


def test_substituted_crystals_are_new_compounds_of_train_without_labels(tmp_path: Path) -> None:
    given = read(SAMPLE)[:300]
    source, out = tmp_path / "in.jsonl.gz", tmp_path / "out.jsonl.gz"
    with gzip.open(source, "wt") as file:
        file.writelines(f"{json.dumps(record)}\n" for record in given)
    script = ROOT / "benchmarks/substituted_crystals.py"
    subprocess.run([sys.executable, script, source, out, "200"], check=True, timeout=120)
    both = read(out)
    assert both[:300] == given
    new = both[300:]
    assert len({record["id"] for record in new}) == len(new) == 200
    train = {r["id"]: r["species"] for r in given if r["split"] == "train"}
    for record in new:
        assert record["split"] == "train" and not record["properties"]
        assert formula_split(numbers(record)) == "train"
        old = train[record["id"].partition("-substituted-")[0]]
        exchanged = set(zip(old, record["species"], strict=True))
        assert old != record["species"]
        assert len(set(old)) == len(set(record["species"])) == len(exchanged)


def test_soft_labels_are_given_to_training_crystals_alone(tmp_path: Path) -> None:
    """And only where there is no label."""
    sample = read(SAMPLE)
    given = [record for record in sample if record["split"] == "train"][:9]
    given += [next(r for r in sample if r["split"] == split) for split in ("val", "test")]
    source, store, out = (tmp_path / name for name in ("in.jsonl.gz", "in.h5", "out.jsonl.gz"))
    with gzip.open(source, "wt") as file:
        file.writelines(f"{json.dumps(record)}\n" for record in given)
    phase2hpc.prepare(source, store, split="column", workers=1)
    script = ROOT / "benchmarks/soft_labels.py"
    model = ROOT / "models/pretrained/e3nn-std"
    subprocess.run([sys.executable, script, source, store, model, out], check=True, timeout=120)
    columns = {PROPERTIES[name].jarvis_field for name in GROUPS["priority7"]}
    for before, after in zip(given, read(out), strict=True):
        if before["split"] != "train":
            assert after == before
            continue
        labels = after["properties"]
        assert columns <= labels.keys() and labels | before["properties"] == labels
        assert labels.keys() <= columns | before["properties"].keys()


def test_soft_labels_are_corrected_by_the_error_of_an_auxiliary_property(tmp_path: Path) -> None:
    """Formation energy and gaps of the run that predicts both, the rest the mean of the others."""
    given = read(SAMPLE)[:150]
    for i, record in enumerate(given):
        labels = record["properties"]
        if i % 2 and record["split"] == "train" and "formation_energy_peratom" in labels:
            labels["mp_formation_energy"] = labels["formation_energy_peratom"] + 0.1
            labels["mp_gap"] = labels.get("optb88vdw_bandgap", 0.0)
    source, path = tmp_path / "in.jsonl.gz", tmp_path / "in.h5"
    with gzip.open(source, "wt") as file:
        file.writelines(f"{json.dumps(record)}\n" for record in given)
    phase2hpc.prepare(source, path, split="column", workers=1)
    run = phase2hpc.train(
        path,
        algorithm="e3nn",
        level="lite",
        properties="priority7",
        auxiliary="mp_formation_energy,mp_gap",
        models_dir=tmp_path / "models",
        epochs=1,
    )
    script = runpy.run_path(str(ROOT / "benchmarks/soft_labels.py"))
    names, corrected = GROUPS["priority7"], script["CORRECTED"]
    store = Store.open(path)
    rows = store.split_indices("train")
    best = TrainedModel.load(run.weights)
    scaled = infer(best.model, store, rows, device=torch.device("cpu")).scaled
    found = best.scaler.physical_of_all(scaled)
    one, other = (ROOT / "models/pretrained" / name for name in ("e3nn-std", "cgcnn-std"))
    of_each = [script["mean_predictions"](store, rows, [model]) for model in (one, other)]
    plain = (2 * of_each[0] + of_each[1]) / 3
    mean = script["mean_predictions"](store, rows, [one, run.path, other, one])
    place = best.scaler.properties.index
    for column, name in enumerate(names):
        expected = plain[:, column]
        if name in corrected:
            auxiliary = corrected[name]
            label = store.label_matrix([auxiliary], rows)[:, 0]
            assert 0 < np.isnan(label).sum() < len(label)
            error = found[:, place(auxiliary)] - label
            expected = found[:, place(name)] - np.where(np.isnan(label), 0.0, error)
        np.testing.assert_allclose(mean[:, column], expected, rtol=1e-5, atol=1e-5)


def test_soft_gaps_of_metals_are_zero_and_contradict_no_label() -> None:
    make = runpy.run_path(str(ROOT / "benchmarks/soft_labels.py"))["with_soft_labels"]
    names = GROUPS["priority7"]
    fields = [PROPERTIES[name].jarvis_field for name in ("band_gap", "band_gap_mbj")]

    def gaps(gap: float, mbj: float, **labels: float) -> list[float | None]:
        known = {"band_gap": gap, "band_gap_mbj": mbj}
        values = [known.get(name, 1.0) for name in names]
        found = make({"properties": labels}, values)["properties"]
        return [found.get(field) for field in fields]

    assert gaps(0.019, 0.3) == [0.0, 0.3]
    assert gaps(0.5, 0.01, mp_gap=1.0) == [0.5, 0.0]
    assert gaps(0.5, 0.01, mp_gap=0.0) == [None, 0.0]
    # A label of the crystal's own stays.
    assert gaps(0.5, 0.6, mp_gap=0.0, optb88vdw_bandgap=0.4) == [0.4, None]
