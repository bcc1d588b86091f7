"""A training that asks the device only every few steps ends the same as one that asks at each."""

from __future__ import annotations

import math
import signal

import pytest
from same_run import assert_same_run

from phase2hpc.errors import StoppedEarly
from phase2hpc.training.nonfinite_steps import MAX_CONSECUTIVE
from phase2hpc.training.trainer import Trainer


@pytest.fixture
def rare_syncs(monkeypatch) -> None:
    """As on a GPU: batches from resident arrays, outcomes known after every fourth step."""
    original = Trainer.__init__

    def init(self, *args, **options) -> None:
        original(self, *args, **options)
        self.steps_between_syncs = 4
        self.loader.keep_on(self.device)

    monkeypatch.setattr(Trainer, "__init__", init)


def poison(monkeypatch, bad: set[int]) -> None:
    original = Trainer.optimise

    def optimise(self, parts, size, flags=None):
        parts = list(parts)
        if self.step in bad and not self.skipped.rolled_back:
            for part in parts:
                part.pos = part.pos * math.nan
        return original(self, iter(parts), size, flags)

    monkeypatch.setattr(Trainer, "optimise", optimise)


# Of 15 steps, 5 an epoch: some between two syncs; then a row that needs a rollback.
CASES = {"some": {2, 3, 8}, "rollback": {*range(6, 6 + MAX_CONSECUTIVE)}}


@pytest.mark.parametrize("bad", CASES.values(), ids=CASES)
@pytest.mark.parametrize("algorithm", ["e3nn", "cgcnn"])
def test_rare_syncs_change_nothing(
    algorithm, bad, train_tiny, tmp_path, monkeypatch, request, caplog
) -> None:
    poison(monkeypatch, bad)
    reference = train_tiny(tmp_path / "each", algorithm, checkpoint_steps=5)
    said = [r.getMessage() for r in caplog.records if "step skipped" in r.getMessage()]
    caplog.clear()
    request.getfixturevalue("rare_syncs")
    run = train_tiny(tmp_path / "rare", algorithm, checkpoint_steps=5)
    assert_same_run(run, reference)
    assert run.read_manifest().skipped_steps == reference.read_manifest().skipped_steps >= 3
    again = [r.getMessage() for r in caplog.records if "step skipped" in r.getMessage()]
    assert again == said, "the same steps, with the same crystals"


@pytest.mark.usefixtures("rare_syncs")
def test_stopped_between_two_syncs(train_tiny, tmp_path, monkeypatch) -> None:
    poison(monkeypatch, {1, 6})
    reference = train_tiny(tmp_path / "whole")
    original = Trainer.optimise

    def optimise(self, *args):
        good = original(self, *args)
        if self.step == 7:
            signal.raise_signal(signal.SIGTERM)
        return good

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "optimise", optimise)
        with pytest.raises(StoppedEarly, match="step 7 of 15"):
            train_tiny(tmp_path / "cut")
    run = train_tiny(tmp_path / "cut", resume=True, properties=None)
    assert_same_run(run, reference)
