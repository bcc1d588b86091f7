"""Sharded prediction: one part per process, joined into one table.

A shard predicts every n-th chunk of the inputs. A chunk holds the same crystals as in one process,
so the joined table is identical, byte by byte.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

from phase2hpc.errors import Phase2Error
from phase2hpc.inference.prediction_table import as_records, columns, counted
from phase2hpc.inference.predictor import Predictor
from phase2hpc.utils.record_files import write_records
from phase2hpc.utils.shard_folder import (
    ShardFolder,
    atomic_text,
    fingerprints,
    read_lines,
    write_line,
)


def predict_shard(
    folder: ShardFolder, shard: int, predictor: Predictor, inputs: Sequence[str], *, id_prop: bool
) -> None:
    """Predict the chunks of one shard; an existing part is kept. Arguments as of
    ``Predictor.predict_chunks``."""
    if folder.part(shard).exists():
        return
    chunks = predictor.predict_chunks(inputs, id_prop=id_prop, shard=shard, shards=folder.count)
    with atomic_text(folder.part(shard)) as part:
        write_line(part, [list(predictor.properties), fingerprints(inputs)])
        for number, rows in chunks:
            write_line(part, [number, list(as_records(rows, predictor.properties))])


def join_shards(folder: ShardFolder, inputs: Sequence[str], output: Path) -> Counter[str]:
    """Write the table of all shards, remove them, and return counts as of ``count_record``.

    Raises Phase2Error if shards are missing or damaged, or the inputs have changed.
    """
    folder.require_all()
    parts = [read_lines(folder.part(shard)) for shard in range(folder.count)]
    heads = [next(part, None) for part in parts]
    properties = heads[0][0] if heads[0] else []
    if any(head != [properties, fingerprints(inputs)] for head in heads):
        folder.remove()
        raise Phase2Error(
            "the inputs changed while shards were predicted; the shards were removed: run the same "
            "command again"
        )
    counts: Counter[str] = Counter()
    chunks = (records for _, records in heapq.merge(*parts, key=itemgetter(0)))
    write_records(output, counted(chunks, counts), columns(properties))
    folder.remove()
    return counts
