"""The order in which crystals are seen: a function of seed and epoch, with a saved position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from phase2hpc.errors import InputError

Indices = npt.NDArray[np.int64]

# What a seed is used for: two uses of one seed must not draw the same numbers.
_ORDER_STREAM = 1
_SUBSET_STREAM = 2


class Sampler:
    """Batches of store indices, each crystal once an epoch whatever the number of ranks.

    indices: the crystals of an epoch. batch_size: of the global batch, which is dealt out over
    ``world_size`` ranks; where it cannot be dealt evenly, a rank is given a crystal once more
    with weight zero, so that all ranks take equally many steps of equal size. shuffle: a new
    order each epoch, drawn from (seed, epoch) alone. windows: the same indices in parts that lie
    together in the store, so that one may be read at a time; crystals are shuffled within a
    window and windows among each other.

    The state is (seed, epoch, position); position counts the global batches of this epoch that
    were handed out. An iterator goes from there to the end of the epoch, then begins the next.
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
            raise InputError(f"batch size {batch_size}: give at least 1")
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
        """Global batches an epoch."""
        return -(-len(self.indices) // self.batch_size)

    def order(self, epoch: int) -> Indices:
        """All indices in the order of this epoch."""
        if not self.shuffle:
            return self.indices
        generator = _generator(self.seed, _ORDER_STREAM, epoch)
        if self.windows is None:
            return generator.permutation(self.indices)
        parts = [self.windows[i] for i in generator.permutation(len(self.windows))]
        return np.concatenate([generator.permutation(part) for part in parts])

    def __iter__(self) -> Iterator[tuple[Indices, npt.NDArray[np.float32]]]:
        """(indices, weights) of this rank's share of each batch, from the position on."""
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
        """Go on where this state was saved; ValueError where it belongs to no such sampler."""
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
    """At most ``max_samples`` of the indices, drawn by the seed, in ascending order."""
    everything = np.asarray(indices, dtype=np.int64)
    if max_samples is None or max_samples >= len(everything):
        return everything
    if max_samples < 1:
        raise InputError(f"max samples {max_samples}: give at least 1")
    generator = _generator(seed, _SUBSET_STREAM)
    return np.sort(generator.choice(everything, size=max_samples, replace=False))


def windows_of(indices: Indices, bounds: Indices) -> list[Indices]:
    """The indices by the block of the store that they lie in, blocks without one left out."""
    ordered = np.sort(indices)
    parts = np.split(ordered, np.searchsorted(ordered, bounds[1:-1]))
    return [part for part in parts if len(part)]


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
