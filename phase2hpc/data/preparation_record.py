"""Record of what a store was prepared from, and the search for an existing store of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phase2hpc.data.convert import Converter
from phase2hpc.data.preparation_difference import difference, is_rule
from phase2hpc.data.prepare_summary import PrepareSummary
from phase2hpc.data.readers.registry import describe, source_hash
from phase2hpc.data.rejects_report import rejects_path
from phase2hpc.data.splits import make_splitter
from phase2hpc.data.store.verify import inspect
from phase2hpc.errors import InputError

Source = str | Path


def preparation(sources: Sequence[Source], converter: Converter) -> dict[str, Any]:
    """Everything that the store's content depends on, as JSON values.

    Raises InputError for options that contradict each other.
    """
    rule = converter.split
    labels = None if converter.labels is None else Path(converter.labels)
    if labels is not None:
        check_labels_table(sources)
    known = [describe(source) for source in sources]
    for source, _ in converter.rename:
        if source and source not in known:
            raise InputError(f"--rename {source}: no such source, there are: {', '.join(known)}")
    if rule is None or converter.folds is not None or is_rule(rule):
        make_splitter(rule, converter.seed, converter.folds)
    made_from: dict[str, Any] = {
        "sources": [
            source_hash(source, labels if Path(source).is_dir() else None) for source in sources
        ],
        "graph_settings": converter.settings.to_dict(),
        "float64": converter.float64,
        "max_atoms": converter.max_atoms,
        "split": rule,
        "seed": converter.seed if rule and rule.startswith("random") else None,
        "folds": converter.folds,
        "rename": {":".join(key): new for key, new in converter.rename.items()} or None,
        "columns": {n: c.model_dump() for n, c in sorted(converter.columns.items())} or None,
    }
    if rule is not None and not is_rule(rule):
        try:
            made_from["split"] = hashlib.sha256(Path(rule).read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(
                f"--split {rule}: not a readable file; use formula, random, column or a "
                "CSV of id and split"
            ) from error
    return made_from


def check_labels_table(sources: Sequence[Source]) -> None:
    """Raise InputError unless there is one folder to join a table of labels to."""
    if sum(Path(source).is_dir() for source in sources) != 1:
        raise InputError(
            "--labels joins a table to a folder of structure files: name one folder as SOURCE (a "
            "table with a column of paths is a SOURCE itself)"
        )


def existing_store(path: Path, made_from: dict[str, Any]) -> PrepareSummary | None:
    """Summary of an existing store, or None.

    Raises InputError if it was made from other sources or settings, or is damaged.
    """
    if not path.exists():
        return None
    try:
        info = inspect(path)
    except InputError as error:
        raise InputError(
            f"{path} exists but cannot be used ({error}): remove it, replace it with "
            "--overwrite or give another --store"
        ) from error
    if different := difference(info.preparation, made_from):
        raise InputError(
            f"{path} exists already, {different}: replace it with --overwrite or give another "
            "--store"
        )
    return PrepareSummary(
        path,
        rejects_path(path),
        content_hash=info.content_hash,
        already_there=True,
        columns=info.columns,
        **info.summary,
    )
