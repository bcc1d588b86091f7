"""Preparation of a store: sources -> worker processes -> store and rejects report."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from phase2hpc.config.properties import ColumnSettings, default_settings
from phase2hpc.data.convert import Converted, Converter, Raw
from phase2hpc.data.crystal import UnreadableRecord
from phase2hpc.data.graph import GraphSettings
from phase2hpc.data.preparation_record import Source, existing_store, preparation
from phase2hpc.data.prepare_summary import PrepareSummary
from phase2hpc.data.readers.id_prop import tables_beside
from phase2hpc.data.readers.labels import renamed
from phase2hpc.data.readers.registry import describe, read
from phase2hpc.data.record_partition import RecordPartition
from phase2hpc.data.rejects_report import RejectsReport, rejects_path
from phase2hpc.data.store.verified_cache import remember, state_of
from phase2hpc.data.store.writer import StoreWriter
from phase2hpc.data.straddling import StraddlingCompounds
from phase2hpc.data.validation import DEFAULT_LIMITS
from phase2hpc.errors import InputError
from phase2hpc.utils.worker_pool import ordered_map

__all__ = ["PrepareSummary", "prepare_store"]

# Crystals per task: small, so that all workers finish at about the same time.
BATCH_SIZE = 128
# The one process that reads the sources cannot keep more workers busy.
MAX_DEFAULT_WORKERS = 8
DUPLICATE = (
    "duplicate id: only the first crystal with this id is read, whether it is kept or rejected; "
    "ids must be unique"
)
_log = logging.getLogger(__name__)


def prepare_store(
    sources: Sequence[Source],
    store: str | os.PathLike[str],
    settings: GraphSettings | None = None,
    *,
    split: str | None = None,
    seed: int = 0,
    float64: bool = False,
    labels: str | os.PathLike[str] | None = None,
    rename: Mapping[tuple[str, str], str] | None = None,
    columns: Mapping[str, ColumnSettings] | None = None,
    folds: int | None = None,
    max_atoms: int = DEFAULT_LIMITS.max_atoms,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> PrepareSummary:
    """Write the crystals of these sources, in their order, with their graphs to ``store``.

    split: "formula", "random" (by ``seed``), each also with shares ("formula:70/15/15"),
    "column", a CSV of id and split, or None: the source's own where it has one, else by formula.
    float64: keep coordinates in double precision. labels: table of labels of the folder among the
    sources, in place of its id_prop.csv. rename: new names by (source's file name or "", column).
    columns: unit, lower bound and scale by column. folds: number of folds by formula, for ``train
    --fold``. max_atoms: crystals with more atoms in the cell are rejected. workers: processes that
    validate and build graphs (1: this one); the store does not depend on it. overwrite: replace a
    store of other sources or settings. progress: called with the number of crystals done since
    the last call.

    An existing store made from the same sources and settings is kept. Rejected crystals are listed
    in the rejects report beside the store.

    Raises InputError for unreadable sources, an existing store of other sources or settings, no
    valid crystal, or an empty split. Then no store is written; an existing store keeps its report,
    beside that of the failed attempt.
    """
    if not sources:
        raise InputError("no source given: name a file or folder with crystals")
    begin = time.monotonic()
    path = Path(store)
    settings = settings or GraphSettings()
    converter = Converter(
        settings, split, seed, float64, None if labels is None else os.fspath(labels),
        dict(rename or {}), dict(columns or {}), folds, max_atoms,
    )  # fmt: skip
    made_from = preparation(sources, converter)
    if not overwrite and (there := existing_store(path, made_from)) is not None:
        return there
    raws = reject_duplicate_ids(read_sources(sources, converter))
    with closing(
        ordered_map(converter, _batches(raws, BATCH_SIZE), worker_count(workers))
    ) as results:
        return write_prepared(path, sources, converter, made_from, results, begin, progress)


def write_prepared(
    path: Path,
    sources: Sequence[Source],
    converter: Converter,
    made_from: dict[str, Any],
    results: Iterable[Converted],
    begin: float,
    progress: Callable[[int], None] | None = None,
) -> PrepareSummary:
    """Write a converter's results as one store, with the report beside it.

    made_from: ``preparation`` of the sources. begin: when the work began, on the monotonic clock.
    Raises InputError where no crystal is left, or a split is empty.
    """
    report_of_failure = rejects_path(path, failed=path.exists())
    summary = PrepareSummary(path, report_of_failure)
    name = ", ".join(describe(source) for source in sources)
    with (
        StoreWriter(
            path,
            graph_settings=converter.settings,
            float64=converter.float64,
            source={"name": name, "sha256": made_from["sources"]},
            preparation=made_from,
        ) as writer,
        RejectsReport(rejects_path(path), report_of_failure) as report,
    ):
        compounds = StraddlingCompounds()
        for batch in results:
            writer.append(batch.graphs)
            report.add(batch.rejections)
            summary.count(batch)
            if not converter.by_formula:
                compounds.add(batch.graphs)
            if progress is not None:
                progress(batch.read)
        report.add_label_cells(summary.label_cells)
        _check_not_empty(summary)
        summary.columns = _columns(summary, converter)
        _warn_without_labels(summary, sources, converter)
        _warn_straddling(summary, compounds.found())
        summary.seconds = time.monotonic() - begin
        summary.content_hash = writer.finish(summary.stored(), summary.columns)
    summary.rejects_report = rejects_path(path)
    rejects_path(path, failed=True).unlink(missing_ok=True)
    remember(state_of(path), summary.content_hash)
    return summary


def read_sources(
    sources: Sequence[Source], converter: Converter, partition: RecordPartition | None = None
) -> Iterator[Raw]:
    """Raw crystals of all sources in order, their label columns renamed."""
    labels = None if converter.labels is None else Path(converter.labels)
    for source in sources:
        names = renames_of(source, converter)
        for raw in read(source, labels=labels, partition=partition):
            if names:
                raw = replace(raw, labels=renamed(raw.labels, names, describe(source)))
            yield raw


def renames_of(source: Source, converter: Converter) -> dict[str, str]:
    """New names of the label columns of this source."""
    return {
        column: new
        for (name, column), new in converter.rename.items()
        if name in ("", describe(source))
    }


def _columns(summary: PrepareSummary, converter: Converter) -> dict[str, ColumnSettings]:
    """Settings of all label columns: as given, else units from headers and the nine properties.

    Raises InputError for ``--column`` and ``--rename`` of columns that do not exist.
    """
    names = ", ".join(summary.labels) or "none"
    for name in converter.columns:
        if name not in summary.labels:
            raise InputError(f"--column {name}: no label column of this name, there are: {names}")
    summary.label_cells.check_renames(converter.rename)
    units = summary.label_cells.units
    columns = {}
    for name in summary.labels:
        header = ColumnSettings(unit=units.get(name))
        known = ColumnSettings(unit=default_settings(name).unit)
        columns[name] = converter.columns.get(name, ColumnSettings()).over(header).over(known)
    return columns


def _warn_without_labels(
    summary: PrepareSummary, sources: Sequence[Source], converter: Converter
) -> None:
    if summary.labels:
        return
    hints = [
        f"{table} names its files, give it by --labels {table}"
        for source in sources
        if converter.labels is None and Path(source).is_dir()
        for table in tables_beside(Path(source))
    ]
    reason = (
        "every label cell is missing or not a number"
        if summary.label_cells.columns
        else (hints[0] if hints else "give labels by id_prop.csv in the folder, or --labels FILE")
    )
    message = f"no label in this store, so nothing can be trained on it: {reason}"
    summary.notes.append(f"warning: {message}")
    _log.warning("%s: %s", summary.store, message)


def _warn_straddling(summary: PrepareSummary, compounds: Sequence[str]) -> None:
    if not compounds:
        return
    number = "1 compound" if len(compounds) == 1 else f"{len(compounds):,} compounds"
    message = (
        f"{number} in train and in val or test too, for example {compounds[0]}: errors would look "
        "smaller than they are; --split formula keeps a compound in one split"
    )
    summary.notes.append(f"warning: {message}")
    _log.warning("%s: %s", summary.store, message)


def worker_count(workers: int | None) -> int:
    """Number of workers; None: the number of cores, up to MAX_DEFAULT_WORKERS."""
    return workers or min(MAX_DEFAULT_WORKERS, len(os.sched_getaffinity(0)))


def reject_duplicate_ids(raws: Iterable[Raw]) -> Iterator[Raw]:
    """The records; one that repeats an id is replaced by an UnreadableRecord."""
    seen: set[str] = set()
    for raw in raws:
        if raw.id in seen and not isinstance(raw, UnreadableRecord):
            yield UnreadableRecord(raw.id, raw.input, DUPLICATE, raw.labels)
        else:
            seen.add(raw.id)
            yield raw


def _batches(raws: Iterable[Raw], size: int) -> Iterator[list[Raw]]:
    iterator = iter(raws)
    while batch := list(islice(iterator, size)):
        yield batch


def _check_not_empty(summary: PrepareSummary) -> None:
    if not summary.kept:
        kinds = ", ".join(f"{count} x {kind}" for kind, count in sorted(summary.rejected.items()))
        raise InputError(
            f"none of {summary.read} crystals is valid ({kinds}): see {summary.rejects_report}"
        )
    empty = [name for name, count in summary.splits.items() if not count]
    if empty:
        counts = ", ".join(f"{name} {count}" for name, count in summary.splits.items())
        raise InputError(
            f"split {' and '.join(empty)} would be empty ({counts}): give more crystals, "
            "--split random, other shares (--split formula:70/15/15), or --split FILE with a line "
            "'id,split' for each crystal"
            + (f"; rejected crystals: {summary.rejects_report}" if summary.rejected else "")
        )
