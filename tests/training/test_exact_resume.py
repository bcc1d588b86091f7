"""Stopped after every single step, with everything on that has a state, a run ends the same."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from same_run import assert_same_run, disturb

from phase2hpc.errors import StoppedEarly
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.training.trainer import Trainer

# Dropout, warm-up, averages and learned task weights are on anyway. With patience a run ends
# before its epochs do; with max_edges a batch is computed in parts.
EVERYTHING = {
    "epochs": 4,
    "precision": "bf16",
    "max_edges": 400,
    "patience": 1,
    "task_weights": "learned",
    "lr": 0.05,
}
STEPS_AN_EPOCH = 5


@pytest.fixture(scope="module")
def undisturbed(train_tiny, tmp_path_factory) -> dict[str, RunDirectory]:
    models = tmp_path_factory.mktemp("undisturbed")
    return {a: train_tiny(models, a, properties="all9", **EVERYTHING) for a in ("e3nn", "cgcnn")}


@pytest.mark.parametrize("step", range(4 * STEPS_AN_EPOCH))
@pytest.mark.parametrize("algorithm", ["e3nn", "cgcnn"])
def test_every_step(
    algorithm: str, step: int, train_tiny, undisturbed, tmp_path: Path, monkeypatch
) -> None:
    reference = undisturbed[algorithm]
    last = reference.read_manifest().step
    assert last % STEPS_AN_EPOCH == 0
    original = Trainer.optimise

    def optimise(self, *args):
        good = original(self, *args)
        if self.step == step + 1:
            signal.raise_signal(signal.SIGUSR2)
        return good

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "optimise", optimise)
        if step < last:
            with pytest.raises(StoppedEarly, match=f"step {step + 1} of"):
                train_tiny(tmp_path, algorithm, properties="all9", **EVERYTHING)
        else:
            train_tiny(tmp_path, algorithm, properties="all9", **EVERYTHING)
    disturb()
    run = train_tiny(tmp_path, algorithm, resume=True, properties=None, run_id=None)
    assert_same_run(run, reference)


def test_patience_ended_one_of_them(undisturbed) -> None:
    """Or the above says nothing of early stopping."""
    epochs = {a: len(json.loads(r.history.read_text())) for a, r in undisturbed.items()}
    assert min(epochs.values()) < EVERYTHING["epochs"]
