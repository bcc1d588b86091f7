"""Counts of crystals and labels by split, added up block by block."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from phase2hpc.data.graph_arrays import GraphArrays
from phase2hpc.data.splits import SPLITS


@dataclass(kw_only=True)
class SplitCounts:
    """``splits`` is split -> crystals, ``labels`` is property -> split -> labels."""

    splits: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    labels: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, block: GraphArrays) -> None:
        """Count these crystals too."""
        for code, name in enumerate(SPLITS):
            here = block.split == code
            self.splits[name] += int(here.sum())
            for label, column in block.labels.items():
                by_split = self.labels.setdefault(label, dict.fromkeys(SPLITS, 0))
                by_split[name] += int((here & ~np.isnan(column)).sum())
