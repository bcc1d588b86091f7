"""Table of runs for ``runs list``: one record a run or ensemble, filtered, sorted, as CSV."""

from __future__ import annotations

import csv
import difflib
import io
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from phase2hpc.config.level_settings import overrides, preset_of
from phase2hpc.config.properties import in_order
from phase2hpc.errors import InputError
from phase2hpc.runs.ensemble import Ensemble
from phase2hpc.runs.registry import read_metrics
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.runs.state import RunStatus
from phase2hpc.utils.atomic_io import write_atomically
from phase2hpc.utils.os_errors import path_error

MAE, SE, N = "test_mae_", "test_mae_se_", "test_n_"
# Columns of every table of runs, in this order; then MAE, SE and N of each property.
COLUMNS = (
    "run", "algorithm", "level", "preset", "properties", "state", "epoch", "epochs", "best_score",
    "seed", "fold", "ensemble", "overrides", "init_from", "store", "store_hash",
    "training_crystals", "parameters", "created", "updated", "version", "git_commit", "problem",
)  # fmt: skip

Record = dict[str, Any]
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_CONDITION = re.compile(r"\s*(?P<key>[^<>=!]+?)\s*(?P<operator><=|>=|!=|=|<|>)\s*(?P<value>.*)")


def run_records(statuses: Sequence[RunStatus]) -> list[Record]:
    """A record with COLUMNS for each run, and after them for each ensemble that has results.

    A run's has the fields of ``RunStatus.as_json`` besides, and its properties are a list. What
    cannot be read is None, and the reason is in ``problem``; never raises.
    """
    records = [_record(status) for status in statuses]
    ensembles: dict[tuple[Path, str], list[tuple[RunStatus, Record]]] = {}
    for status, record in zip(statuses, records, strict=True):
        if record["ensemble"]:
            key = (status.summary.run.path.parent, record["ensemble"])
            ensembles.setdefault(key, []).append((status, record))
    for (_, name), members in ensembles.items():
        runs = tuple(status.summary.run for status, _ in members)
        folder = Ensemble(name, runs).results
        if folder.metrics_json.is_file():
            first = members[0][1]
            states = Counter(status.state for status, _ in members)
            own = {key: first[key] for key in COLUMNS} | {
                "run": name,
                "path": str(folder.path),
                "state": ", ".join(f"{count} {state}" for state, count in states.items()),
                "seed": ",".join(str(record["seed"]) for _, record in members),
                "best_score": None,
                "ensemble": name,
            }
            records.append(own | _test_errors(folder, own))
    return records


def _record(status: RunStatus) -> Record:
    run, manifest = status.summary.run, status.summary.manifest
    record: Record = dict.fromkeys(COLUMNS) | status.as_json()
    record["problem"] = status.summary.problem
    if manifest is None:
        return record
    record |= {
        "seed": manifest.seed,
        "store": Path(manifest.store).name if manifest.store else None,
        "store_hash": manifest.store_hash,
        "training_crystals": manifest.training_crystals,
        "parameters": manifest.parameters,
        "version": manifest.versions.get("phase2hpc"),
        "git_commit": manifest.git_commit,
    }
    try:
        config = run.read_config()
        record |= {
            "preset": preset_of(config),
            "fold": config.fold,
            "init_from": Path(config.init_from).name if config.init_from else None,
            "overrides": " ".join(f"{o.name}={o.value}" for o in overrides(config)),
        }
    except InputError as error:
        record["problem"] = str(error)
    return record | _test_errors(run, record)


def _test_errors(run: RunDirectory, record: Record) -> Record:
    try:
        test = (read_metrics(run) or {}).get("test", {})
    except InputError as error:
        record["problem"] = str(error)
        return {}
    found: Record = {}
    for name, row in test.items():
        found[MAE + name], found[SE + name] = row.get("mae"), row.get("mae_se")
        found[N + name] = row.get("n")
    return found


def columns(records: Sequence[Record]) -> list[str]:
    """COLUMNS and those of the properties that any run has test errors of."""
    names = in_order(_properties(records))
    return [*COLUMNS, *(f"{kind}{name}" for name in names for kind in (MAE, SE, N))]


def _properties(records: Sequence[Record]) -> list[str]:
    """Properties that any record has columns of, in the order of their first."""
    keys: dict[str, None] = {}
    for record in records:
        # Without looking at each key: thousands of runs have the same ones.
        keys |= dict.fromkeys(record)
    return [key.removeprefix(N) for key in keys if key.startswith(N)]


def tested_properties(records: Sequence[Record]) -> list[str]:
    """Properties with test errors, those of the most runs first."""
    counts: Counter[str] = Counter()
    for name in _properties(records):
        tested = sum(record.get(MAE + name) is not None for record in records)
        if tested:
            counts[name] = tested
    return sorted(in_order(counts), key=lambda name: -counts[name])


def filtered(records: Sequence[Record], conditions: Iterable[str]) -> list[Record]:
    """Records that meet all conditions: ``level=std``, ``run=gap*``, ``best_score<0.5``,
    ``properties=band_gap`` (one of a list), ``state!=finished``.

    Raises InputError for an unknown column, another form, or a bound that is not a number.
    """
    found = list(records)
    for text in conditions:
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise InputError(f"--filter '{text}': write it as level=std, run=a* or best_score<0.5")
        key = _key(match["key"], records, "--filter")
        meets = _condition(text, match["operator"], match["value"].strip())
        found = [record for record in found if meets(record.get(key))]
    return found


def _condition(text: str, sign: str, value: str) -> Callable[[Any], bool]:
    if sign in _OPERATORS:
        try:
            bound = float(value)
        except ValueError:
            raise InputError(f"--filter '{text}': {value!r} is not a number") from None
        compare = _OPERATORS[sign]
        return lambda found: isinstance(found, (int, float)) and compare(found, bound)

    def equal(found: Any) -> bool:
        parts = list(map(str, found)) if isinstance(found, list) else [_text(found)]
        return any(fnmatchcase(part.lower(), value.lower()) for part in parts)

    return equal if sign == "=" else lambda found: not equal(found)


def ordered(records: Sequence[Record], key: str, *, descending: bool = False) -> list[Record]:
    """Records sorted by a column; those without a value last. Raises InputError for no column."""
    key = _key(key, records, "--sort")
    known = [record for record in records if record.get(key) is not None]
    numeric = all(isinstance(record[key], (int, float)) for record in known)
    # The seeds of an ensemble are a text.
    known.sort(key=lambda r: r[key] if numeric else _text(r[key]), reverse=descending)
    return known + [record for record in records if record.get(key) is None]


def _key(name: str, records: Sequence[Record], flag: str) -> str:
    valid = columns(records)
    short = MAE + name.removeprefix("mae_")
    for key in (name, short):
        if key in valid:
            return key
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(COLUMNS)}, mae_PROPERTY"
    raise InputError(f"{flag}: no column '{name}': {hint}")


def write_csv(path: Path, records: Sequence[Record]) -> None:
    """Write all columns as CSV. Raises InputError where it cannot be written."""
    text = io.StringIO()
    header = columns(records)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_text(record.get(key)) for key in header] for record in records)
    try:
        write_atomically(path, text.getvalue())
    except OSError as error:
        raise path_error(error, f"--csv {path}: cannot be written") from None


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "" if value is None else str(value)
