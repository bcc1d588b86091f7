"""Training that starts from another model: what is taken over, and an encoder that is frozen."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from same_run import assert_same_run

from phase2hpc.checkpointing.manager import load_best, load_newest
from phase2hpc.config.algorithm_registry import algorithm_named
from phase2hpc.config.settings import MAX_EPOCHS
from phase2hpc.data.graph import GraphSettings
from phase2hpc.data.prepare import prepare_store
from phase2hpc.data.store.reader import Store
from phase2hpc.errors import InputError, StoppedEarly
from phase2hpc.inference.batched import infer
from phase2hpc.inference.target_scaler import TargetScaler
from phase2hpc.inference.trained_model import TrainedModel
from phase2hpc.models.multitask import MultiTaskModel, build_model
from phase2hpc.training.request import train_request


def encoder(run) -> dict[str, torch.Tensor]:
    weights = load_best(run.best)["weights"]
    return {key: value for key, value in weights.items() if key.startswith("encoder.")}


def test_it_says_what_was_taken_over(trained, train_tiny, tmp_path, capsys) -> None:
    train_tiny(tmp_path, init_from=trained["cgcnn"], properties="band_gap,mass", epochs=1)
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("start from ")]
    count = sum(tensor.numel() for tensor in encoder(trained["cgcnn"]).values())
    assert f"run_cgcnn: taken over: encoder ({count:,} weights), heads of band_gap; " in line
    assert "; new: heads of mass; not taken over: heads of formation_energy, " in line


def test_a_head_is_converted_to_the_new_scale(trained, tiny) -> None:
    """The new data set has other means and deviations; predictions stay what they were."""
    best, store = TrainedModel.load(trained["cgcnn"].best), Store.open(tiny.store)
    names = ("bulk_modulus", "formation_energy")
    rng = np.random.default_rng(0)
    scaler = TargetScaler.fit(names, rng.normal(size=(50, 2)) * (7.0, 0.1) + (300.0, 5.0))
    model = build_model(
        algorithm_named("cgcnn"), best.config.model, best.graph_settings, names
    ).eval()
    best.copy_into(model, scaler)
    indices, cpu = np.arange(20), torch.device("cpu")
    expected = infer(best.model, store, indices, device=cpu).physical(best.scaler)
    found = infer(model, store, indices, device=cpu).physical(scaler)
    for column, name in enumerate(names):
        there = expected[:, best.scaler.reported.index(name)]
        np.testing.assert_allclose(found[:, column], there, rtol=1e-4, atol=1e-4)


def test_a_head_of_another_size_is_new(trained) -> None:
    best = TrainedModel.load(trained["cgcnn"].best)
    settings = best.config.model.model_copy(update={"head_hidden": 7})
    model = build_model(
        algorithm_named("cgcnn"), settings, best.graph_settings, best.model.properties
    )
    text = best.copy_into(model, best.scaler)
    assert text.startswith("taken over: encoder (") and "; new: heads of formation_energy" in text


@pytest.mark.parametrize("algorithm", ["e3nn", "cgcnn"])
def test_weights_that_older_models_lack_begin_at_zero(algorithm, trained, tiny) -> None:
    """A model from before there was an electron parity goes on as the same function."""
    best, store = TrainedModel.load(trained[algorithm].best), Store.open(tiny.store)

    def built(**changes: bool) -> MultiTaskModel:
        settings = best.config.model.model_copy(update=changes)
        chosen = algorithm_named(algorithm)
        return build_model(chosen, settings, best.graph_settings, best.model.properties).eval()

    older = replace(best, model=built(electron_parity=False))
    newer = built()
    assert "; new, zero: embedding.parity.weight of the encoder" in older.copy_into(
        newer, best.scaler
    )
    indices, cpu = np.arange(20), torch.device("cpu")
    found, expected = (infer(m, store, indices, device=cpu).scaled for m in (newer, older.model))
    np.testing.assert_array_equal(found, expected)
    other = replace(best, model=built(element_descriptors=False))
    with pytest.raises(InputError, match=r"that differ: embedding\.\S+ \(none there, "):
        other.copy_into(newer, best.scaler)


@pytest.mark.parametrize("algorithm", ["e3nn", "cgcnn"])
def test_a_frozen_encoder_stays_as_it_is(algorithm, trained, train_tiny, tmp_path) -> None:
    """Its statistics too, while the heads learn."""
    source = trained[algorithm]
    run = train_tiny(
        tmp_path, algorithm, init_from=source, properties="all9", frozen_epochs=MAX_EPOCHS, epochs=2
    )
    before = encoder(source)
    assert all(torch.equal(value, before[key]) for key, value in encoder(run).items())
    heads = [key for key in load_best(run.best)["weights"] if key.startswith("heads.")]
    old, new = load_best(source.best)["weights"], load_best(run.best)["weights"]
    assert any(not torch.equal(old[key], new[key]) for key in heads)


def test_then_it_learns(trained, train_tiny, tmp_path) -> None:
    source = trained["cgcnn"]
    run = train_tiny(
        tmp_path, init_from=source, properties="all9", frozen_epochs=1, epochs=2, ema_decay=0.0
    )
    state = load_newest(run)
    assert state is not None
    before = encoder(source)
    assert any(
        not torch.equal(value, before[key])
        for key, value in state[0]["model"].items()
        if key.startswith("encoder.") and value.is_floating_point()
    )


def test_resumed_in_a_frozen_epoch_it_is_the_same_run(trained, train_tiny, tmp_path) -> None:
    options = {"init_from": trained["cgcnn"], "frozen_epochs": 1, "epochs": 2}
    reference = train_tiny(tmp_path / "a", **options)
    with pytest.raises(StoppedEarly):
        train_tiny(tmp_path / "b", max_hours=1e-9, **options)
    run = train_tiny(tmp_path / "b", resume=True, max_hours=None)
    assert_same_run(run, reference)


def request(**changes):
    return train_request(
        **{
            "algorithm": "cgcnn", "level": "lite", "store": None, "models_dir": "models",
            "properties": None, "all_properties": False, "auxiliary": None, "column": None,
            "fold": None, "resume": False, "run_id": None, "init_from": "e3nn-std", "seed": None,
            "accept_changes": False, "settings": {}, **changes,
        }
    )  # fmt: skip


def test_freeze_is_encoder_or_its_first_epochs() -> None:
    assert request(freeze="encoder").overrides == {"frozen_epochs": MAX_EPOCHS}
    assert request(freeze="encoder:5").overrides == {"frozen_epochs": 5}
    for wrong in ("heads", "encoder:", "encoder:0", "encoder:x", "5"):
        with pytest.raises(InputError, match="write encoder, or encoder:N"):
            request(freeze=wrong)
    with pytest.raises(InputError, match="--freeze: needs --init-from"):
        request(freeze="encoder", init_from=None)
    with pytest.raises(InputError, match="only one of them"):
        request(freeze="encoder", settings={"frozen_epochs": 3})


def test_an_encoder_of_other_graphs_is_not_frozen_and_said(
    trained, train_tiny, tiny, tmp_path, caplog
) -> None:
    store = tmp_path / "other.h5"
    prepare_store([tiny.source], store, GraphSettings(cutoff=4.0, max_neighbors=6), workers=1)
    options = {"init_from": trained["cgcnn"], "store": store, "epochs": 1}
    differences = "its and theirs: cutoff 6.0 and 4.0, max_neighbors 12 and 6"
    for frozen in (1, MAX_EPOCHS):
        with pytest.raises(InputError, match=rf"cannot be frozen.*other\.h5 \({differences}\)"):
            train_tiny(tmp_path / "models", frozen_epochs=frozen, **options)
    assert not (tmp_path / "models").exists()
    with caplog.at_level(logging.WARNING):
        train_tiny(tmp_path / "models", **options)
    assert f"start from run_cgcnn: it was trained on other graphs than those of {store} (" in (
        caplog.text
    )
    assert differences in caplog.text
    caplog.clear()
    train_tiny(tmp_path / "same", init_from=trained["cgcnn"], epochs=1)
    assert "other graphs" not in caplog.text
