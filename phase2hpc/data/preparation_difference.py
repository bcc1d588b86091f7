"""Differences between the preparations of two stores, in options of the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from phase2hpc.data.splits import hash_rule
from phase2hpc.data.validation import DEFAULT_LIMITS

# Keys of a ColumnSettings, as --column has them.
COLUMN_KEYS = {"unit": "unit", "lower_bound": "min", "scale": "scale"}


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Differences of a store from what is asked for now, in words; "" without any.

    old and new: as of ``preparation``, or of a merged store.
    """
    if "merged" in old:
        return f"merged from {len(old['merged'])} stores"
    # Stores of earlier versions lack this key.
    before = dict(_options({"max_atoms": DEFAULT_LIMITS.max_atoms, **old}))
    now = dict(_options(new))
    parts = ["from other sources"] if old.get("sources") != new.get("sources") else []
    for key in dict.fromkeys([*before, *now]):
        found, wanted = before.get(key), now.get(key)
        if found == wanted:
            continue
        if found is None:
            parts.append(f"without {wanted}, now with it")
        else:
            parts.append(f"with {found}, now {wanted or 'without'}")
    return f"made {'; '.join(parts)}" if parts else ""


def is_rule(split: str) -> bool:
    """True for a value of --split that is no file."""
    return split == "column" or hash_rule(split) is not None


def _options(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Options that make such a record, by what they set, as they are written."""
    graph = record.get("graph_settings") or {}
    for key, option in (("cutoff", "--cutoff"), ("shell_width", "shell width")):
        if key in graph:
            yield key, f"{option} {graph[key]:g}"
    if "max_neighbors" in graph:
        yield "max_neighbors", f"--max-neighbors {graph['max_neighbors'] or 0}"
    if record.get("float64"):
        yield "float64", "--float64"
    if (split := record.get("split")) is not None:
        value = split if is_rule(split) else f"FILE (SHA-256 {split[:8]})"
        yield "split", f"--split {value}"
    for key, option in (("max_atoms", "--max-atoms"), ("seed", "--seed"), ("folds", "--folds")):
        if record.get(key) is not None:
            yield key, f"{option} {record[key]}"
    for name, new_name in (record.get("rename") or {}).items():
        yield f"rename {name}", f"--rename {name.removeprefix(':')}={new_name}"
    for name, settings in (record.get("columns") or {}).items():
        values = {word: settings.get(key) for key, word in COLUMN_KEYS.items()}
        text = ",".join(f"{word}={v}" for word, v in values.items() if v is not None)
        yield f"column {name}", f"--column {name}:{text}"
