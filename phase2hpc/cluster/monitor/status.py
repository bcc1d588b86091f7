"""Text of ``status``: a table of runs, or one run in detail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from phase2hpc.cluster.monitor.logs import job_folder, last_lines, log_file
from phase2hpc.cluster.monitor.lookup import Selection
from phase2hpc.cluster.monitor.scheduler import SlurmScheduler
from phase2hpc.cluster.submit.resume_command import resume_command
from phase2hpc.errors import InputError
from phase2hpc.runs.job_id import array_id
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.state import RunStatus, State
from phase2hpc.utils import tables
from phase2hpc.utils.text import one_line
from phase2hpc.utils.time_format import format_duration, format_time

# Ended runs in the table; those that have not ended are all shown.
MAX_ENDED_RUNS = 20
LOG_LINES = 8
HEADER = ("run", "state", "job", "epochs", "loss", "crystals/s", "left", "best", "detail")
_MAX_DETAIL_WIDTH = 100
# The detail of an ensemble is that of its worst member.
_WORST_FIRST: tuple[State, ...] = (
    "interrupted", "failed", "unresponsive", "unknown", "unreadable", "stopped", "pending",
    "requeued", "stopping", "starting", "running", "finished",
)  # fmt: skip


def overview(
    found: Sequence[RunStatus], scheduler: SlurmScheduler, everything: bool = False
) -> str:
    """The table of runs, the newest last; one line per ensemble unless ``everything``."""
    latest = found if everything else found[-MAX_ENDED_RUNS:]
    shown = [s for s in found if not s.over or s in latest]
    lines = []
    if len(shown) < len(found):
        lines.append(f"{len(found) - len(shown)} older runs have ended and are not shown: --all")
    groups: dict[object, list[RunStatus]] = {}
    for s in shown:
        manifest = s.summary.manifest
        ensemble = manifest.ensemble if manifest and not everything else None
        groups.setdefault(ensemble or s.summary.run.path, []).append(s)
    rows = [_row(g[0]) if len(g) == 1 else _group_row(g) for g in groups.values()]
    return "\n".join([*lines, table(rows), *notes(scheduler)])


def selection_text(
    selection: Selection, found: Sequence[RunStatus], scheduler: SlurmScheduler
) -> str:
    """The selected runs: one in detail, several as a table."""
    lines = []
    if selection.preparation is not None:
        state = scheduler.state(selection.preparation.job)
        now = state.state if state else "not in the queue any more"
        lines.append(f"job {selection.preparation.job.id}, which prepares the store first: {now}")
    if len(found) == 1:
        return "\n".join([*lines, _detail(found[0], scheduler)])
    lines += [table([_row(s) for s in found]), *filter(None, [best_line(found)])]
    return "\n".join([*lines, *notes(scheduler)])


def best_line(found: Sequence[RunStatus]) -> str | None:
    """The best finished run of a search or sweep so far; None where the scores of these runs do
    not rank them, or none is finished."""
    manifests = [s.summary.manifest for s in found if s.summary.manifest]
    if len({m.ensemble for m in manifests}) != 1 or manifests[0].ensemble is None:
        return None
    if len({tuple(m.properties) for m in manifests}) > 1:
        return None
    done = [(m.best_score, m) for m in manifests if m.state == "finished"]
    scored = [(score, m) for score, m in done if score is not None]
    if not scored:
        return None
    score, best = min(scored, key=lambda pair: pair[0])
    return (
        f"best so far ({len(scored)} of {len(found)} runs finished): {best.run_id}, score "
        f"{tables.number(score)} (mean val MAE/MAD) with {one_line(best.ensemble_member or '')}"
    )


def _detail(s: RunStatus, scheduler: SlurmScheduler) -> str:
    """One run: all that is known, and how to resume it."""
    manifest, run = s.summary.manifest, s.summary.run
    facts = [("run", f"{run.id}  ({run.path})"), ("state", s.state)]
    if s.detail:
        facts.append(("", s.detail))
    if advice := scheduler.pending_advice(s.summary):
        facts.append(("", f"to do: {advice}"))
    if manifest is not None:
        facts += _facts(s, manifest)
    lines = _aligned(facts) + notes(scheduler)
    if s.state in ("interrupted", "failed", "unresponsive") and manifest is not None:
        lines += _log_tail(s, manifest)
    return "\n".join(lines)


def table(rows: Sequence[Sequence[str]]) -> str:
    return tables.aligned(HEADER, rows, left=len(HEADER))


def notes(scheduler: SlurmScheduler) -> list[str]:
    """Reasons why Slurm's part of the information is missing."""
    problems = (scheduler.problem, scheduler.note)
    return [f"no answer from Slurm: {problem}" for problem in problems if problem]


def status_line(s: RunStatus) -> str:
    """One line about a run, for a log."""
    cells = dict(zip(HEADER, _row(s), strict=True))
    parts = [cells["state"]]
    parts += [
        f"{name} {cells[name]}"
        for name in ("epochs", "loss", "crystals/s", "left")
        if cells[name] != tables.ABSENT
    ]
    return f"{s.summary.run.id}: {', '.join(parts)}" + (f"  {s.detail}" if s.detail else "")


def epochs_cell(s: RunStatus) -> str:
    """Completed and total epochs, as ``3/10``."""
    manifest = s.summary.manifest
    return f"{_epoch(s, manifest)}/{manifest.epochs}" if manifest else tables.ABSENT


def _row(s: RunStatus) -> tuple[str, ...]:
    manifest = s.summary.manifest
    if manifest is None:
        blank = (tables.ABSENT,) * 6
        return (s.summary.run.id, s.state, *blank, _cut(s.detail))
    speed, left = s.heartbeat("crystals_per_second"), s.heartbeat("seconds_left")
    return tuple(
        map(
            one_line,
            (
                s.summary.run.id,
                s.state,
                manifest.job_ids[-1] if manifest.job_ids else tables.ABSENT,
                epochs_cell(s),
                tables.number(s.heartbeat("loss")),
                tables.ABSENT if speed is None else f"{speed:.0f}",
                tables.ABSENT if left is None else format_duration(left),
                tables.number(manifest.best_score),
                _cut(s.detail),
            ),
        )
    )


def _group_row(group: Sequence[RunStatus]) -> tuple[str, ...]:
    manifests = [s.summary.manifest for s in group if s.summary.manifest]
    counts = Counter(s.state for s in group)
    state = ", ".join(f"{count} {state}" for state, count in counts.items())
    jobs = {array_id(job) for m in manifests for job in m.job_ids[-1:]}
    epochs = [_epoch(s, m) for s, m in zip(group, manifests, strict=True)]
    low, high = min(epochs), max(epochs)
    best = [m.best_score for m in manifests if m.best_score is not None]
    speeds = [speed for s in group if (speed := s.heartbeat("crystals_per_second")) is not None]
    left = [seconds for s in group if (seconds := s.heartbeat("seconds_left")) is not None]
    worst = min(group, key=lambda s: _WORST_FIRST.index(s.state))
    detail = "" if worst.state == "finished" else f"{worst.summary.run.id}: {worst.detail}"
    return (
        one_line(f"{manifests[0].ensemble} ({len(group)} runs)"),
        state,
        one_line(", ".join(sorted(jobs))) or tables.ABSENT,
        f"{low}/{manifests[0].epochs}" if low == high else f"{low}-{high}/{manifests[0].epochs}",
        tables.ABSENT,
        f"{sum(speeds):.0f}" if speeds else tables.ABSENT,
        format_duration(max(left)) if left else tables.ABSENT,
        tables.number(min(best, default=None)),
        _cut(one_line(detail)),
    )


def _facts(s: RunStatus, manifest: Manifest) -> list[tuple[str, str]]:
    facts = [("epochs", f"{_epoch(s, manifest)} of {manifest.epochs}{_phase(s)}")]
    step, steps = s.heartbeat("step"), s.heartbeat("total_steps")
    if step is not None and steps is not None:
        facts.append(("steps", f"{step:.0f} of {steps:.0f}"))
    else:
        facts.append(("steps", f"{manifest.step} saved"))
    if (loss := s.heartbeat("loss")) is not None:
        facts.append(("loss", f"{tables.number(loss)} (mean of this epoch so far)"))
    if (speed := s.heartbeat("crystals_per_second")) is not None:
        facts.append(("speed", f"{speed:.0f} crystals/s"))
    if (left := s.heartbeat("seconds_left")) is not None:
        facts.append(("left", f"{format_duration(left)} at this speed"))
    if manifest.best_epoch:
        score = tables.number(manifest.best_score)
        facts.append(("best score", f"{score} at epoch {manifest.best_epoch}"))
    if s.lease is not None:
        facts.append(("heartbeat", f"{s.lease.age:.0f} s ago"))
    if manifest.job_ids:
        facts.append(("jobs", ", ".join(manifest.job_ids)))
    if s.job is not None:
        facts.append(("job", _job(s)))
    if manifest.restarts:
        without = manifest.restarts_without_progress
        facts.append(
            ("restarts", f"{manifest.restarts} by the scheduler, {without} without progress")
        )
    if manifest.ensemble:
        facts.append(("ensemble", f"{manifest.ensemble} ({manifest.ensemble_member})"))
    facts.append(("updated", format_time(manifest.updated)))
    if s.state in ("stopped", "interrupted", "failed"):
        facts.append(("resume", resume_command(s.summary.run, manifest)))
    return [(name, one_line(value)) for name, value in facts]


def _job(s: RunStatus) -> str:
    assert s.job is not None
    parts = [s.job.state]
    if s.job.nodes:
        parts.append(f"on {s.job.nodes}")
    if s.job.elapsed:
        parts.append(f"for {format_duration(s.job.elapsed)}")
    if s.job.running and s.job.time_left is not None:
        parts.append(f"{format_duration(s.job.time_left)} left of its time limit")
    return ", ".join(parts)


def _log_tail(s: RunStatus, manifest: Manifest) -> list[str]:
    try:
        folder = job_folder(s.summary.run, manifest)
        path = log_file(folder, manifest.job_ids[-1], err=True) if folder else None
    except InputError:
        return []
    lines = last_lines(path, LOG_LINES) if path else []
    return ["", f"end of {path}:", *(f"  {line}" for line in lines)] if lines else []


def _epoch(s: RunStatus, manifest: Manifest) -> int:
    epoch = s.heartbeat("epoch")
    return manifest.epoch if epoch is None else int(epoch)


def _phase(s: RunStatus) -> str:
    phase = s.lease.heartbeat.get("phase") if s.lease else None
    return f" ({phase})" if phase else ""


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_DETAIL_WIDTH else text[: _MAX_DETAIL_WIDTH - 4] + " ..."


def _aligned(facts: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in facts)
    return [f"{name:<{width}}  {value}" for name, value in facts]
