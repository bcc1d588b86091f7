"""Graph store as a torch_geometric dataset."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch_geometric.data import Data, Dataset

from phase2hpc.config.algorithm_registry import unknown_key
from phase2hpc.data.crystal_data import Sizes
from phase2hpc.data.loader import collate
from phase2hpc.data.splits import SPLITS
from phase2hpc.data.store.reader import Store
from phase2hpc.data.store.verify import verify_once
from phase2hpc.errors import InputError


class CrystalGraph(Sizes, Data):  # type: ignore[misc]
    """One crystal, or a batch of them that torch_geometric made: the fields of ``CrystalData``."""

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        # By its name, torch_geometric would treat it as node indices.
        return 0 if key == "index" else super().__inc__(key, value, *args, **kwargs)


class StoreDataset(Dataset):  # type: ignore[misc]
    """Crystals of a graph store; ``dataset[i]`` is a torch_geometric ``Data`` of one crystal.

    The fields are those of ``CrystalData``: ``z`` (N,), ``pos`` (N, 3) and ``cell`` (1, 3, 3) in
    angstrom, ``edge_index`` (2, E), ``edge_shift`` (E, 3), ``y`` (1, P) with NaN for a missing
    label, ``index`` (1,), the position in the store. The vector of an edge from receiver to sender
    is ``pos[sender] + edge_shift @ cell - pos[receiver]``.

    Works with torch_geometric's ``DataLoader``, workers included: a copy in another process opens
    the file again.

    Args:
        store: a store, or its path; a file is verified unless it was before.
        indices: positions of the crystals in the store. None: all.
        properties: label columns of ``y``. None: all labels of the store.
        dtype: of real numbers, float32 or float64.
        transform: as torch_geometric's.
        split: "train", "val" or "test", instead of ``indices``.

    Raises:
        InputError: the file is not a valid store, or it has no such split or label.
    """

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        indices: npt.ArrayLike | None = None,
        properties: Sequence[str] | None = None,
        dtype: torch.dtype = torch.float32,
        transform: Callable[[CrystalGraph], CrystalGraph] | None = None,
        *,
        split: str | None = None,
    ) -> None:
        super().__init__(transform=transform)
        if not isinstance(store, Store):
            verify_once(store)
            store = Store.open(store)
        self.store = store
        if split is not None:
            if indices is not None:
                raise InputError("indices and split: give one of them")
            if split not in SPLITS:
                raise InputError(unknown_key("split", split, SPLITS))
            indices = store.split_indices(split)
        everything = np.arange(len(self.store)) if indices is None else indices
        self.store_indices = np.asarray(everything, dtype=np.int64)
        self.properties = tuple(self.store.labels if properties is None else properties)
        for name in self.properties:
            if name not in self.store.labels:
                known = ", ".join(self.store.labels) or "it has none"
                raise InputError(f"{self.store.path}: no label '{name}' ({known})")
        self.dtype = dtype

    def len(self) -> int:
        """Number of crystals."""
        return len(self.store_indices)

    def get(self, idx: int) -> CrystalGraph:
        """The crystal at position ``idx`` of the dataset."""
        place = int(self.store_indices[idx])
        data = collate(
            self.store.read_block(place, place + 1),
            [0],
            self.properties,
            self.dtype,
            index=np.array([place]),
        )
        # torch_geometric's collation adds these for a batch.
        names = set(data.keys()) - {"batch", "ptr"}
        return CrystalGraph(
            **{name: data[name] for name in sorted(names)}, num_nodes=data.num_nodes
        )
