"""Sources -> worker processes -> store, with a report of what was left out."""

from __future__ import annotations

import csv
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from phase2hpc.data.arrays import GraphArrays
from phase2hpc.data.convert import Converter, Raw, Rejection
from phase2hpc.data.crystal import Unreadable
from phase2hpc.data.graph import GraphSettings
from phase2hpc.data.sources import describe, read, source_hash
from phase2hpc.data.splits import SPLITS
from phase2hpc.data.store_layout import StoreInfo, read_info
from phase2hpc.data.store_writer import StoreWriter
from phase2hpc.data.workers import ordered_map
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.files import PartialFile
from phase2hpc.properties import PROPERTIES, unit

Source = str | Path

# Crystals a task: enough that sending costs little, few enough that workers end together.
BATCH = 128
# More workers than this only wait for the one process that reads the source.
MAX_DEFAULT_WORKERS = 8
SPLIT_RULES = ("formula", "random", "column")


@dataclass
class PrepareSummary:
    """Counts of one preparation; ``labels`` is property -> split -> number of labels."""

    store: Path
    read: int = 0
    kept: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    seconds: float = 0.0
    content_hash: str = ""
    already_there: bool = False

    @property
    def rejects_report(self) -> Path:
        """CSV of id, reason and input of each crystal that was left out."""
        return rejects_path(self.store)

    def lines(self) -> list[str]:
        """The summary as text."""
        if self.already_there:
            first = f"{self.store} is there already, made from the same sources and settings"
        else:
            rate = self.read / max(self.seconds, 1e-9)
            first = f"{self.store}: {self.seconds:.1f} s, {rate:,.0f} crystals/s"
        left_out = sum(self.rejected.values())
        lines = [first, f"  in {self.read:,}   kept {self.kept:,}   rejected {left_out:,}"]
        lines += [f"    {count:,} x {kind}" for kind, count in sorted(self.rejected.items())]
        if left_out:
            lines.append(f"    each with its reason: {self.rejects_report}")
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
        for code, name in enumerate(SPLITS):
            here = block.split == code
            self.splits[name] += int(here.sum())
            for label, column in block.labels.items():
                by_split = self.labels.setdefault(label, dict.fromkeys(SPLITS, 0))
                by_split[name] += int((here & ~np.isnan(column)).sum())

    def stored(self) -> dict[str, Any]:
        """What the store keeps of it."""
        return {
            key: value
            for key, value in asdict(self).items()
            if key not in ("store", "content_hash", "already_there")
        }


def prepare(
    sources: Sequence[Source],
    store: str | os.PathLike[str],
    settings: GraphSettings | None = None,
    *,
    split: str | None = None,
    seed: int = 0,
    float64: bool = False,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> PrepareSummary:
    """Write the crystals of these sources, in their order, with their graphs to ``store``.

    split: "formula", "random" (by ``seed``), "column", a CSV of id and split, or None: the
    source's own where it has one, else by formula. float64: keep coordinates in double precision.
    workers: processes that validate and build graphs (1: this one); what is written does not
    depend on it. overwrite: replace a store that was made otherwise. progress: called with the
    number of crystals done since the last call.

    A store that is there already from the same sources and settings is left as it is. What is
    left out goes to the rejects report beside the store. Raises InputError for unreadable
    sources, a store made otherwise, no crystal left, or an empty split; then there is no new
    store.
    """
    if not sources:
        raise InputError("no source given: name a file or folder with crystals")
    begin = time.monotonic()
    path = Path(store)
    settings = settings or GraphSettings()
    converter = Converter(settings, split, seed, float64)
    made_from = _preparation(sources, converter)
    if not overwrite and (info := _existing(path, made_from)) is not None:
        return PrepareSummary(
            path, content_hash=info.content_hash, already_there=True, **info.summary
        )
    summary = PrepareSummary(path)
    count = min(MAX_DEFAULT_WORKERS, len(os.sched_getaffinity(0))) if workers is None else workers
    raws = _first_of_each_id(chain.from_iterable(read(source) for source in sources))
    name = ", ".join(describe(source) for source in sources)
    source = {"name": name, "sha256": made_from["sources"]}
    with (
        StoreWriter(
            path,
            graph_settings=settings,
            float64=float64,
            source=source,
            preparation=made_from,
        ) as writer,
        _RejectsReport(rejects_path(path)) as report,
        closing(ordered_map(converter, _batches(raws, BATCH), count)) as results,
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
    return summary


def rejects_path(store: Path) -> Path:
    """Where the rejects report of a store lies."""
    return store.with_name(f"{store.name}.rejects.csv")


class _RejectsReport:
    """The CSV of what was left out; it stays even where no store comes of it, to say why."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _RejectsReport:
        try:
            self._partial = PartialFile(self._path)
            self._file = self._partial.path.open("w", newline="", encoding="utf-8")
        except OSError as error:
            raise self._failed(error) from error
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(["id", "reason", "input"])
        return self

    def add(self, rejections: Iterable[Rejection]) -> None:
        try:
            for rejection in rejections:
                self._writer.writerow([rejection.id, rejection.reason, rejection.input])
        except OSError as error:
            raise self._failed(error) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._file.close()
            if kind is None or issubclass(kind, InputError):
                self._partial.commit()
        except OSError as failure:
            if kind is None:
                raise self._failed(failure) from failure
        finally:
            self._partial.discard()

    def _failed(self, error: OSError) -> Phase2Error:
        return Phase2Error(f"cannot write {self._path}: {error.strerror}; make room and try again")


def _first_of_each_id(raws: Iterable[Raw]) -> Iterator[Raw]:
    """A later crystal of the same id becomes unreadable: which one is meant nobody can tell."""
    seen: set[str] = set()
    for raw in raws:
        if raw.id in seen and not isinstance(raw, Unreadable):
            reason = "duplicate id: the first crystal of this id was taken, ids must be unique"
            yield Unreadable(raw.id, raw.input, reason)
        else:
            seen.add(raw.id)
            yield raw


def _batches(raws: Iterable[Raw], size: int) -> Iterator[list[Raw]]:
    iterator = iter(raws)
    while batch := list(islice(iterator, size)):
        yield batch


def _preparation(sources: Sequence[Source], converter: Converter) -> dict[str, Any]:
    """What the store's content depends on, as JSON knows it."""
    rule = converter.split
    made_from: dict[str, Any] = {
        "sources": [source_hash(source) for source in sources],
        "graph_settings": converter.settings.to_dict(),
        "float64": converter.float64,
        "split": rule,
        "seed": converter.seed if rule == "random" else None,
    }
    if rule is not None and rule not in SPLIT_RULES:
        try:
            made_from["split"] = hashlib.sha256(Path(rule).read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(
                f"--split {rule}: no such file that can be read; use {', '.join(SPLIT_RULES)} "
                "or a CSV of id and split"
            ) from error
    return made_from


def _existing(path: Path, made_from: dict[str, Any]) -> StoreInfo | None:
    """The store that is there already, if it is the one asked for; InputError if another is."""
    if not path.exists():
        return None
    try:
        info = read_info(path)
    except InputError as error:
        raise InputError(
            f"{path} is there but cannot be used ({error}): remove it or give another --store"
        ) from error
    different = [key for key in made_from if info.preparation.get(key) != made_from[key]]
    if different:
        raise InputError(
            f"{path} is there already, made with other {', '.join(different)}: give another "
            "--store or remove it"
        )
    return info


def _check_not_empty(summary: PrepareSummary) -> None:
    if not summary.kept:
        kinds = ", ".join(f"{count} x {kind}" for kind, count in sorted(summary.rejected.items()))
        raise InputError(
            f"none of {summary.read} crystals can be used ({kinds}): see {summary.rejects_report}"
        )
    empty = [name for name, count in summary.splits.items() if not count]
    if empty:
        counts = ", ".join(f"{name} {count}" for name, count in summary.splits.items())
        raise InputError(
            f"split {' and '.join(empty)} would be empty ({counts}): give more crystals, "
            "--split random, or --split FILE with a line 'id,split' a crystal"
        )


def _in_order(labels: Iterable[str]) -> list[str]:
    known = [name for name in PROPERTIES if name in labels]
    return known + sorted(set(labels) - set(known))


def _row(counts: dict[str, int]) -> str:
    return "".join(f"{counts.get(name, 0):>10,}" for name in SPLITS)
