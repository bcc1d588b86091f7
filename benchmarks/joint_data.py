"""Write the sample joined with Materials Project labels, the training data of the shipped models.

python benchmarks/joint_data.py joint.jsonl.gz [SHARE]
phase2hpc prepare joint.jsonl.gz --store joint.h5 --split column

The sample's training crystals that are the Materials Project's get its PBE formation energy and
band gap as two further columns, mp_formation_energy and mp_gap; its other training crystals follow
as crystals of their own. Both data sets are split by the same hash of the formula, and only what
is train there is used: no compound of val or test is added, and no label to one. With SHARE, only
that fraction of the further crystals is taken, drawn by a hash of the id.
"""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[1] / "data"
SAMPLE = DATA / "jarvis_dft3d_15k.jsonl.gz"
ADDED = DATA / "auxiliary/mp_pbe_train.jsonl.gz"
COLUMNS = {"formation_energy_peratom": "mp_formation_energy", "gap_pbe": "mp_gap"}
MAX_ATOMS = 60

Record = dict[str, Any]


def records(path: Path) -> Iterator[Record]:
    with gzip.open(path, "rt") as lines:
        yield from map(json.loads, lines)


def joint_records(share: float = 1.0) -> Iterator[Record]:
    """The sample with the further columns, then a share of the crystals that it has not."""
    added = {record["id"]: record for record in records(ADDED)}
    joined = set()
    for record in records(SAMPLE):
        twin = added.get(record.get("mp_id"))
        if twin is not None:
            joined.add(twin["id"])
            if record["split"] == "train":
                record["properties"] |= renamed(twin)
        yield record
    for name, record in added.items():
        drawn = zlib.crc32(name.encode()) < share * 2**32
        if drawn and name not in joined and len(record["species"]) <= MAX_ATOMS:
            yield record | {"properties": renamed(record)}


def renamed(record: Record) -> dict[str, float]:
    labels = record["properties"]
    return {new: labels[old] for old, new in COLUMNS.items() if old in labels}


def main() -> None:
    share = float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
    with gzip.open(sys.argv[1], "wt", compresslevel=3) as out:
        for record in joint_records(share):
            print(json.dumps(record), file=out)


if __name__ == "__main__":
    main()
