"""The small real store of the tests, and the settings of short training runs on it."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paths import SAMPLE

TINY_SPLITS = {"train": 110, "val": 20, "test": 20}
MAX_ATOMS = 10
# All that is drawn at random, averaged or learned beside the weights is on, so that a restart
# that forgets any of it shows.
LITTLE: dict[str, dict[str, Any]] = {
    "e3nn": {
        "channels": (6, 4), "layers": 2, "embedding_size": 8, "hidden": 8, "out_features": 16,
        "head_hidden": 8, "dropout": 0.1, "head_dropout": 0.1, "task_weights": "learned",
        "max_samples": 40, "batch_size": 8, "epochs": 3, "lr": 1e-2,
    },
    "cgcnn": {
        "hidden": 16, "layers": 2, "out_features": 16, "head_hidden": 8, "dropout": 0.1,
        "head_dropout": 0.1, "task_weights": "learned",
        "max_samples": 40, "batch_size": 8, "epochs": 3, "lr": 1e-2,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Tiny:
    """About 150 crystals of the sample: their records, the source file and the store."""

    records: list[dict[str, Any]]
    source: Path
    store: Path

    def of_split(self, split: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["split"] == split]


def prepare_tiny(folder: Path) -> Tiny:
    from phase2hpc.data.prepare import prepare_store

    records = _choose()
    source = folder / "tiny.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    store = folder / "tiny.h5"
    prepare_store([source], store, workers=1)
    return Tiny(records, source, store)


def _choose() -> list[dict[str, Any]]:
    chosen: list[dict[str, Any]] = []
    wanted = {(s, rare): n // 2 for s, n in TINY_SPLITS.items() for rare in (True, False)}
    with gzip.open(SAMPLE, "rt") as lines:
        for line in lines:
            record = json.loads(line)
            kind = (record["split"], "dfpt_piezo_max_dij" in record["properties"])
            if len(record["species"]) > MAX_ATOMS or not wanted[kind]:
                continue
            wanted[kind] -= 1
            if len(chosen) % 3:
                record["properties"]["mass"] = 2.0 * len(record["species"]) + 1.0
            chosen.append(record)
            if not any(wanted.values()):
                break
    return chosen
