"""The training loop on a small real store."""

from __future__ import annotations

import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from phase2hpc.checkpointing.manager import load_best, load_newest
from phase2hpc.config.algorithms import ALGORITHMS, LEVEL_NAMES
from phase2hpc.config.run_config import build_config
from phase2hpc.data.prepare import prepare_store
from phase2hpc.data.store.reader import Store
from phase2hpc.errors import InputError
from phase2hpc.training.lr_schedule import MIN_LR_FRACTION, learning_rate
from phase2hpc.training.trainer import Trainer

ROWS = [(algorithm, level) for algorithm in ALGORITHMS for level in LEVEL_NAMES]
ALL9 = (
    "formation_energy", "band_gap", "bulk_modulus", "shear_modulus", "ehull", "band_gap_mbj",
    "spillage", "dielectric", "piezoelectric",
)  # fmt: skip


def history_of(run) -> list[dict]:
    return json.loads(run.history.read_text())


def weights_of(run) -> dict[str, torch.Tensor]:
    found = load_newest(run)
    assert found is not None
    return found[0]["model"]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def one_step(trainer: Trainer) -> torch.Tensor:
    batch = next(iter(trainer.loader))
    trainer.model.train()
    assert trainer.optimise(iter([batch]), len(batch.index))
    return trainer.loss_sums


# ---- every level -----------------------------------------------------------------------------


@pytest.mark.parametrize(("algorithm", "level"), ROWS)
def test_every_level_takes_a_step(algorithm, level, tiny) -> None:
    """All ten rows through the one Trainer, with their own settings but for the step's size."""
    properties = ALL9 if level in ("pro", "max") else ALL9[:4]
    config = build_config(algorithm, level, properties, {"batch_size": 4})
    trainer = Trainer(config, Store.open(tiny.store))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    sums = one_step(trainer)
    assert torch.isfinite(sums).all() and sums[0] > 0
    # At the first step the warm-up's rate is small, but AdamW moves every weight by about it.
    for name, now in trainer.model.named_parameters():
        assert torch.isfinite(now).all(), name
        assert now.grad is not None, name
    assert any(
        not torch.equal(a, b) for a, b in zip(trainer.model.parameters(), before, strict=True)
    )


# ---- labels that are not there ---------------------------------------------------------------


@pytest.mark.parametrize("absent", ALL9)
def test_a_batch_without_a_property(absent, tiny) -> None:
    """A finite step, the other losses untouched, and a gradient (of zero) for its head."""
    config = build_config("cgcnn", "lite", ALL9, {"batch_size": 16, "task_weights": "learned"})
    store = Store.open(tiny.store)
    whole, without = Trainer(config, store), Trainer(config, store)
    column = ALL9.index(absent)
    without.targets[:, column] = math.nan
    one_step(whole)
    one_step(without)
    kept = [i for i in range(len(ALL9)) if i != column]
    assert without.loss_sums[1 + column] == 0
    assert torch.equal(without.loss_sums[1:][kept], whole.loss_sums[1:][kept])
    assert without.loss.log_scale is not None and without.loss.log_scale[column] == 0
    for parameter in without.model.heads[column].parameters():
        assert parameter.grad is not None and not parameter.grad.any()
    assert all(torch.isfinite(p).all() for p in without.model.parameters())


def test_a_users_own_column(train_tiny, tiny, tmp_path) -> None:
    run = train_tiny(tmp_path, properties="mass,band_gap", epochs=1)
    assert run.read_manifest().properties == ["band_gap", "mass"]
    metrics = json.loads(run.metrics_json.read_text())
    labelled = sum("mass" in record["properties"] for record in tiny.of_split("test"))
    assert 0 < metrics["test"]["mass"]["n"] == labelled < len(tiny.of_split("test"))
    assert run.predictions_test.read_text().startswith(
        "id,formula,atoms,band_gap_target,band_gap,band_gap_sigma,band_gap_low,band_gap_high,"
        "band_gap_error,mass_target,mass,"
    )


def store_without(tiny, tmp_path: Path, drop: dict[str, tuple[str, ...]]) -> Path:
    """The tiny store without the labels ``drop[split]`` of a split's crystals."""
    source, store = tmp_path / "less.jsonl", tmp_path / "less.h5"
    lines = []
    for record in tiny.records:
        gone = drop.get(record["split"], ())
        kept = {k: v for k, v in record["properties"].items() if k not in gone}
        lines.append(json.dumps({**record, "properties": kept}) + "\n")
    source.write_text("".join(lines))
    prepare_store([source], store, workers=1)
    return store


def test_a_property_without_a_training_label_is_named(train_tiny, tiny, tmp_path) -> None:
    store = store_without(tiny, tmp_path, {"train": ("optb88vdw_bandgap", "bulk_modulus_kv")})
    with pytest.raises(InputError, match="label for band_gap, bulk_modulus: leave"):
        train_tiny(tmp_path / "models", store=store, properties="core4")
    with pytest.raises(InputError, match="unknown property 'hardness'"):
        train_tiny(tmp_path / "models", store=store, properties="hardness")
    assert not (tmp_path / "models").exists()


def test_a_property_without_a_validation_label(train_tiny, tiny, tmp_path) -> None:
    """It is trained, has no validation error, and does not enter the score."""
    gap = ("optb88vdw_bandgap",)
    store = store_without(tiny, tmp_path, {"val": gap, "test": gap})
    run = train_tiny(tmp_path / "models", store=store, properties="formation_energy,band_gap")
    for record in history_of(run):
        assert record["val_mae"]["band_gap"] is None and record["train_losses"]["band_gap"] > 0
        assert math.isfinite(record["val_score"])
    metrics = json.loads(run.metrics_json.read_text())
    for split in ("val", "test"):
        assert metrics[split]["band_gap"]["mae"] is None and metrics[split]["band_gap"]["n"] == 0
        assert metrics[split]["formation_energy"]["n"] == 20
    with pytest.raises(InputError, match="val split has a label of band_gap"):
        train_tiny(tmp_path / "others", store=store, properties="band_gap")
    assert not (tmp_path / "others").exists()


# ---- which crystals --------------------------------------------------------------------------


def test_max_samples_limits_training_alone_and_is_drawn_by_the_seed(tiny) -> None:
    store = Store.open(tiny.store)

    def train_of(seed: int, max_samples: int | None) -> Trainer:
        overrides = {"max_samples": max_samples}
        return Trainer(build_config("cgcnn", "lite", ["band_gap"], overrides, seed=seed), store)

    first, again, other = train_of(0, 30), train_of(0, 30), train_of(1, 30)
    whole = train_of(0, None)
    assert len(first.train) == 30 and len(whole.train) == 110
    assert np.array_equal(first.train, again.train)
    assert not np.array_equal(first.train, other.train)
    assert set(first.train) < set(whole.train)
    for trainer in (first, other, whole):
        assert np.array_equal(trainer.val, store.split_indices("val"))
    # Fitted on the drawn crystals only.
    labels = first.labels(first.train)
    assert first.scaler.mean[0] == pytest.approx(np.nanmean(labels), rel=1e-12)


def test_same_seed_same_bits_other_seed_others(train_tiny, tmp_path) -> None:
    runs = [train_tiny(tmp_path / str(i), seed=seed) for i, seed in enumerate((5, 5, 6))]
    assert equal(weights_of(runs[0]), weights_of(runs[1]))
    assert not equal(weights_of(runs[0]), weights_of(runs[2]))
    assert runs[0].metrics_json.read_bytes() == runs[1].metrics_json.read_bytes()


# ---- what is recorded ------------------------------------------------------------------------


def test_history_and_tensorboard(trained) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for run in trained.values():
        history = history_of(run)
        assert [record["epoch"] for record in history] == [1, 2, 3]
        assert [record["step"] for record in history] == [5, 10, 15]
        events = EventAccumulator(str(run.tensorboard))
        events.Reload()
        names = {"train_loss", "val_score", "lr", "crystals_per_second"}
        names |= {f"{group}/{p}" for group in ("train_losses", "val_mae") for p in ALL9}
        assert set(events.Tags()["scalars"]) == names
        for record in history:
            assert record.keys() == {
                "epoch", "step", "lr", "train_loss", "train_losses", "val_mae", "val_score",
                "skipped_steps", "seconds", "crystals_per_second",
            }  # fmt: skip
            assert tuple(record["train_losses"]) == tuple(record["val_mae"]) == ALL9
            for name in names:
                group, _, key = name.partition("/")
                value = record[group][key] if key else record[group]
                (event,) = [e for e in events.Scalars(name) if e.step == record["step"]]
                assert event.value == pytest.approx(value, rel=1e-6)
        assert history[-1]["train_loss"] < history[0]["train_loss"]


def test_the_best_epoch_has_the_lowest_mean_of_val_mae_over_mad(trained) -> None:
    for run in trained.values():
        history, manifest = history_of(run), run.read_manifest()
        mad = {k: v["mad"] for k, v in json.loads(run.metrics_json.read_text())["val"].items()}
        scores = [np.mean([r["val_mae"][p] / mad[p] for p in ALL9]) for r in history]
        assert scores == pytest.approx([record["val_score"] for record in history], rel=1e-12)
        best = int(np.argmin(scores))
        assert (manifest.best_epoch, manifest.best_score) == (best + 1, history[best]["val_score"])
        assert load_best(run.best)["epoch"] == best + 1
        # metrics.json is that epoch's, from the file.
        metrics = json.loads(run.metrics_json.read_text())["val"]
        for name in ALL9:
            assert metrics[name]["mae"] == history[best]["val_mae"][name]


def test_patience(train_tiny, tmp_path, monkeypatch) -> None:
    """Scores given: the best is epoch 2, and two epochs later it is over."""
    scores = iter([0.9, 0.5, 0.7, 0.5, 0.1])
    monkeypatch.setattr("phase2hpc.training.loop.score", lambda metrics: next(scores))
    run = train_tiny(tmp_path, epochs=5, patience=2)
    manifest = run.read_manifest()
    assert (manifest.epoch, manifest.best_epoch, manifest.state) == (4, 2, "finished")
    assert load_best(run.best)["epoch"] == 2


# ---- the learning rate -----------------------------------------------------------------------


def test_learning_rate() -> None:
    settings = build_config("e3nn", "std", ["band_gap"], {"lr": 0.01, "warmup": 0.1}).training
    rates = [learning_rate(settings, step, 200) for step in range(200)]
    assert rates[:20] == pytest.approx([0.01 * (i + 1) / 20 for i in range(20)])
    assert max(rates) == rates[19] == rates[20] == 0.01
    assert all(a > b for a, b in itertools.pairwise(rates[20:190]))
    assert rates[110] == pytest.approx(0.005, rel=0.02)
    assert rates[-1] == pytest.approx(0.01 * MIN_LR_FRACTION)
    for total in (1, 2, 3):
        for step in range(total):
            assert 0 < learning_rate(settings, step, total) <= 0.01


def test_the_rate_reaches_the_optimiser(tiny) -> None:
    trainer = Trainer(build_config("cgcnn", "lite", ["band_gap"]), Store.open(tiny.store))
    one_step(trainer)
    wanted = learning_rate(trainer.settings, 0, trainer.total_steps)
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [wanted] * 2


def test_only_matrices_and_element_tables_decay(tiny) -> None:
    settings = {"task_weights": "learned"}
    trainer = Trainer(build_config("e3nn", "lite", ALL9, settings), Store.open(tiny.store))
    decayed, free = (group["params"] for group in trainer.optimizer.param_groups)
    model, loss = list(trainer.model.parameters()), list(trainer.loss.parameters())
    assert len(decayed) + len(free) == len(model) + len(loss)
    assert id(trainer.loss.log_scale) in {id(p) for p in free}
    assert id(trainer.model.element.weight) in {id(p) for p in decayed}
    assert all(p.ndim > 1 for p in decayed)


# ---- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["e3nn", "cgcnn"])
@pytest.mark.parametrize("precision", ["float64", "bf16"])
def test_precisions(algorithm, precision, train_tiny, tmp_path) -> None:
    run = train_tiny(tmp_path, algorithm, precision=precision, epochs=2)
    dtype = torch.float64 if precision == "float64" else torch.float32
    floating = [w for w in weights_of(run).values() if w.is_floating_point()]
    assert all(w.dtype == dtype and torch.isfinite(w).all() for w in floating)
    losses = [record["train_loss"] for record in history_of(run)]
    assert losses[1] < losses[0]


@pytest.mark.skipif(
    not os.environ.get("PHASE2HPC_SLOW_TESTS"),
    reason="compiles for minutes: PHASE2HPC_SLOW_TESTS=1",
)
@pytest.mark.parametrize("algorithm", ["e3nn", "cgcnn"])
def test_compile(algorithm, train_tiny, tmp_path) -> None:
    eager, compiled = (
        train_tiny(tmp_path / str(i), algorithm, compile=i, epochs=1, dropout=0.0, head_dropout=0.0)
        for i in (False, True)
    )
    losses = [history_of(run)[0]["train_loss"] for run in (eager, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


# ---- starting from another run ---------------------------------------------------------------


def test_init_from_copies_the_encoder_and_shared_heads(trained, train_tiny, tmp_path) -> None:
    source = trained["cgcnn"]
    shape = load_best(source.best)["weights"]
    run = train_tiny(
        tmp_path, init_from=source, properties="band_gap,mass", lr=1e-12, epochs=1, weight_decay=0
    )
    weights = load_best(run.best)["weights"]
    there = ALL9.index("band_gap")
    for key, value in weights.items():
        if not value.is_floating_point() or "running" in key:
            continue
        if key.startswith("heads.1"):  # mass: new
            continue
        if key == "element.weight":
            torch.testing.assert_close(value[:, 0], shape[key][:, there])
            continue
        origin = key.replace("heads.0.", f"heads.{there}.")
        torch.testing.assert_close(value, shape[origin], rtol=0, atol=1e-8, msg=key)
    assert run.read_config().init_from == str(source.path)


def test_init_from_another_shape_or_nothing(trained, train_tiny, tmp_path) -> None:
    models = tmp_path / "models"
    for algorithm, settings, words in (
        ("cgcnn", {"hidden": 24}, r"embedding.weight \(\d+x16 there, \d+x24 here\)"),
        ("e3nn", {}, r"\S+ \(\S+ there, \S+ here\)"),
    ):
        with pytest.raises(InputError, match=f"--init-from: .*that differ: {words}"):
            train_tiny(models, algorithm, init_from=trained["cgcnn"], **settings)
    with pytest.raises(InputError, match="no trained weights yet"):
        train_tiny(models, init_from=type(trained["cgcnn"])(tmp_path))
    assert not models.exists()
