"""Sharded preparation: shards written by several processes, merged into one store.

Each shard takes blocks of the sources' records in turn and steps past the others, so the number of
records need not be known. Kept crystals go to a store of the shard, the outcome of each record to
a list beside it. The merge goes through all lists in the order of the records and writes the
store, the summary and the rejects report of an unsharded preparation.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from phase2hpc.data.convert import Converted, Converter, Raw, Rejection, label_report
from phase2hpc.data.crystal import UnreadableRecord
from phase2hpc.data.graph_arrays import GraphArrays, concatenate, pack
from phase2hpc.data.preparation_record import Source, existing_store, preparation
from phase2hpc.data.prepare import (
    DUPLICATE,
    read_sources,
    reject_duplicate_ids,
    worker_count,
    write_prepared,
)
from phase2hpc.data.prepare_summary import PrepareSummary
from phase2hpc.data.readers.label_report import LabelReport
from phase2hpc.data.record_partition import RecordPartition
from phase2hpc.data.store.reader import Store
from phase2hpc.data.store.verified_cache import remember, state_of
from phase2hpc.data.store.verify import verify_once
from phase2hpc.data.store.writer import StoreWriter
from phase2hpc.data.validation import reason_kind
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.utils.shard_folder import (
    ShardFolder,
    atomic_text,
    fingerprints,
    read_lines,
    write_line,
)
from phase2hpc.utils.worker_pool import ordered_map

# Consecutive records per shard: few, so that small sources are shared too.
BLOCK = 32
# Of all shards together while they are merged.
MERGE_BYTES = 1 << 26

# [id, input] of a kept record, [id, input, reason, kind, is a structure] of a rejected one.
Outcome = list[Any]


def write_shard(
    folder: ShardFolder,
    shard: int,
    sources: Sequence[Source],
    converter: Converter,
    *,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Convert one shard's records of these sources; an existing shard is kept.

    Arguments as of ``prepare``. A shard may have no record. Raises InputError for unreadable
    sources.
    """
    if folder.part(shard).exists():
        return
    begin = time.monotonic()
    partition = RecordPartition(shard, folder.count, BLOCK)
    raws = reject_duplicate_ids(read_sources(sources, converter, partition))
    numbered = groupby(((partition.current, raw) for raw in raws), key=itemgetter(0))
    blocks = ((block, [raw for _, raw in group]) for block, group in numbered)
    function = _BlockConverter(converter)
    with (
        atomic_text(folder.part(shard)) as part,
        closing(ordered_map(function, blocks, worker_count(workers))) as results,
    ):
        write_line(part, {"sources": _fingerprints(sources, converter)})
        with StoreWriter(
            folder.store(shard), graph_settings=converter.settings, float64=converter.float64
        ) as writer:
            for block, graphs, outcomes, labels in results:
                writer.append(graphs)
                write_line(part, [block, outcomes, labels])
                if progress is not None:
                    progress(len(outcomes))
            digest = writer.finish()
        remember(state_of(folder.store(shard)), digest)
        seconds = time.monotonic() - begin
        write_line(part, {"content_hash": digest, "units": partition.count, "seconds": seconds})


def _fingerprints(sources: Sequence[Source], converter: Converter) -> list[Any]:
    return fingerprints([*sources, *([] if converter.labels is None else [converter.labels])])


@dataclass(frozen=True)
class _BlockConverter:
    """A numbered block of raw crystals -> its number, graphs, outcomes and label cells; for worker
    processes."""

    converter: Converter

    def __call__(
        self, task: tuple[int, list[Raw]]
    ) -> tuple[int, GraphArrays, list[Outcome], dict[str, Any]]:
        block, raws = task
        graphs, results = self.converter.convert(raws)
        outcomes = [_outcome(raw, no) for raw, no in zip(raws, results, strict=True)]
        return block, graphs, outcomes, label_report(raws).to_json()


def _outcome(raw: Raw, rejection: Rejection | None) -> Outcome:
    if rejection is None:
        return [raw.id, raw.input]
    is_structure = not isinstance(raw, UnreadableRecord)
    return [raw.id, raw.input, rejection.reason, rejection.kind, is_structure]


def merge_shards(
    folder: ShardFolder,
    sources: Sequence[Source],
    store: Path,
    converter: Converter,
    *,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> PrepareSummary:
    """Write the store and the report that ``prepare`` would write, from all shards.

    The shards are then removed. Raises Phase2Error where shards are missing or damaged, or the
    sources changed since; otherwise as ``prepare``.
    """
    begin = time.monotonic()
    made_from = preparation(sources, converter)
    if not overwrite and (there := existing_store(store, made_from)) is not None:
        folder.remove()
        return there
    folder.require_all()
    shards = [_Shard(folder, number) for number in range(folder.count)]
    now = _fingerprints(sources, converter)
    if any(shard.sources != now for shard in shards) or len({s.records for s in shards}) > 1:
        folder.remove()
        raise Phase2Error(
            "the sources changed while their shards were prepared; the shards were removed: run "
            "the same command again"
        )
    begin -= max(shard.seconds for shard in shards)
    summary = write_prepared(store, sources, converter, made_from, _merged(shards), begin, progress)
    folder.remove()
    return summary


def _merged(shards: Sequence[_Shard]) -> Iterator[Converted]:
    """Batches as an unsharded conversion of all records would yield them, in order."""
    seen: set[str] = set()
    blocks = heapq.merge(*(shard.blocks() for shard in shards), key=itemgetter(0))
    for _, graphs, outcomes, labels in blocks:
        kept: list[bool] = []
        rejections: list[Rejection] = []
        for outcome in outcomes:
            identifier, place = outcome[:2]
            reason, kind, is_structure = outcome[2:] or ("", "", True)
            if identifier in seen and is_structure:
                reason, kind = DUPLICATE, reason_kind(DUPLICATE)
            seen.add(identifier)
            if reason:
                rejections.append(Rejection(identifier, place, kind, reason))
            if len(outcome) == 2:
                kept.append(not reason)
        yield Converted(_chosen(graphs, kept), rejections, len(outcomes), labels)


def _chosen(graphs: GraphArrays, kept: Sequence[bool]) -> GraphArrays:
    """The kept graphs, without label columns that are all missing, as of a converter."""
    if not all(kept):
        graphs = graphs.take(np.flatnonzero(kept))
    labels = {name: column for name, column in graphs.labels.items() if not np.isnan(column).all()}
    return replace(graphs, labels=labels)


class _Shard:
    """An existing shard, read block by block.

    sources: fingerprints of the sources when it was made. records: their number of records.
    seconds: time that it took. Raises Phase2Error for a damaged shard, and removes it.
    """

    def __init__(self, folder: ShardFolder, number: int) -> None:
        self._part, self._most_bytes = folder.part(number), MERGE_BYTES // folder.count
        first: Any = {}
        last: Any = {}
        for value in read_lines(self._part):
            first, last = first or value, value
        try:
            self.sources, self.records = first["sources"], last["units"]
            self.seconds = last["seconds"]
            verify_once(folder.store(number))
            self._store = Store.open(folder.store(number), budget=0)
            if self._store.content_hash != last["content_hash"]:
                raise InputError(f"{folder.store(number)} is from another attempt")
        except (InputError, KeyError, TypeError) as error:
            self._part.unlink()
            raise Phase2Error(
                f"shard {number} was damaged and is removed ({error}): run the same command "
                "again to prepare it again"
            ) from error

    def blocks(self) -> Iterator[tuple[int, GraphArrays, list[Outcome], LabelReport]]:
        """Number, graphs, outcomes and label cells of each block, in order."""
        graphs = _GraphQueue(self._store.blocks(self._most_bytes))
        for value in read_lines(self._part):
            if isinstance(value, list):
                number, outcomes, labels = value
                kept = graphs.next(sum(len(outcome) == 2 for outcome in outcomes))
                yield number, kept, outcomes, LabelReport.from_json(labels)


class _GraphQueue:
    """Regroups blocks of graphs into runs of requested length."""

    def __init__(self, blocks: Iterable[GraphArrays]) -> None:
        self._blocks = iter(blocks)
        self._here, self._place = pack(()), 0

    def next(self, count: int) -> GraphArrays:
        """The next ``count`` graphs."""
        parts = [pack(())]
        while count:
            if self._place == len(self._here):
                self._here, self._place = next(self._blocks), 0
            end = min(self._place + count, len(self._here))
            parts.append(self._here.block(self._place, end))
            count -= end - self._place
            self._place = end
        return concatenate(parts[1:] or parts)
