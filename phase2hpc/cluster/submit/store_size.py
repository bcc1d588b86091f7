"""The store that a job will train on, as far as the machine that submits can see it.

Nobody may have verified it, so it is looked at in a child process. With the base install alone
nothing of it can be read: then the node will tell.
"""

from __future__ import annotations

import difflib
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phase2hpc.config.properties import GROUPS, PROPERTIES, ColumnSettings, canonical_name
from phase2hpc.errors import InputError

if TYPE_CHECKING:
    from phase2hpc.data.store.layout import StoreInfo

log = logging.getLogger(__name__)

# The shipped sample's store: crystals, those of its training split, bytes in memory.
SAMPLE_CRYSTALS, SAMPLE_TRAINING, SAMPLE_MEMORY = 15_669, 12_576, 55e6
# The same a crystal, for a store whose attributes cannot be read here.
DISK_A_CRYSTAL, MEMORY_A_CRYSTAL = 375.0, 3_500.0
TRAINING_SHARE = 0.8


@dataclass(frozen=True)
class StoreSize:
    """Crystals in all and in the training split, bytes in memory, and how that is known."""

    crystals: int
    training: int
    memory: float
    known_from: str


@dataclass(frozen=True)
class PlannedStore:
    """``readable``: whether stores can be read here; ``info`` None where this one is not, or is
    not there."""

    path: Path
    exists: bool
    readable: bool
    info: StoreInfo | None

    @classmethod
    def seen(cls, path: Path) -> PlannedStore:
        """Raises InputError for what is there and no store."""
        exists = path.exists()
        try:
            from phase2hpc.data.store.verify import inspect
        except ModuleNotFoundError:
            return cls(path, exists, False, None)
        return cls(path, exists, True, inspect(path) if exists else None)

    def columns(self, properties: str | None) -> dict[str, ColumnSettings]:
        """Its label columns; where they are not known, those that may be asked for.

        properties: all names asked for, as a comma list.
        """
        if self.info is not None:
            return dict(self.info.columns)
        names = (name.strip() for name in (properties or "").split(","))
        asked = [canonical_name(name) for name in names if name]
        for name in set(asked) - PROPERTIES.keys() - GROUPS.keys():
            if not self.readable:
                log.warning(
                    "whether the store has a column '%s' cannot be seen here (no h5py)", name
                )
        return dict.fromkeys([*PROPERTIES, *asked], ColumnSettings())

    def size(self, *, is_sample: bool) -> StoreSize | None:
        """Its size, or, before it is prepared, the sample's; None where nothing tells."""
        if self.info is not None:
            training = int(self.info.summary.get("splits", {}).get("train", 0))
            crystals, memory = self.info.crystals, float(self.info.memory)
            return StoreSize(crystals, training or crystals, memory, "as the store says")
        if self.exists:
            # The file's own length tells no splits.
            length = self.path.stat().st_size
            crystals = max(1, round(length / DISK_A_CRYSTAL))
            known_from = f"about, from the {length / 1e6:,.1f} MB of the store"
            training = math.ceil(TRAINING_SHARE * crystals)
            return StoreSize(crystals, training, crystals * MEMORY_A_CRYSTAL, known_from)
        if is_sample:
            sample = SAMPLE_CRYSTALS, SAMPLE_TRAINING, SAMPLE_MEMORY
            return StoreSize(*sample, "the shipped sample")
        return None

    def not_there(self) -> InputError:
        """The error for a store that was named and is missing: more likely misspelt, or elsewhere,
        than to be made of something that nobody named."""
        others = [path.name for path in self.path.parent.glob("*.h5")]
        near = difflib.get_close_matches(self.path.name, others, n=1, cutoff=0.75)
        meant = f": did you mean {self.path.with_name(near[0])}?" if near else ";"
        return InputError(
            f"no store {self.path}{meant} to prepare it first, say from what by --prepare SOURCE"
        )
