"""Text and JSON of ``runs list``, ``runs show`` and the hand-off checklist."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from phase2hpc.config.level_settings import overrides, preset_of
from phase2hpc.config.properties import GROUPS, columns_text
from phase2hpc.errors import InputError
from phase2hpc.runs.ensemble import Ensemble
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.registry import read_metrics
from phase2hpc.runs.run_directory import RunDirectory, read_json
from phase2hpc.runs.run_table import MAE, Record
from phase2hpc.runs.state import RunStatus
from phase2hpc.utils import tables
from phase2hpc.utils.absolute_path import absolute_path
from phase2hpc.utils.text import one_line
from phase2hpc.utils.time_format import format_duration, format_time

_MAX_STORE_WIDTH = 14


def list_text(records: Sequence[Record], name: str | None) -> str:
    """``runs list`` as text: records of ``run_records`` as a table, with the test MAE of a property
    (None: no run has one), then a line for each that cannot be read."""
    header = ("run", "model", "state", "score", "test MAE", "store")
    rows = []
    for record in records:
        model = f"{record['algorithm']} {record['level']}" if record["algorithm"] else None
        epochs = f" {record['epoch']}/{record['epochs']}" if record["epochs"] else ""
        done = record["state"].endswith("finished") or record["problem"]
        store = record["store"] or tables.ABSENT
        row = (
            record["run"],
            model or tables.ABSENT,
            record["state"] + ("" if done else epochs),
            tables.number(record["best_score"], 3),
            tables.number(record.get(MAE + name) if name else None, 3),
            store if len(store) <= _MAX_STORE_WIDTH else store[: _MAX_STORE_WIDTH - 2] + "..",
        )
        rows.append([one_line(cell) for cell in row])
    lines = [tables.aligned(header, rows, left=3)]
    if name:
        lines.append(f"test MAE: of {name}; score: mean val MAE/MAD of all properties of the run")
    lines += [f"cannot be read: {one_line(r['problem'])}" for r in records if r["problem"]]
    return "\n".join(lines)


def show_text(statuses: Sequence[RunStatus], ensemble: Ensemble | None = None) -> str:
    """``runs show`` of a run, or of all runs of an ensemble: settings, state and errors.

    Raises InputError if a file is unreadable.
    """
    pairs = _facts(statuses, ensemble)
    width = max(len(key) for key, _ in pairs)
    errors = _error_rows(statuses, ensemble)
    table = tables.aligned(_ERROR_HEADER, errors, left=3) if errors else "no metrics yet"
    return "\n".join([*(f"{key:<{width}}  {value}" for key, value in pairs), "", table])


def handoff_text(statuses: Sequence[RunStatus], ensemble: Ensemble | None = None) -> str:
    """The operation manual's hand-off checklist, as Markdown. Raises as ``show_text``."""
    errors = _error_rows(statuses, ensemble)
    over = all(status.state == "finished" for status in statuses)
    open_items = () if over else ("state", "epochs done")
    items = [
        f"- [{' ' if key in open_items else 'x'}] **{key}**: {value}"
        for key, value in _facts(statuses, ensemble)
    ]
    done = "x" if errors else " "
    table = (
        tables.markdown(_ERROR_HEADER, errors, left=3)
        if errors
        else "The run has no metrics yet: they are written when training ends."
    )
    first = statuses[0].summary.run
    what = f"run {first.id}" if ensemble is None else f"ensemble {ensemble.id}"
    folder = first if ensemble is None else ensemble.results
    where = shlex.quote(str(absolute_path(folder.path)))
    return "\n".join(
        [
            f"# Hand-off: {what}",
            "",
            *items,
            f"- [{done}] **val and test MAE by property**: the table below",
            "",
            "## Errors",
            "",
            table,
            "",
            "± SE is the standard error of the MAE over crystals, n the number of labelled ones.",
            "",
            "## Predict with it",
            "",
            "```bash",
            f"phase2hpc predict --cif FILE.cif --run {where}",
            f"phase2hpc predict --dir FOLDER --run {where} --output preds.csv",
            "```",
            "",
        ]
    )


def show_json(statuses: Sequence[RunStatus], ensemble: Ensemble | None = None) -> dict[str, Any]:
    """The fields of ``runs show --json``: those of ``RunStatus.as_json``, the manifest (with the
    state that the run's last process recorded), the metrics, and ``settings``: preset, overrides
    with the level's value, config, training_seconds. Of an ensemble: ``ensemble``, its metrics,
    and ``runs`` with the fields of each. Raises as ``show_text``."""
    if ensemble is not None:
        return {
            "ensemble": ensemble.id,
            "path": str(ensemble.results.path),
            "metrics": read_metrics(ensemble.results),
            "runs": [show_json([status]) for status in statuses],
        }
    (status,) = statuses
    run = status.summary.run
    config = run.read_config()
    settings = {
        "preset": preset_of(config),
        "overrides": {o.name: {"value": o.value, "level": o.default} for o in overrides(config)},
        "config": json.loads(config.to_json()),
        "training_seconds": _training_seconds(run),
    }
    return status.as_json() | {
        "manifest": run.read_manifest().model_dump(mode="json"),
        "metrics": read_metrics(run),
        "settings": settings,
    }


_ERROR_HEADER = ("property", "unit", "split", "MAE ± SE", "n")


def _error_rows(statuses: Sequence[RunStatus], ensemble: Ensemble | None) -> list[list[str]]:
    run = statuses[0].summary.run
    metrics = read_metrics(run if ensemble is None else ensemble.results) or {}
    config = run.read_config()
    return [
        [name, config.column(name).unit or tables.ABSENT, split,
         tables.with_error(m.get("mae"), m.get("mae_se")), str(m.get("n", 0))]
        for name in metrics.get("test", {})
        for split in ("val", "test")
        for m in [metrics[split].get(name, {})]
    ]  # fmt: skip


def _facts(statuses: Sequence[RunStatus], ensemble: Ensemble | None) -> list[tuple[str, str]]:
    found = [_facts_of(status, status.summary.run.read_manifest()) for status in statuses]
    facts = found[0]
    if ensemble is not None:
        facts = [
            (key, _joined([dict(one).get(key, tables.ABSENT) for one in found]))
            for key, _ in facts
            if key not in ("run path", "member of ensemble")
        ]
        facts.insert(0, ("ensemble", f"{ensemble.id}, {len(statuses)} runs"))
        facts.insert(1, ("runs", ", ".join(status.summary.run.id for status in statuses)))
        facts.insert(2, ("path of its results", str(absolute_path(ensemble.results.path))))
    return [(key, one_line(value)) for key, value in facts]


def _joined(values: Sequence[str]) -> str:
    """The value of all members where it is the same, else that of each."""
    return values[0] if len(set(values)) == 1 else "; ".join(values)


def _facts_of(status: RunStatus, m: Manifest) -> list[tuple[str, str]]:
    run = status.summary.run
    detail = "" if status.state == "finished" else status.detail
    state = status.state + (f" ({detail})" if detail else "")
    best = f"{tables.number(m.best_score)} at epoch {m.best_epoch}" if m.best_epoch else "none yet"
    facts = [
        ("algorithm", m.algorithm),
        ("level", m.level),
        ("all properties", "yes" if set(m.properties) >= set(GROUPS["all9"]) else "no"),
        ("properties", _properties(m.properties)),
        ("state", state),
        ("epochs done", f"{m.epoch} of {m.epochs} ({m.step} steps)"),
        ("best score (mean val MAE/MAD)", best),
        *_setting_facts(run, m),
        ("run path", str(absolute_path(run.path))),
        ("store", m.store or "none"),
        ("store content hash", m.store_hash or "none"),
        ("crystals train / val / test", _split_sizes(m)),
        ("seed", str(m.seed)),
        ("host", f"{m.host}, process {m.pid}" if m.host else "unknown"),
        ("jobs", ", ".join(m.job_ids) or "none"),
        ("created", format_time(m.created)),
        ("updated", format_time(m.updated)),
        ("versions", ", ".join(f"{name} {version}" for name, version in m.versions.items())),
        ("git commit", m.git_commit or "none (not a checkout)"),
        ("image", str(m.image or "none (not in a container of phase2hpc)")),
    ]
    if m.ensemble is not None:
        size = f", of {m.ensemble_size} runs" if m.ensemble_size else ""
        facts.append(("member of ensemble", f"{m.ensemble} ({m.ensemble_member}{size})"))
    return facts


def _setting_facts(run: RunDirectory, m: Manifest) -> list[tuple[str, str]]:
    config = run.read_config()
    changed = [f"{o.name} {o.value} (level: {o.default})" for o in overrides(config)]
    seconds = _training_seconds(run)
    parameters = tables.ABSENT if m.parameters is None else f"{m.parameters:,}"
    return [
        ("auxiliary properties", ", ".join(config.auxiliary) or "none"),
        ("settings of columns", columns_text(config.columns) or "none"),
        ("fold", str(config.fold or "none")),
        ("learning rate", f"{config.training.lr:g}"),
        ("batch size", str(config.training.batch_size)),
        ("preset", preset_of(config)),
        ("settings that differ from the level", ", ".join(changed) or "none"),
        ("initial weights", config.init_from or "random"),
        ("parameters", parameters),
        ("device", f"{m.device or 'unknown'}, {m.processes} process(es)"),
        ("time of training", tables.ABSENT if seconds is None else format_duration(seconds)),
    ]


def _split_sizes(m: Manifest) -> str:
    counts = (m.training_crystals, m.val_crystals, m.test_crystals)
    return " / ".join(tables.ABSENT if count is None else f"{count:,}" for count in counts)


def _training_seconds(run: RunDirectory) -> float | None:
    """Sum over the epochs, without validation; None without a history."""
    if not run.history.exists():
        return None
    try:
        return float(sum(record["seconds"] for record in read_json(run.history)))
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"{run.history}: not a run's history ({error!r})") from None


def _properties(names: list[str]) -> str:
    group = next((g for g, members in GROUPS.items() if tuple(names) == members), None)
    return ", ".join(names) + (f" ({group})" if group else "")
