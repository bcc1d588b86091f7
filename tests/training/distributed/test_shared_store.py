"""The ranks of a node share one copy of the store's arrays, freed when they end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import Ranks, torchrun

from phase2hpc.data.graph_arrays import FIELDS
from phase2hpc.data.store.reader import Store
from phase2hpc.training.distributed import shared_store as sharing
from phase2hpc.training.distributed.process_group import process_group
from phase2hpc.training.distributed.world import World


def opened(store: Path, out: Path, unreachable: bool) -> None:
    if unreachable:
        sharing._attach = lambda offer: None
    with process_group("cpu") as world:
        shared = sharing.open_shared_store(store, world)
        alone = Store.open(store)
        assert shared.arrays is not None and alone.arrays is not None
        for name in FIELDS:
            one, other = getattr(shared.arrays, name), getattr(alone.arrays, name)
            assert one.dtype == other.dtype and np.array_equal(one, other), name
        for name, column in alone.labels.items():
            assert np.array_equal(shared.labels[name], column, equal_nan=True)
            assert np.array_equal(shared.arrays.labels[name], column, equal_nan=True)
        assert np.array_equal(shared.arrays.node_table, alone.arrays.node_table)
        assert np.array_equal(shared.arrays.edge_table, alone.arrays.edge_table)
        assert shared.ids(np.arange(len(shared))) == alone.ids(np.arange(len(alone)))
        mapped = "memfd:phase2hpc-store" in Path("/proc/self/maps").read_text()
        assert mapped != shared.arrays.frac_coords.flags.writeable
        torch.save(mapped, out / f"{world.rank}.pt")


def two_nodes(rank: int, size: int, number: int) -> Mapping[str, str]:
    return {**torchrun(rank, size, number), "SLURMD_NODENAME": f"n{rank}"}


@pytest.mark.parametrize(
    ("launcher", "unreachable", "mapped"),
    [(torchrun, False, True), (two_nodes, False, False), (torchrun, True, False)],
)
def test_one_copy_where_ranks_can_share_it(launcher, unreachable, mapped, tiny, tmp_path) -> None:
    with Ranks(
        2, tmp_path / "log", opened, tiny.store, tmp_path, unreachable, launcher=launcher
    ) as ranks:
        assert ranks.codes() == [0, 0], ranks.text()
    assert ranks.text() == ""
    assert [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)] == [mapped, mapped]


def test_no_more_than_the_budget(tiny, tmp_path, monkeypatch) -> None:
    """A store that does not fit is streamed by every rank."""
    monkeypatch.setenv("PHASE2HPC_STORE_BUDGET", "1k")
    assert sharing.open_shared_store(tiny.store, World()).arrays is None
