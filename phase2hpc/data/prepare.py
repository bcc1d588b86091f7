"""Prepare a graph store from sources, with a report of the rejected crystals."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from phase2hpc.config.properties import PROPERTIES, unit
from phase2hpc.data.convert import Converter, Raw, Rejection
from phase2hpc.data.crystal import UnreadableRecord
from phase2hpc.data.graph import GraphSettings
from phase2hpc.data.graph_arrays import GraphArrays
from phase2hpc.data.readers.registry import describe, read, source_hash
from phase2hpc.data.rejects_report import RejectsReport, rejects_path
from phase2hpc.data.split_counts import SplitCounts
from phase2hpc.data.splits import SPLITS
from phase2hpc.data.store.verified_cache import remember, state_of
from phase2hpc.data.store.verify import inspect
from phase2hpc.data.store.writer import StoreWriter
from phase2hpc.data.validation import DEFAULT_LIMITS
from phase2hpc.errors import InputError
from phase2hpc.utils.worker_pool import ordered_map

Source = str | Path

# Crystals per task: few enough that all workers end at about the same time.
BATCH_SIZE = 128
# The one process that reads the sources cannot keep more workers busy.
MAX_DEFAULT_WORKERS = 8
DUPLICATE = "duplicate id: only the first crystal with this id is used, ids must be unique"
SPLIT_RULES = ("formula", "random", "column")


@dataclass
class PrepareSummary(SplitCounts):
    """Counts of one preparation.

    rejects_report: path of a CSV with id, reason and input of each rejected crystal.
    """

    store: Path
    rejects_report: Path
    read: int = 0
    kept: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    content_hash: str = ""
    already_there: bool = False

    def lines(self) -> list[str]:
        """The summary as text."""
        if self.already_there:
            first = f"{self.store} exists already, made from the same sources and settings"
        else:
            rate = self.read / max(self.seconds, 1e-9)
            first = f"{self.store}: {self.seconds:.1f} s, {rate:,.0f} crystals/s"
        rejected = sum(self.rejected.values())
        lines = [first, f"  in {self.read:,}   kept {self.kept:,}   rejected {rejected:,}"]
        lines += [f"    {count:,} x {kind}" for kind, count in sorted(self.rejected.items())]
        if rejected:
            lines.append(f"    reasons in {self.rejects_report}")
        lines.append(f"  {'':<28}{''.join(f'{name:>10}' for name in SPLITS)}")
        lines.append(f"  {'crystals':<28}{_row(self.splits)}")
        for name in _in_order(self.labels):
            shown = f"{name} ({unit(name)})" if unit(name) else name
            lines.append(f"  {shown:<28}{_row(self.labels[name])}")
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def count(self, block: GraphArrays, rejections: Sequence[Rejection], read: int) -> None:
        """Add one batch."""
        self.read += read
        self.kept += len(block)
        for rejection in rejections:
            self.rejected[rejection.kind] = self.rejected.get(rejection.kind, 0) + 1
        self.add(block)

    def stored(self) -> dict[str, Any]:
        """The counts that are saved in the store."""
        return {
            key: value
            for key, value in asdict(self).items()
            if key not in ("store", "rejects_report", "content_hash", "already_there")
        }


def prepare(
    sources: Sequence[Source],
    store: str | os.PathLike[str],
    settings: GraphSettings | None = None,
    *,
    split: str | None = None,
    seed: int = 0,
    float64: bool = False,
    max_atoms: int = DEFAULT_LIMITS.max_atoms,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> PrepareSummary:
    """Write the crystals of the sources, in their order, with their graphs to ``store``.

    split: "formula", "random" (by ``seed``), "column", the path of a CSV of id and split, or None:
    the source's own split if it has one, else by formula. float64: store coordinates in double
    precision. workers: number of processes that validate and build graphs (1: this one); the
    result does not depend on it. overwrite: replace a store of other sources or settings.
    max_atoms: crystals with more atoms in the cell are rejected.
    progress: called with the number of crystals done since the last call.

    An existing store of the same sources and settings is kept. Rejected crystals are listed in a
    report beside the store. Raises InputError for unreadable sources, an existing store of other
    sources or settings, no valid crystal, or an empty split; then no store is written, and an
    existing one keeps its report beside that of the failed attempt.
    """
    if not sources:
        raise InputError("no source given: name a file or folder with crystals")
    begin = time.monotonic()
    path = Path(store)
    settings = settings or GraphSettings()
    converter = Converter(settings, split, seed, float64, max_atoms=max_atoms)
    made_from = preparation(sources, converter)
    if not overwrite and (there := existing_store(path, made_from)) is not None:
        return there
    raws = reject_duplicate_ids(chain.from_iterable(read(source) for source in sources))
    with closing(
        ordered_map(converter, _batches(raws, BATCH_SIZE), worker_count(workers))
    ) as results:
        return write_prepared(path, sources, converter, made_from, results, begin, progress)


def write_prepared(
    path: Path,
    sources: Sequence[Source],
    converter: Converter,
    made_from: dict[str, Any],
    results: Iterable[tuple[GraphArrays, Sequence[Rejection], int]],
    begin: float,
    progress: Callable[[int], None] | None = None,
) -> PrepareSummary:
    """Write the results of a converter as one store, with the report beside it.

    made_from: ``preparation`` of the sources. begin: ``time.monotonic()`` at the start. Raises
    InputError if no crystal is valid or a split is empty.
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
        for block, rejections, read_here in results:
            writer.append(block)
            report.add(rejections)
            summary.count(block, rejections, read_here)
            if progress is not None:
                progress(read_here)
        _check_not_empty(summary)
        summary.seconds = time.monotonic() - begin
        summary.content_hash = writer.finish(summary.stored())
    summary.rejects_report = rejects_path(path)
    rejects_path(path, failed=True).unlink(missing_ok=True)
    remember(state_of(path), summary.content_hash)
    return summary


def worker_count(workers: int | None) -> int:
    """``workers``, by default the number of cores, at most MAX_DEFAULT_WORKERS."""
    return workers or min(MAX_DEFAULT_WORKERS, len(os.sched_getaffinity(0)))


def reject_duplicate_ids(raws: Iterable[Raw]) -> Iterator[Raw]:
    """Replace later crystals of the same id by an UnreadableRecord."""
    seen: set[str] = set()
    for raw in raws:
        if raw.id in seen and not isinstance(raw, UnreadableRecord):
            yield UnreadableRecord(raw.id, raw.input, DUPLICATE)
        else:
            seen.add(raw.id)
            yield raw


def _batches(raws: Iterable[Raw], size: int) -> Iterator[list[Raw]]:
    iterator = iter(raws)
    while batch := list(islice(iterator, size)):
        yield batch


def preparation(sources: Sequence[Source], converter: Converter) -> dict[str, Any]:
    """Everything that the content of the store depends on, as JSON values."""
    rule = converter.split
    made_from: dict[str, Any] = {
        "sources": [source_hash(source) for source in sources],
        "graph_settings": converter.settings.to_dict(),
        "float64": converter.float64,
        "max_atoms": converter.max_atoms,
        "split": rule,
        "seed": converter.seed if rule == "random" else None,
    }
    if rule is not None and rule not in SPLIT_RULES:
        try:
            made_from["split"] = hashlib.sha256(Path(rule).read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(
                f"--split {rule}: not a readable file; use {', '.join(SPLIT_RULES)} or a CSV of "
                "id and split"
            ) from error
    return made_from


def existing_store(path: Path, made_from: dict[str, Any]) -> PrepareSummary | None:
    """Summary of an existing store that was made from ``made_from``; None if there is none.

    Raises InputError for a store of other sources or settings, or a damaged one.
    """
    if not path.exists():
        return None
    try:
        info = inspect(path)
    except InputError as error:
        raise InputError(
            f"{path} exists but cannot be used ({error}): remove it, replace it with --overwrite "
            "or give another --store"
        ) from error
    if different := _differences(info.preparation, made_from):
        raise InputError(
            f"{path} exists already, {different}: replace it with --overwrite or give another "
            "--store"
        )
    return PrepareSummary(
        path,
        rejects_path(path),
        content_hash=info.content_hash,
        already_there=True,
        **info.summary,
    )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Differences in sources and settings as text, old -> new; "" if there are none."""
    if "merged" in old:
        return f"merged from {len(old['merged'])} stores"
    changes = []
    for key, wanted in new.items():
        # Stores of earlier versions do not name it.
        found = old.get(key, DEFAULT_LIMITS.max_atoms if key == "max_atoms" else None)
        if found == wanted:
            continue
        if key == "sources":
            changes.append("other sources")
        elif isinstance(found, dict):
            changes += [
                f"{k} {found.get(k)} -> {v}" for k, v in wanted.items() if found.get(k) != v
            ]
        elif key == "split":
            changes.append(f"split {_rule_name(found)} -> {_rule_name(wanted)}")
        else:
            changes.append(f"{key} {found} -> {wanted}")
    return f"made with {', '.join(changes)}" if changes else ""


def _rule_name(rule: str | None) -> str:
    if rule is None:
        return "by default"
    return rule if rule in SPLIT_RULES else f"file (SHA-256 {rule[:8]})"


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
            "--split random, or --split FILE with a line 'id,split' per crystal"
            + (f"; rejected crystals: {summary.rejects_report}" if summary.rejected else "")
        )


def _in_order(labels: Iterable[str]) -> list[str]:
    known = [name for name in PROPERTIES if name in labels]
    return known + sorted(set(labels) - set(known))


def _row(counts: dict[str, int]) -> str:
    return "".join(f"{counts.get(name, 0):>10,}" for name in SPLITS)
