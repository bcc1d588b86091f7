"""Out-of-memory errors with the size of the batch and the setting that reduces it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from phase2hpc.data.crystal_data import CrystalData
from phase2hpc.data.device_arrays import PaddedBatch
from phase2hpc.errors import Phase2Error

# torch (2.13) raises a plain RuntimeError where its CPU allocator fails, without an error number:
# only the message identifies it.
_CPU_ALLOCATOR_MESSAGES = ("can't allocate memory", "not enough memory", "std::bad_alloc")


class OutOfMemory(Phase2Error):
    """A batch does not fit in memory."""


@contextmanager
def out_of_memory_errors(batch: CrystalData | PaddedBatch) -> Iterator[None]:
    """Raise OutOfMemory, with the batch's size, where the body runs out of memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        expected = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not expected and not any(words in str(error) for words in _CPU_ALLOCATOR_MESSAGES):
            raise
        edges, crystals, largest = batch.num_edges, batch.num_graphs, batch.largest
        where = "GPU memory" if batch.on_gpu else "memory"
        if crystals > 1:
            advice = f"set max_edges below {edges} (--max-edges {max(largest, edges // 2)})"
        else:
            advice = "one crystal alone: use a node with more, or a smaller model"
        raise OutOfMemory(
            f"out of {where} on a batch of {crystals} crystals, {batch.num_nodes} atoms and "
            f"{edges} edges (the largest crystal has {largest}): {advice}"
        ) from error
