"""Size and label columns of the store that a job will train on, as seen on the login node.

An unverified store is opened in a child process. The base install cannot read stores: then the
job itself reports what is wrong.
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
    from phase2hpc.data.store.info import StoreInfo

log = logging.getLogger(__name__)

# Store of the shipped sample: crystals, training crystals, bytes in memory.
SAMPLE_CRYSTALS, SAMPLE_TRAINING, SAMPLE_MEMORY = 15_669, 12_576, 55e6
# For a store that cannot be read here: bytes per crystal.
DISK_PER_CRYSTAL, MEMORY_PER_CRYSTAL = 375.0, 3_500.0
TRAINING_SHARE = 0.8


@dataclass(frozen=True)
class StoreSize:
    """Number of crystals, of training crystals, bytes in memory, and the source of the numbers."""

    crystals: int
    training: int
    memory: float
    source: str


@dataclass(frozen=True)
class PlannedStore:
    """``readable``: whether this install can read stores; ``info`` is None if the store is missing
    or cannot be read."""

    path: Path
    exists: bool
    readable: bool
    info: StoreInfo | None

    @classmethod
    def inspect(cls, path: Path) -> PlannedStore:
        """Raises InputError if the file is not a valid store."""
        exists = path.exists()
        try:
            from phase2hpc.data.store.verify import inspect as inspect_store
        except ModuleNotFoundError:
            return cls(path, exists, False, None)
        return cls(path, exists, True, inspect_store(path) if exists else None)

    def columns(self, properties: str | None) -> dict[str, ColumnSettings]:
        """Its label columns; if it cannot be read, all that may be requested.

        properties: all requested names, as a comma list.
        """
        if self.info is not None:
            return dict(self.info.columns)
        names = (name.strip() for name in (properties or "").split(","))
        asked = [canonical_name(name) for name in names if name]
        for name in set(asked) - PROPERTIES.keys() - GROUPS.keys():
            if not self.readable:
                log.warning("cannot check here whether the store has a column '%s' (no h5py)", name)
        return dict.fromkeys([*PROPERTIES, *asked], ColumnSettings())

    def size(self, *, is_sample: bool) -> StoreSize | None:
        """Its size, the sample's if that will be prepared, or None if unknown."""
        if self.info is not None:
            training = int(self.info.summary.get("splits", {}).get("train", 0))
            crystals, memory = self.info.crystals, float(self.info.memory)
            return StoreSize(crystals, training or crystals, memory, "from the store")
        if self.exists:
            length = self.path.stat().st_size
            crystals = max(1, round(length / DISK_PER_CRYSTAL))
            source = f"estimated from {length / 1e6:,.1f} MB of the store"
            training = math.ceil(TRAINING_SHARE * crystals)
            return StoreSize(crystals, training, crystals * MEMORY_PER_CRYSTAL, source)
        if is_sample:
            sample = SAMPLE_CRYSTALS, SAMPLE_TRAINING, SAMPLE_MEMORY
            return StoreSize(*sample, "the shipped sample")
        return None

    def missing(self) -> InputError:
        """The error for a named store that does not exist, with the nearest name. It is not
        prepared from the sample: the name is more likely misspelt."""
        others = [path.name for path in self.path.parent.glob("*.h5")]
        near = difflib.get_close_matches(self.path.name, others, n=1, cutoff=0.75)
        hint = f": did you mean {self.path.with_name(near[0])}?" if near else ";"
        return InputError(
            f"no store {self.path}{hint} to prepare it in a first job, give --prepare SOURCE"
        )
