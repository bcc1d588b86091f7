"""Text and JSON of ``runs list``, ``runs show`` and the hand-off checklist."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from phase2hpc.config.properties import GROUPS
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.registry import read_metrics
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.runs.state import RunStatus
from phase2hpc.utils import tables
from phase2hpc.utils.absolute_path import absolute_path
from phase2hpc.utils.text import one_line
from phase2hpc.utils.time_format import format_time

LIST_HEADER = (
    "run", "algorithm", "level", "properties", "state", "epochs", "best score", "created",
)  # fmt: skip


def list_rows(statuses: Sequence[RunStatus]) -> list[tuple[str, ...]]:
    """Rows of ``runs list`` under LIST_HEADER, unreadable runs included."""
    rows: list[tuple[str, ...]] = []
    for status in statuses:
        run, m = status.summary.run, status.summary.manifest
        if m is None:
            none = tables.ABSENT
            rows.append((run.id, run.family, none, none, status.state, none, none, none))
            continue
        rows.append(
            (
                run.id,
                m.algorithm,
                m.level,
                _properties(m.properties, short=True),
                status.state,
                f"{m.epoch}/{m.epochs}",
                tables.number(m.best_score),
                format_time(m.created),
            )
        )
    return [tuple(map(one_line, row)) for row in rows]


def list_text(statuses: Sequence[RunStatus]) -> str:
    """``runs list`` as text: the table, then a line for each unreadable run."""
    lines = [tables.aligned(LIST_HEADER, list_rows(statuses), left=5)]
    lines += [f"cannot be read: {s.summary.problem}" for s in statuses if s.summary.problem]
    return "\n".join(lines)


def show_text(status: RunStatus) -> str:
    """``runs show``: manifest and errors. Raises InputError if either is unreadable."""
    run = status.summary.run
    pairs = _facts(status, run.read_manifest())
    width = max(len(key) for key, _ in pairs)
    errors = _error_rows(run)
    table = tables.aligned(_ERROR_HEADER, errors, left=3) if errors else "no metrics yet"
    return "\n".join([*(f"{key:<{width}}  {value}" for key, value in pairs), "", table])


def handoff_text(status: RunStatus) -> str:
    """The operation manual's hand-off checklist, as Markdown. Raises as ``show_text``."""
    run = status.summary.run
    manifest = run.read_manifest()
    errors = _error_rows(run)
    open_items = () if status.state == "finished" else ("state", "epochs done")
    items = [
        f"- [{' ' if key in open_items else 'x'}] **{key}**: {value}"
        for key, value in _facts(status, manifest)
    ]
    done = "x" if errors else " "
    table = (
        tables.markdown(_ERROR_HEADER, errors, left=3)
        if errors
        else "The run has no metrics yet: they are written when training ends."
    )
    where = shlex.quote(str(absolute_path(run.path)))
    return "\n".join(
        [
            f"# Hand-off: run {run.id}",
            "",
            *items,
            f"- [{done}] **val and test MAE by property**: the table below",
            "",
            "## Errors",
            "",
            table,
            "",
            "SE is the standard error of the MAE, n the number of labelled crystals.",
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


def show_json(status: RunStatus) -> dict[str, Any]:
    """The fields of ``runs show --json``: those of ``RunStatus.as_json``, the manifest (with the
    state that the run's last process recorded) and the metrics. Raises as ``show_text``."""
    run = status.summary.run
    manifest = run.read_manifest().model_dump(mode="json")
    return status.as_json() | {"manifest": manifest, "metrics": read_metrics(run)}


_ERROR_HEADER = ("property", "unit", "split", "MAE ± SE", "n")


def _error_rows(run: RunDirectory) -> list[list[str]]:
    metrics = read_metrics(run) or {}
    config = run.read_config()
    return [
        [name, config.column(name).unit or tables.ABSENT, split,
         tables.with_error(m.get("mae"), m.get("mae_se")), str(m.get("n", 0))]
        for name in metrics.get("test", {})
        for split in ("val", "test")
        for m in [metrics[split].get(name, {})]
    ]  # fmt: skip


def _facts(status: RunStatus, m: Manifest) -> list[tuple[str, str]]:
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
        ("run path", str(absolute_path(run.path))),
        ("store", m.store or "none"),
        ("store content hash", m.store_hash or "none"),
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
        facts.append(("ensemble", m.ensemble))
    return [(key, one_line(value)) for key, value in facts]


def _properties(names: list[str], short: bool = False) -> str:
    group = next((g for g, members in GROUPS.items() if tuple(names) == members), None)
    if short:
        return group or (names[0] if len(names) == 1 else f"{len(names)} properties")
    return ", ".join(names) + (f" ({group})" if group else "")
