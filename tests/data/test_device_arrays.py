"""Batches assembled on a device are those that are assembled on the host, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from phase2hpc.data.device_arrays import DeviceArrays
from phase2hpc.data.loader import collate, make_loader
from phase2hpc.data.store.reader import Store

CPU = torch.device("cpu")


def assert_same_batch(ours: Data, theirs: Data) -> None:
    assert ours.keys() == theirs.keys() and ours.num_nodes == theirs.num_nodes
    for key in theirs.keys():  # noqa: SIM118 (a method of Data)
        if isinstance(theirs[key], torch.Tensor):
            assert ours[key].dtype == theirs[key].dtype, key
            assert torch.equal(ours[key], theirs[key]), key
    assert ours.max_degree == theirs.max_degree


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_are_those_of_collate(dtype: torch.dtype, tiny) -> None:
    arrays = Store.open(tiny.store).arrays
    assert arrays is not None
    there = DeviceArrays(arrays, CPU, dtype)
    for size in (1, 2, 37):
        indices = np.random.default_rng(size).permutation(len(arrays))[:size]
        weight = np.random.default_rng(0).integers(0, 2, size).astype(np.float32)
        theirs = collate(arrays, indices, dtype=dtype, weight=weight)
        assert_same_batch(there.collate(indices, weight), theirs)


def test_loader_makes_the_same_batches_on_a_device(tiny) -> None:
    store = Store.open(tiny.store)
    loaders = [make_loader(store, store.split_indices("train"), batch_size=7) for _ in range(2)]
    loaders[1].keep_on(CPU)
    for ours, theirs in zip(loaders[1], loaders[0], strict=True):
        assert_same_batch(ours, theirs)
    parts = [list(part) for part in loaders[1].microbatches(300)]
    assert max(map(len, parts)) > 1
    for ours, theirs in zip(parts, loaders[0].microbatches(300), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert_same_batch(one, other)


def test_largest_degree_is_known_without_counting(tiny) -> None:
    arrays = Store.open(tiny.store).arrays
    assert arrays is not None
    for i in (0, 3, len(arrays) - 1):
        batch = collate(arrays, [i])
        assert batch.max_degree == torch.bincount(batch.edge_index[1]).max()
    alone = collate(arrays, [3]).clone()
    assert alone.max_degree == collate(arrays, [3]).max_degree
    del alone.__dict__["_max_degree"]
    assert alone.max_degree == collate(arrays, [3]).max_degree
