"""Steps that are not finite are skipped and counted; a run rolls back once, then fails."""

from __future__ import annotations

import json
import math
import os
import signal

import pytest
import torch
from same_run import assert_same, assert_same_run

from phase2hpc.checkpointing.manager import load_newest
from phase2hpc.config.run_config import build_config
from phase2hpc.data.store.reader import Store
from phase2hpc.errors import Phase2Error, StoppedEarly
from phase2hpc.inference.out_of_memory import OutOfMemory, out_of_memory_errors
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.training.loop import TrainingLoop
from phase2hpc.training.nonfinite_steps import LOWER_RATE, MAX_CONSECUTIVE
from phase2hpc.training.trainer import Trainer
from phase2hpc.training.trainer_state import state_dict


def poisoned(monkeypatch, bad: set[int]) -> list[int]:
    """NaN in the loss of the steps ``bad``; the steps that were tried, in order."""
    original, tried = Trainer.optimise, []

    def optimise(self, parts, size, flags=None):
        tried.append(self.step)
        parts = list(parts)
        if self.step in bad:
            for part in parts:
                part.pos = part.pos * math.nan
        return original(self, iter(parts), size, flags)

    monkeypatch.setattr(Trainer, "optimise", optimise)
    return tried


@pytest.mark.parametrize("algorithm", ["e3nn", "cgcnn"])
def test_a_bad_step_changes_nothing_but_the_step_number(algorithm, tiny) -> None:
    """Running statistics, moments and averages included."""
    config = build_config(algorithm, "lite", ["band_gap"], {"batch_size": 8})
    trainer = Trainer(config, Store.open(tiny.store))
    batches = list(trainer.loader)
    trainer.model.train()
    assert trainer.optimise(iter(batches[:1]), 8)
    keys = ("model", "averaged", "loss", "loss_sums", "counted")
    state = state_dict(trainer)
    before = {
        key: json.dumps(state[key]) if key == "counted" else clone(state[key]) for key in keys
    }
    moments = clone(state["optimizer"]["state"])
    batches[1].pos = batches[1].pos * math.nan
    assert not trainer.optimise(iter(batches[1:2]), 8)
    state = state_dict(trainer)
    for key in keys:
        now = json.dumps(state[key]) if key == "counted" else state[key]
        assert_same(clone(now), before[key], key)
    assert_same(clone(state["optimizer"]["state"]), moments, "moments")
    assert state["step"] == 2
    assert trainer.optimise(iter(batches[2:3]), 8)
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def clone(value):
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: clone(item) for key, item in value.items()}
    return value


def test_bad_steps_are_skipped_counted_and_said(
    train_tiny, tmp_path, monkeypatch, caplog, capsys
) -> None:
    poisoned(monkeypatch, {2, 3, 8})
    run = train_tiny(tmp_path)
    records = json.loads(run.history.read_text())
    assert [record["skipped_steps"] for record in records] == [2, 1, 0]
    assert all(math.isfinite(record["train_loss"]) for record in records)
    assert run.read_manifest().skipped_steps == 3
    said = [r.getMessage() for r in caplog.records if "step skipped" in r.getMessage()]
    assert len(said) == 3 and "step 3: the loss or its gradient is not finite" in said[0]
    assert "crystals JVASP-" in said[0] and "(2 steps skipped)" in capsys.readouterr().out


def test_stopped_between_bad_steps_they_count_on(train_tiny, tmp_path, monkeypatch) -> None:
    bad = set(range(7, 7 + MAX_CONSECUTIVE))
    with monkeypatch.context() as patch:
        poisoned(patch, bad)
        inner = Trainer.optimise

        def stopping(self, *args):
            good = inner(self, *args)
            if self.step == 9:
                signal.raise_signal(signal.SIGTERM)
            return good

        patch.setattr(Trainer, "optimise", stopping)
        with pytest.raises(StoppedEarly, match="step 9 of 15"):
            train_tiny(tmp_path / "cut")
    with monkeypatch.context() as patch:
        tried = poisoned(patch, bad)
        run = train_tiny(tmp_path / "cut", resume=True)
    assert tried[:4] == [9, 10, 11, 9], "five bad steps in a row, then back to the newest state"
    assert run.read_manifest().skipped_steps >= MAX_CONSECUTIVE
    assert run.read_manifest().state == "finished"


def test_goes_back_once_to_the_last_good_state_at_a_lower_rate(
    train_tiny, tmp_path, monkeypatch, caplog
) -> None:
    """The rate stays low through a later kill."""
    tries: list[int] = []
    original = Trainer.optimise

    def optimise(self, parts, size, flags=None):
        parts = list(parts)
        tries.append(self.step)
        if self.step >= 6 and not self.skipped.rolled_back:
            for part in parts:
                part.pos = part.pos * math.nan
        return original(self, iter(parts), size, flags)

    monkeypatch.setattr(Trainer, "optimise", optimise)
    run = train_tiny(tmp_path, checkpoint_steps=1)
    assert tries == [*range(6), *range(6, 11), *range(6, 15)]
    assert any("back to step 6" in record.getMessage() for record in caplog.records)
    found = load_newest(run)
    assert found is not None and found[0]["skipped"]["rate_factor"] == LOWER_RATE
    monkeypatch.undo()
    planned = train_tiny(tmp_path / "planned")
    rates = [json.loads(r.history.read_text())[-1]["lr"] for r in (run, planned)]
    assert rates[0] == pytest.approx(LOWER_RATE * rates[1])
    assert run.read_manifest().state == "finished"


def test_gives_up_with_the_names_of_the_crystals(train_tiny, tiny, tmp_path, monkeypatch) -> None:
    tried = poisoned(monkeypatch, set(range(7, 15)))
    with pytest.raises(Phase2Error) as caught:
        train_tiny(tmp_path)
    message = str(caught.value)
    assert "\n" not in message and "--accept-changes --lr" in message
    assert tried == [*range(12), *range(5, 12)]
    names = message.partition("last batch: crystals ")[2].partition(". Check")[0].split(", ")
    assert set(names) <= {str(record["id"]) for record in tiny.of_split("train")}
    run = RunDirectory(tmp_path / "multitask_cgcnn_lite" / "run_one")
    assert run.read_manifest().state == "failed" and message in run.read_manifest().message
    monkeypatch.undo()
    train_tiny(tmp_path, resume=True, lr=1e-4, accept_changes=True)
    assert run.read_manifest().state == "finished"


# ---- memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["e3nn", "cgcnn"])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(algorithm, tiny) -> None:
    """But for running statistics, which a part has of its own."""
    settings = {"batch_size": 16, "precision": "float64", "dropout": 0.0, "head_dropout": 0.0}
    config = build_config(algorithm, "lite", ["band_gap", "formation_energy"], settings)
    gradients = []
    for max_edges in (None, 300, 1):
        trainer = Trainer(config, Store.open(tiny.store))
        trainer.model.train()
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.eval()
        parts = list(next(iter(trainer.loader.microbatches(max_edges))))
        assert sum(part.num_graphs for part in parts) == 16
        assert len(parts) == (1 if max_edges is None else len(parts))
        if max_edges == 300:
            assert 1 < len(parts) < 16
            assert all(p.num_graphs == 1 or p.edge_index.shape[1] <= 300 for p in parts)
        elif max_edges == 1:
            assert len(parts) == 16
        trainer.optimise(iter(parts), 16)
        gradients.append([p.grad.clone() for p in trainer.model.parameters()])
    for other in gradients[1:]:
        for a, b in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_max_edges_may_change_on_resume(train_tiny, tmp_path) -> None:
    with pytest.raises(StoppedEarly):
        train_tiny(tmp_path, max_hours=1e-9)
    run = train_tiny(tmp_path, resume=True, max_edges=200, max_hours=None)
    assert run.read_config().training.max_edges == 200


@pytest.fixture
def batch(tiny):
    config = build_config("cgcnn", "lite", ["band_gap"], {"batch_size": 8})
    return next(iter(Trainer(config, Store.open(tiny.store)).loader))


def test_out_of_memory_names_the_batch_and_the_setting(batch) -> None:
    """Torch's own error, of an allocation that no machine can make."""
    with pytest.raises(OutOfMemory) as caught, out_of_memory_errors(batch):
        torch.empty(1 << 60)
    edges = batch.edge_index.shape[1]
    assert f"batch of 8 crystals, {batch.num_nodes} atoms and {edges} edges" in str(caught.value)
    assert "--max-edges" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="inconsistent tensor size"), out_of_memory_errors(batch):
        torch.zeros(2) @ torch.zeros(3)


@pytest.mark.parametrize("algorithm", ["cgcnn"])
def test_a_run_out_of_memory_goes_on_with_fewer_edges(
    algorithm, train_tiny, tmp_path, monkeypatch
) -> None:
    original, largest = Trainer._autocast, []

    def limited(self):
        if self.settings.max_edges is None and self.step == 3:
            torch.empty(1 << 60)
        return original(self)

    monkeypatch.setattr(Trainer, "_autocast", limited)
    with pytest.raises(OutOfMemory):
        train_tiny(tmp_path, algorithm)
    run = train_tiny(tmp_path, algorithm, resume=True, max_edges=300)
    assert run.read_manifest().state == "finished" and not largest


# ---- settings changed deliberately -----------------------------------------------------------


def test_accepted_changes_go_on(train_tiny, tmp_path, capsys) -> None:
    with pytest.raises(StoppedEarly):
        train_tiny(tmp_path, max_hours=1e-9)
    run = train_tiny(
        tmp_path, resume=True, accept_changes=True, lr=1e-3, batch_size=16, max_hours=None
    )
    assert "batch_size: 8 in the run, 16 requested" in capsys.readouterr().out
    assert run.read_config().training.batch_size == 16
    assert run.read_manifest().state == "finished"


@pytest.mark.parametrize("changed", [{"properties": "band_gap"}, {"hidden": 32}])
def test_a_change_of_shape_is_never_accepted(changed, train_tiny, tmp_path) -> None:
    from phase2hpc.errors import InputError

    with pytest.raises(StoppedEarly):
        train_tiny(tmp_path, max_hours=1e-9)
    for accept in (False, True):
        with pytest.raises(InputError, match="--init-from") as caught:
            train_tiny(tmp_path, resume=True, accept_changes=accept, **changed)
        assert "accept them with" not in str(caught.value)


def test_resume_after_an_accepted_change_in_mid_epoch(train_tiny, tmp_path, monkeypatch) -> None:
    """Another order of crystals: the epoch begins anew, each crystal once."""
    original = Trainer.optimise

    def stopping(self, *args):
        good = original(self, *args)
        if self.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return good

    def failing(self):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "optimise", stopping)
        with pytest.raises(StoppedEarly, match="step 7 of 15"):
            train_tiny(tmp_path)
    # Killed when the new settings are in the directory and no checkpoint has them yet.
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "fit", failing)
        with pytest.raises(MemoryError):
            train_tiny(tmp_path, resume=True, accept_changes=True, seed=7)
    run = train_tiny(tmp_path, resume=True)
    assert run.read_config().seed == 7
    records = json.loads(run.history.read_text())
    assert [record["step"] for record in records] == [5, 12, 17]
    reference = train_tiny(tmp_path / "reference")
    with pytest.raises(AssertionError):
        assert_same_run(run, reference)
