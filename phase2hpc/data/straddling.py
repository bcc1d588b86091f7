"""Compounds that are in train and in another split, of the crystals of a store."""

from __future__ import annotations

from phase2hpc.data.composition import composition_key
from phase2hpc.data.graph_arrays import GraphArrays
from phase2hpc.data.splits import SPLITS

_TRAIN = 1 << SPLITS.index("train")


class StraddlingCompounds:
    """Splits of each compound, added up block by block."""

    def __init__(self) -> None:
        # A bit for each split, by reduced formula.
        self._splits: dict[str, int] = {}

    def add(self, block: GraphArrays) -> None:
        """Count these crystals too, but for those of no split (-1)."""
        for row, split in enumerate(block.split.tolist()):
            if split >= 0:
                begin, end = block.node_ptr[row : row + 2]
                key = composition_key(block.atomic_number[begin:end])
                self._splits[key] = self._splits.get(key, 0) | 1 << split

    def merge(self, others: StraddlingCompounds) -> None:
        """Count the crystals that ``others`` has counted too."""
        for key, splits in others._splits.items():
            self._splits[key] = self._splits.get(key, 0) | splits

    def found(self) -> list[str]:
        """Reduced formulas that are in train and in val or test."""
        return [key for key, splits in self._splits.items() if splits & _TRAIN and splits > _TRAIN]
