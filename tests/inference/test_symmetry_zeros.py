"""Predictions are zero where symmetry says so, and such labels train nothing."""

from __future__ import annotations

import numpy as np
import torch
from crystals import IDS, arrays_of, sample_crystals
from tiny import Tiny

from phase2hpc.config.algorithms import ALGORITHMS
from phase2hpc.data.graph import GraphSettings
from phase2hpc.data.store.reader import Store
from phase2hpc.inference.batched import infer
from phase2hpc.inference.symmetry_zeros import zero_by_symmetry
from phase2hpc.inference.target_scaler import TargetScaler
from phase2hpc.models.multitask import build_model
from phase2hpc.training.symmetry_labels import without_symmetry_zeros

PROPERTIES = ("band_gap", "piezoelectric")
GRAPH = GraphSettings()


@torch.no_grad()
def test_forbidden_by_symmetry_is_zero_in_predictions() -> None:
    crystals = arrays_of(sample_crystals(), GRAPH, float64=False)
    indices = np.arange(len(crystals))
    labels = np.array([[0.0, 1.0], [1.0, 9.0], [4.0, 60.0]])
    scaler = TargetScaler.fit(PROPERTIES, labels)
    algorithm = ALGORITHMS["e3nn"]
    settings = algorithm.settings(**algorithm.presets["small"])
    model = build_model(algorithm, settings, GRAPH, PROPERTIES).eval()
    found = infer(model, crystals, indices, device=torch.device("cpu")).physical(scaler)
    zero = zero_by_symmetry(crystals, indices, PROPERTIES)
    names = list(IDS)
    assert not zero[:, 0].any()
    assert zero[names.index("JVASP-91"), 1], "diamond"
    assert zero[names.index("JVASP-14545"), 1], "rocksalt"
    assert not zero[names.index("JVASP-16336"), 1], "half-Heusler"
    assert (found[zero] == 0).all()
    assert (found[:, 1][~zero[:, 1]] > 0).all()


def test_labels_decided_by_symmetry_train_nothing(tiny: Tiny) -> None:
    store = Store.open(tiny.store)
    labels = np.stack([store.labels[name] for name in PROPERTIES], axis=1).astype(np.float64)
    kept = without_symmetry_zeros(store, labels, PROPERTIES)
    assert np.array_equal(kept[:, 0], labels[:, 0], equal_nan=True)
    removed = np.isfinite(labels[:, 1]) & np.isnan(kept[:, 1])
    assert removed.any() and (labels[removed, 1] < 0.01).all()
    assert (kept[np.isfinite(kept[:, 1]), 1] > 0.01).all()


def test_a_property_with_no_other_labels_keeps_them(tiny: Tiny) -> None:
    store = Store.open(tiny.store)
    labels = np.stack([store.labels[name] for name in PROPERTIES], axis=1).astype(np.float64)
    labels[labels[:, 1] > 0.01, 1] = np.nan
    assert np.array_equal(without_symmetry_zeros(store, labels, PROPERTIES), labels, equal_nan=True)
