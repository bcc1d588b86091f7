"""Sampler of batches, whose order depends on seed and epoch only, with a saved position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from phase2hpc.data.store.reader import Store
from phase2hpc.errors import InputError

Indices = npt.NDArray[np.int64]

# Different uses of one seed must draw different random numbers.
_ORDER_STREAM = 1
_SUBSET_STREAM = 2


class Sampler:
    """Batches of store indices: each crystal once per epoch, for any number of ranks.

    indices: the crystals of an epoch. batch_size: size of the global batch, which is split over
    ``world_size`` ranks; shorter shares are padded with a crystal of weight zero, so that all
    ranks take the same number of steps of the same size. shuffle: a new order each epoch, from
    (seed, epoch) only. windows: the same indices by contiguous window of the store; crystals are
    shuffled within windows, and windows among each other.

    The state is (seed, epoch, position); position is the number of global batches of this epoch
    that were yielded. An iterator runs from there to the end of the epoch, and then sets the state
    to the beginning of the next.
    """

    def __init__(
        self,
        indices: npt.ArrayLike,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        windows: Sequence[Indices] | None = None,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch size {batch_size}: must be at least 1")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size}")
        self.indices: Indices = np.asarray(indices, dtype=np.int64)
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self.windows = windows
        self.epoch = 0
        self.position = 0

    def __len__(self) -> int:
        """Number of global batches in an epoch."""
        return -(-len(self.indices) // self.batch_size)

    def order(self, epoch: int) -> Indices:
        """All indices in the order of an epoch."""
        if not self.shuffle:
            return self.indices
        generator = _generator(self.seed, _ORDER_STREAM, epoch)
        if self.windows is None:
            return generator.permutation(self.indices)
        parts = [self.windows[i] for i in generator.permutation(len(self.windows))]
        return np.concatenate([generator.permutation(part) for part in parts])

    def __iter__(self) -> Iterator[tuple[Indices, npt.NDArray[np.float32]]]:
        """Yield (indices, weights) of this rank's share of each batch, from the position on."""
        order = self.order(self.epoch)
        while self.position < len(self):
            begin = self.position * self.batch_size
            self.position += 1
            yield self._share(order[begin : begin + self.batch_size])
        self.epoch += 1
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed, "epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state. Raises ValueError for a position beyond the epoch."""
        if state["position"] > len(self):
            raise ValueError(f"position {state['position']} in an epoch of {len(self)} batches")
        self.seed = int(state["seed"])
        self.epoch = int(state["epoch"])
        self.position = int(state["position"])

    def _share(self, batch: Indices) -> tuple[Indices, npt.NDArray[np.float32]]:
        share = batch[self.rank :: self.world_size]
        size = -(-len(batch) // self.world_size)
        weights = np.ones(size, dtype=np.float32)
        weights[len(share) :] = 0.0
        padding = np.full(size - len(share), batch[0], dtype=np.int64)
        return np.concatenate([share, padding]), weights


def draw_subset(indices: npt.ArrayLike, max_samples: int | None, seed: int) -> Indices:
    """At most ``max_samples`` of the indices, drawn by the seed, ascending."""
    everything = np.asarray(indices, dtype=np.int64)
    if max_samples is None or max_samples >= len(everything):
        return everything
    if max_samples < 1:
        raise InputError(f"max samples {max_samples}: must be at least 1")
    generator = _generator(seed, _SUBSET_STREAM)
    return np.sort(generator.choice(everything, size=max_samples, replace=False))


def training_crystals(
    store: Store, outputs: Sequence[str], max_samples: int | None, seed: int
) -> Indices:
    """Crystals of the train split that a model of these outputs learns from: those with a label,
    at most ``max_samples`` of them, drawn by the seed."""
    return draw_subset(store.labelled(outputs, store.split_indices("train")), max_samples, seed)


def partition_by_window(indices: Indices, bounds: Indices) -> list[Indices]:
    """Split the indices by block of the store; empty blocks are left out."""
    ordered = np.sort(indices)
    parts = np.split(ordered, np.searchsorted(ordered, bounds[1:-1]))
    return [part for part in parts if len(part)]


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
