"""A store as a torch_geometric dataset, for any model that trains from one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch_geometric.data import Dataset

from phase2hpc.data.loader import CrystalData, collate
from phase2hpc.data.store.reader import Store
from phase2hpc.data.store.verify import trust


class StoreDataset(Dataset):  # type: ignore[misc]
    """``dataset[i]`` is a ``Data`` with the fields of ``CrystalData``, of one crystal.

    store: a store, or the path of one, which is verified unless it was before. indices: which of
    its crystals, all of them by default. properties: columns of ``y``, all labels of the store by
    default. transform: as torch_geometric's. Works with torch_geometric's DataLoader, workers
    included: a copy in another process opens the store there.
    """

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        indices: npt.ArrayLike | None = None,
        properties: Sequence[str] | None = None,
        dtype: torch.dtype = torch.float32,
        transform: Callable[[CrystalData], CrystalData] | None = None,
    ) -> None:
        super().__init__(transform=transform)
        if not isinstance(store, Store):
            trust(store)
            store = Store.open(store)
        self.store = store
        everything = np.arange(len(self.store)) if indices is None else indices
        self.store_indices = np.asarray(everything, dtype=np.int64)
        self.properties = tuple(self.store.labels if properties is None else properties)
        self.dtype = dtype

    def len(self) -> int:
        """How many crystals."""
        return len(self.store_indices)

    def get(self, idx: int) -> CrystalData:
        """One crystal; ``index`` is its place in the store."""
        place = int(self.store_indices[idx])
        data = collate(
            self.store.read_block(place, place + 1),
            [0],
            self.properties,
            self.dtype,
            index=np.array([place]),
        )
        # A loader makes its own of the crystals it joins.
        del data.batch, data.ptr
        return data
