"""All runs of a models folder, read from their manifests: no database, no lock."""

from __future__ import annotations

import difflib
import logging
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phase2hpc.config.properties import GROUPS
from phase2hpc.errors import InputError
from phase2hpc.runs.run_directory import PREFIX, Manifest, RunDirectory, read_json
from phase2hpc.utils import tables
from phase2hpc.utils.package_files import pretrained_models
from phase2hpc.utils.text import one_line
from phase2hpc.utils.time_format import format_time

log = logging.getLogger(__name__)

LIST_HEADER = (
    "run",
    "algorithm",
    "level",
    "properties",
    "state",
    "epochs",
    "best score",
    "created",
)


@dataclass(frozen=True)
class RunSummary:
    """A run and its manifest, or the ``problem`` for which that cannot be read."""

    run: RunDirectory
    manifest: Manifest | None
    problem: str | None = None

    @property
    def state(self) -> str:
        return self.manifest.effective_state if self.manifest else "unreadable"


def run_directories(models_dir: Path) -> list[RunDirectory]:
    """Every run directory, readable or not, by path; of one family if that folder is given."""
    found = [*models_dir.glob(f"{PREFIX}*"), *models_dir.glob(f"*/{PREFIX}*")]
    return [RunDirectory(path) for path in sorted(found) if path.is_dir()]


def registry(models_dir: Path) -> list[RunSummary]:
    """All runs, the oldest first; last those whose manifest cannot be read, with the reason."""
    readable, broken = [], []
    for run in run_directories(models_dir):
        try:
            readable.append((run.read_manifest(), run))
        except InputError as error:
            broken.append(RunSummary(run, None, str(error)))
    readable.sort(key=lambda pair: (pair[0].created, pair[1].id))
    return [RunSummary(run, manifest) for manifest, run in readable] + broken


def find_run(models_dir: Path, name: str) -> RunDirectory:
    """The run that ``name`` means: its directory, its id (``run_`` before it or not), a shipped
    model's name, or the beginning of one that no other run shares.

    Raises InputError when there is none (with the nearest id) or more than one.
    """
    path = RunDirectory(Path(name))
    if path.path.is_file():
        path = RunDirectory(path.path.parent)
    if any(file.is_file() for file in (path.manifest, path.config, path.best)):
        return path
    if path.path.is_dir():
        raise InputError(f"{name}: not a run directory (no {path.manifest.name} in it)")
    own = run_directories(models_dir)
    shipped = [RunDirectory(path) for path in pretrained_models()]
    wanted = name.removeprefix(PREFIX)
    # A run of one's own goes before a shipped model of the same name.
    matches = _named(own, wanted) or _named(shipped, wanted)
    if len(matches) == 1:
        return matches[0]
    if matches:
        some = ", ".join(str(run.path) for run in matches[:4])
        more = ", ..." if len(matches) > 4 else ""
        raise InputError(f"run '{name}' is ambiguous: give one of the paths {some}{more}")
    if not own:
        raise InputError(
            f"no run '{name}': there are no runs in {models_dir}; train one, or name the folder "
            "by --models-dir"
        )
    ids = [run.id for run in own + shipped]
    near = difflib.get_close_matches(wanted, ids, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"the latest are {', '.join(sorted(ids)[-4:])}"
    raise InputError(f"no run '{name}' in {models_dir}: {hint}")


def _named(runs: list[RunDirectory], wanted: str) -> list[RunDirectory]:
    exact = [run for run in runs if run.id == wanted]
    return exact or [run for run in runs if wanted and run.id.startswith(wanted)]


def newest_to_resume(models_dir: Path, family: str) -> RunDirectory:
    """The run of a family that ``--resume`` goes on with: the newest unfinished, else the newest.

    Raises InputError when the family has none. Whether somebody trains it, its lease knows.
    """
    found = _newest_first(models_dir / family)
    if not found:
        raise InputError(
            f"--resume: no run in {models_dir / family}; leave --resume out to start one"
        )
    unfinished = [run for run, manifest in found if manifest.state != "finished"]
    return unfinished[0] if unfinished else found[0][0]


def _newest_first(folder: Path) -> list[tuple[RunDirectory, Manifest]]:
    found = []
    for summary in reversed(registry(folder)):
        if summary.manifest is None:
            log.warning("passed over: %s", summary.problem)
        else:
            found.append((summary.run, summary.manifest))
    return found


def read_metrics(run: RunDirectory) -> dict[str, dict[str, dict[str, Any]]] | None:
    """metrics.json, None where the run has none yet. Raises InputError if it is broken."""
    if not run.metrics_json.exists():
        return None
    metrics = read_json(run.metrics_json)
    try:
        found = {split: dict(metrics[split]) for split in ("val", "test")}
        numbers = [value for table in found.values() for row in table.values()
                   for value in dict(row).values()]  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{run.metrics_json}: not a run's metrics ({error!r})") from None
    if any(type(value) not in (int, float, type(None)) for value in numbers):
        raise InputError(f"{run.metrics_json}: not a run's metrics (what is no number in them)")
    return found


def list_rows(summaries: list[RunSummary]) -> list[tuple[str, ...]]:
    """Rows of ``runs list`` under LIST_HEADER; an unreadable run has its row too."""
    rows: list[tuple[str, ...]] = []
    for summary in summaries:
        m = summary.manifest
        if m is None:
            none = tables.ABSENT
            family, state = summary.run.family, summary.state
            rows.append((summary.run.id, family, none, none, state, none, none, none))
            continue
        rows.append(
            (
                summary.run.id,
                m.algorithm,
                m.level,
                _properties(m.properties, short=True),
                summary.state,
                f"{m.epoch}/{m.epochs}",
                tables.number(m.best_score),
                format_time(m.created),
            )
        )
    return [tuple(map(one_line, row)) for row in rows]


def list_text(summaries: list[RunSummary]) -> str:
    """``runs list`` as text: the table, then a line for each run that cannot be read."""
    lines = [tables.aligned(LIST_HEADER, list_rows(summaries), left=5)]
    lines += [f"cannot be read: {s.problem}" for s in summaries if s.problem]
    return "\n".join(lines)


def show(run: RunDirectory) -> str:
    """``runs show``: the manifest in words and the errors, as text."""
    pairs = _facts(run, run.read_manifest())
    width = max(len(key) for key, _ in pairs)
    errors = _error_rows(run)
    table = tables.aligned(_ERROR_HEADER, errors, left=3) if errors else "no metrics yet"
    return "\n".join([*(f"{key:<{width}}  {value}" for key, value in pairs), "", table])


def handoff(run: RunDirectory) -> str:
    """The operation manual's hand-off checklist of a run, as Markdown."""
    manifest = run.read_manifest()
    errors = _error_rows(run)
    open_items = () if manifest.state == "finished" else ("state", "epochs done")
    items = [
        f"- [{' ' if key in open_items else 'x'}] **{key}**: {value}"
        for key, value in _facts(run, manifest)
    ]
    done = "x" if errors else " "
    table = (
        tables.markdown(_ERROR_HEADER, errors, left=3)
        if errors
        else "The run has no metrics yet: they are written when training ends."
    )
    where = shlex.quote(str(run.path.resolve()))
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


def _facts(run: RunDirectory, m: Manifest) -> list[tuple[str, str]]:
    state = m.effective_state + (f" ({m.message})" if m.message else "")
    best = f"{tables.number(m.best_score)} at epoch {m.best_epoch}" if m.best_epoch else "none yet"
    facts = [
        ("algorithm", m.algorithm),
        ("level", m.level),
        ("all properties", "yes" if set(m.properties) >= set(GROUPS["all9"]) else "no"),
        ("properties", _properties(m.properties)),
        ("state", state),
        ("epochs done", f"{m.epoch} of {m.epochs} ({m.step} steps)"),
        ("best score (mean val MAE/MAD)", best),
        ("run path", str(run.path.resolve())),
        ("store", m.store or "none"),
        ("store content hash", m.store_hash or "none"),
        ("seed", str(m.seed)),
        ("host", f"{m.host}, process {m.pid}" if m.host else "not said"),
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
