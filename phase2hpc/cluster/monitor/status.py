"""``status`` as text: all runs as a table, one in detail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from phase2hpc.cluster.monitor.job_states import SlurmJobStates
from phase2hpc.cluster.monitor.logs import job_folder, last_lines, log_file
from phase2hpc.cluster.monitor.lookup import Named
from phase2hpc.cluster.monitor.run_state import RunStatus, State, duration
from phase2hpc.cluster.submit.resume_command import resume_command
from phase2hpc.errors import InputError
from phase2hpc.runs.run_directory import Manifest
from phase2hpc.utils import tables
from phase2hpc.utils.text import one_line

# So many of the latest, beside all that are not over; the others are counted.
LATEST = 20
LOG_LINES = 8
HEADER = ("run", "state", "job", "epochs", "loss", "crystals/s", "left", "best", "about")
_WIDEST_ABOUT = 100
# Of an ensemble that is told of which a user must hear.
_WORST_FIRST: tuple[State, ...] = (
    "dead", "failed", "silent", "unknown", "unreadable", "stopped", "pending", "requeued",
    "stopping", "starting", "running", "finished",
)  # fmt: skip


def overview(found: Sequence[RunStatus], view: SlurmJobStates, everything: bool = False) -> str:
    """The table, one line for an ensemble unless ``everything``, the newest last."""
    latest = found if everything else found[-LATEST:]
    shown = [s for s in found if not s.over or s in latest]
    lines = []
    if len(shown) < len(found):
        lines.append(f"{len(found) - len(shown)} older runs are over and not shown: --all")
    groups: dict[object, list[RunStatus]] = {}
    for s in shown:
        manifest = s.summary.manifest
        ensemble = manifest.ensemble if manifest and not everything else None
        groups.setdefault(ensemble or s.summary.run.path, []).append(s)
    rows = [_row(g[0]) if len(g) == 1 else _group_row(g) for g in groups.values()]
    return "\n".join([*lines, table(rows), *notes(view)])


def named_text(named: Named, found: Sequence[RunStatus], view: SlurmJobStates) -> str:
    """What was named: one run in detail, several as a table with a line each."""
    lines = []
    if named.preparation is not None:
        state = view.state(named.preparation.job)
        now = state.state if state else "over"
        lines.append(f"job {named.preparation.job.id}, which prepares the store first: {now}")
    if len(found) == 1:
        return "\n".join([*lines, _detail(found[0], view)])
    return "\n".join([*lines, table([_row(s) for s in found]), *notes(view)])


def _detail(s: RunStatus, view: SlurmJobStates) -> str:
    """One run: all that is known, and what to do next."""
    manifest, run = s.summary.manifest, s.summary.run
    facts = [("run", f"{run.id}  ({run.path})"), ("state", s.state)]
    if s.about:
        facts.append(("", s.about))
    if manifest is not None:
        facts += _facts(s, manifest)
    lines = _aligned(facts) + notes(view)
    if s.state in ("dead", "failed", "silent") and manifest is not None:
        lines += _end_of_log(s, manifest)
    return "\n".join(lines)


def table(rows: Sequence[Sequence[str]]) -> str:
    return tables.aligned(HEADER, rows, left=len(HEADER))


def notes(view: SlurmJobStates) -> list[str]:
    """Why Slurm's part is missing."""
    problems = (view.problem, view.note)
    return [f"Slurm was not asked: {problem}" for problem in problems if problem]


def short(s: RunStatus) -> str:
    """A line about one run, for a log."""
    cells = dict(zip(HEADER, _row(s), strict=True))
    parts = [cells["state"]]
    parts += [
        f"{name} {cells[name]}"
        for name in ("epochs", "loss", "crystals/s", "left")
        if cells[name] != tables.ABSENT
    ]
    return f"{s.summary.run.id}: {', '.join(parts)}" + (f"  {s.about}" if s.about else "")


def epochs_cell(s: RunStatus) -> str:
    """As in 3/10: epochs that are done, and all."""
    manifest = s.summary.manifest
    return f"{_epoch(s, manifest)}/{manifest.epochs}" if manifest else tables.ABSENT


def _row(s: RunStatus) -> tuple[str, ...]:
    manifest = s.summary.manifest
    if manifest is None:
        blank = (tables.ABSENT,) * 6
        return (s.summary.run.id, s.state, *blank, _cut(s.about))
    speed, left = s.number("crystals_per_second"), s.number("seconds_left")
    return tuple(
        map(
            one_line,
            (
                s.summary.run.id,
                s.state,
                manifest.job_ids[-1] if manifest.job_ids else tables.ABSENT,
                epochs_cell(s),
                tables.number(s.number("loss")),
                tables.ABSENT if speed is None else f"{speed:.0f}",
                tables.ABSENT if left is None else duration(left),
                tables.number(manifest.best_score),
                _cut(s.about),
            ),
        )
    )


def _group_row(group: Sequence[RunStatus]) -> tuple[str, ...]:
    manifests = [s.summary.manifest for s in group if s.summary.manifest]
    counts = Counter(s.state for s in group)
    state = ", ".join(f"{count} {state}" for state, count in counts.items())
    jobs = {job.rpartition("_")[0] or job for m in manifests for job in m.job_ids[-1:]}
    epochs = [_epoch(s, m) for s, m in zip(group, manifests, strict=True)]
    low, high = min(epochs), max(epochs)
    best = [m.best_score for m in manifests if m.best_score is not None]
    speeds = [speed for s in group if (speed := s.number("crystals_per_second")) is not None]
    left = [seconds for s in group if (seconds := s.number("seconds_left")) is not None]
    worst = min(group, key=lambda s: _WORST_FIRST.index(s.state))
    about = "" if worst.state == "finished" else f"{worst.summary.run.id}: {worst.about}"
    return (
        one_line(f"{manifests[0].ensemble} ({len(group)} runs)"),
        state,
        one_line(", ".join(sorted(jobs))) or tables.ABSENT,
        f"{low}/{manifests[0].epochs}" if low == high else f"{low}-{high}/{manifests[0].epochs}",
        tables.ABSENT,
        f"{sum(speeds):.0f}" if speeds else tables.ABSENT,
        duration(max(left)) if left else tables.ABSENT,
        tables.number(min(best, default=None)),
        _cut(one_line(about)),
    )


def _facts(s: RunStatus, manifest: Manifest) -> list[tuple[str, str]]:
    facts = [("epochs", f"{_epoch(s, manifest)} of {manifest.epochs}{_phase(s)}")]
    step, steps = s.number("step"), s.number("total_steps")
    if step is not None and steps is not None:
        facts.append(("steps", f"{step:.0f} of {steps:.0f}"))
    else:
        facts.append(("steps", f"{manifest.step} saved"))
    if (loss := s.number("loss")) is not None:
        facts.append(("loss", f"{tables.number(loss)} (this epoch, so far)"))
    if (speed := s.number("crystals_per_second")) is not None:
        facts.append(("speed", f"{speed:.0f} crystals/s"))
    if (left := s.number("seconds_left")) is not None:
        facts.append(("left", f"{duration(left)} at this speed"))
    if manifest.best_epoch:
        score = tables.number(manifest.best_score)
        facts.append(("best score", f"{score} at epoch {manifest.best_epoch}"))
    if s.lease is not None:
        facts.append(("sign of life", f"{s.lease.age:.0f} s ago"))
    if manifest.job_ids:
        facts.append(("jobs", ", ".join(manifest.job_ids)))
    if s.slurm is not None:
        facts.append(("job", _job(s)))
    if manifest.restarts:
        without = manifest.restarts_without_progress
        facts.append(
            ("restarts", f"{manifest.restarts} by the scheduler, {without} without progress")
        )
    if manifest.ensemble:
        facts.append(("ensemble", f"{manifest.ensemble} ({manifest.ensemble_member})"))
    facts.append(("changed", f"{manifest.updated.astimezone():%Y-%m-%d %H:%M:%S}"))
    if s.state in ("stopped", "dead", "failed"):
        facts.append(("go on", resume_command(s.summary.run, manifest)))
    return [(name, one_line(words)) for name, words in facts]


def _job(s: RunStatus) -> str:
    assert s.slurm is not None
    parts = [s.slurm.state]
    if s.slurm.nodes:
        parts.append(f"on {s.slurm.nodes}")
    if s.slurm.elapsed:
        parts.append(f"for {duration(s.slurm.elapsed)}")
    if s.slurm.running and s.slurm.time_left is not None:
        parts.append(f"{duration(s.slurm.time_left)} left of its time")
    return ", ".join(parts)


def _end_of_log(s: RunStatus, manifest: Manifest) -> list[str]:
    try:
        folder = job_folder(s.summary.run, manifest)
        path = log_file(folder, manifest.job_ids[-1], err=True) if folder else None
    except InputError:
        return []
    lines = last_lines(path, LOG_LINES) if path else []
    return ["", f"end of {path}:", *(f"  {line}" for line in lines)] if lines else []


def _epoch(s: RunStatus, manifest: Manifest) -> int:
    epoch = s.number("epoch")
    return manifest.epoch if epoch is None else int(epoch)


def _phase(s: RunStatus) -> str:
    phase = s.lease.heartbeat.get("phase") if s.lease else None
    return f" ({phase})" if phase else ""


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST_ABOUT else text[: _WIDEST_ABOUT - 4] + " ..."


def _aligned(facts: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in facts)
    return [f"{name:<{width}}  {words}" for name, words in facts]
