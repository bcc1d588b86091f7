"""Steps on padded batches are those on the batches as they are; only a capture needs a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from same_run import assert_same_run
from tiny import LITTLE

from phase2hpc.config.run_config import build_config
from phase2hpc.data.device_arrays import DeviceArrays, PaddedBatch
from phase2hpc.data.loader import collate
from phase2hpc.data.padding import SIZES_PER_OCTAVE, PaddedShapes
from phase2hpc.data.store.reader import Store
from phase2hpc.errors import InputError, StoppedEarly
from phase2hpc.training.cuda_graphs import obstacle_to_graphs
from phase2hpc.training.trainer import Trainer

TOLERANCE = {"float64": 1e-11, "float32": 2e-5}
PROPERTIES = ("formation_energy", "band_gap", "piezoelectric")


def trainer_on(store: Store, algorithm: str, **settings: Any) -> Trainer:
    chosen = {**LITTLE[algorithm], "device": "cpu", **settings}
    trainer = Trainer(build_config(algorithm, "std", PROPERTIES, chosen), store)
    trainer.model.train()
    return trainer


@pytest.fixture
def store(tiny) -> Store:
    return Store.open(tiny.store)


@pytest.mark.parametrize("by_degree", [True, False])
@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("algorithm", LITTLE)
def test_padding_takes_no_part(algorithm, precision, by_degree, store) -> None:
    """Loss, gradients and running statistics, of a whole batch and of a smaller last one."""
    found = []
    for padded in (False, True):
        trainer = trainer_on(
            store, algorithm, precision=precision, dropout=0.0, head_dropout=0.0
        )  # fmt: skip
        if algorithm == "e3nn":
            trainer.model.encoder.geometry.by_degree = by_degree
        trainer.use_graphs()
        loader = trainer.loader
        results: list[torch.Tensor] = []
        for count in (8, 3):
            indices, weight = trainer.train[:count], np.ones(count, np.float32)
            batch = loader._on_device.padded(indices, weight, loader._shapes)
            for parameter in trainer.parameters:
                parameter.grad = None
            sums = trainer.graphed(batch, 8) if padded else trainer._passes(batch.unpadded(), 8)
            results.append(sums.clone())
            results += [p.grad.clone() for p in trainer.parameters if p.grad is not None]
        found.append([*results, *trainer.model.buffers()])
    assert len(found[0]) > 40
    for ours, theirs in zip(found[1], found[0], strict=True):
        scale = theirs.abs().max().clamp_min(1e-3)
        assert (ours - theirs).abs().max() <= TOLERANCE[precision] * scale


@pytest.mark.parametrize("algorithm", LITTLE)
def test_padding_of_other_content_changes_no_bit(algorithm, store, monkeypatch) -> None:
    original = PaddedBatch.tensors
    sums = []
    for z, length in ((1, 1.0), (8, 1.7)):

        def tensors(self, numbers, z=z, length=length):
            out = original(self, numbers)
            out.z[self.num_nodes :] = z
            out.edge_shift[self.num_edges :] *= length
            out.index[self.num_graphs :] = 5
            return out

        monkeypatch.setattr(PaddedBatch, "tensors", tensors)
        trainer = trainer_on(store, algorithm)
        trainer.use_graphs()
        for parts in trainer.loader.microbatches(None):
            trainer.optimise(parts, 8)
        sums.append([trainer.loss_sums, *trainer.model.state_dict().values()])
    for ours, theirs in zip(*sums, strict=True):
        assert torch.equal(ours, theirs)


def test_a_batch_of_wide_atoms_alone(store, monkeypatch) -> None:
    """More than half of the atoms above the narrow width: all have room for the largest."""
    monkeypatch.setattr("phase2hpc.data.padding.WIDE_SHARES", (1,))
    trainer = trainer_on(store, "e3nn", dropout=0.0, head_dropout=0.0)
    trainer.model.encoder.geometry.by_degree = False
    trainer.use_graphs()
    [batch] = next(trainer.loader.microbatches(None))
    assert batch.shape.wide == batch.shape.atoms
    ours, theirs = trainer.graphed(batch, 8), trainer._passes(batch.unpadded(), 8)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_few_shapes_hold_all_batches(store) -> None:
    train, generator = store.split_indices("train"), np.random.default_rng(0)
    shapes = PaddedShapes.of_crystals(store.arrays, train, 8)
    arrays = DeviceArrays(store.arrays, torch.device("cpu"), torch.float32)
    seen = set()
    for count in [8] * 60 + [1, 2, 5]:
        indices = generator.choice(train, count, replace=False)
        batch = collate(store.arrays, indices)
        plan = arrays.padded(indices, np.ones(count, np.float32), shapes)
        padded, shape = plan.tensors(plan.numbers(8)), plan.shape
        assert plan.largest == batch.largest and not plan.on_gpu
        seen.add(shape)
        assert shape[:3] == (padded.num_graphs, padded.num_nodes, padded.num_edges)
        receiver = padded.edge_index[1]
        assert bool((receiver.diff() >= 0).all()), "sorted by receiver"
        degrees = torch.bincount(receiver).sort(descending=True).values
        assert int(degrees[0]) <= padded.max_degree == shapes.degree
        assert (degrees > shapes.narrow).sum() <= shape.wide
        ends = [end for end, _ in padded.widths]
        assert ends == sorted({shape.wide, shape.atoms}), "no group is empty"
        counts = torch.bincount(padded.batch, minlength=padded.num_graphs)
        assert torch.equal(counts, padded.ptr.diff()) and int(counts.min()) > 0
        assert torch.equal(padded.batch[padded.edge_index[0]], padded.batch[receiver])
        assert int(padded.weight.sum()) == count
        for name in ("z", "pos", "cell", "edge_shift", "batch", "index"):
            assert torch.equal(padded[name][: len(batch[name])], batch[name]), name
    assert len(seen) <= 4 * SIZES_PER_OCTAVE


@pytest.mark.parametrize("algorithm", LITTLE)
def test_padded_and_resumed(algorithm, train_tiny, tmp_path, monkeypatch) -> None:
    """A run on padded batches resumes exactly, with shapes that it meets in another order."""
    original = Trainer.__init__

    def init(self, *args, **options) -> None:
        original(self, *args, **options)
        self.use_graphs()

    monkeypatch.setattr(Trainer, "__init__", init)
    reference = train_tiny(tmp_path / "whole", algorithm)
    with monkeypatch.context() as patched:
        optimise = Trainer.optimise

        def stopping(self, *args):
            if self.step == 7:
                raise StoppedEarly("stopped", "test")
            return optimise(self, *args)

        patched.setattr(Trainer, "optimise", stopping)
        with pytest.raises(StoppedEarly):
            train_tiny(tmp_path / "parts", algorithm, checkpoint_steps=3)
    run = train_tiny(tmp_path / "parts", algorithm, properties=None, resume=True)
    assert_same_run(run, reference)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({}, "needs a GPU, and the device is cpu"), ({"max_edges": 100}, "needs a GPU")],
)
def test_refused_where_there_is_no_gpu(settings, said, store) -> None:
    with pytest.raises(InputError, match=f"cuda_graphs=on {said}"):
        trainer_on(store, "e3nn", cuda_graphs="on", **settings)
    assert trainer_on(store, "e3nn", cuda_graphs="auto", **settings).graphed is None


@pytest.mark.parametrize(
    ("algorithm", "settings", "said"),
    [
        ("e3nn", {"max_edges": 100}, "--max-edges splits"),
        ("e3nn", {"compile": True}, "compile=true"),
        ("cgcnn", {}, None),
    ],
)
def test_obstacles_on_a_gpu(algorithm, settings, said, store) -> None:
    trainer = trainer_on(store, algorithm)
    trainer.loader.keep_on(trainer.device)
    chosen = trainer.settings.model_copy(update=settings)

    def obstacle(processes: int = 1) -> str | None:
        cuda = torch.device("cuda")
        return obstacle_to_graphs(chosen, trainer.model, trainer.loader, cuda, processes)

    found = obstacle()
    assert found is None if said is None else said in found
    if said is None:
        assert "one process only" in obstacle(processes=2)
        trainer.model.encoder.capturable = False
        assert "'capturable'" in obstacle()
        trainer.model.encoder.capturable = True
        trainer.loader = trainer_on(store, algorithm).loader
        assert "in the GPU's memory" in obstacle()
