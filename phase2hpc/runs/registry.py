"""Registry of the runs in a models folder, read from their manifests: no database, no lock."""

from __future__ import annotations

import difflib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phase2hpc.errors import InputError
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.run_directory import PREFIX, RunDirectory, read_json
from phase2hpc.utils.package_files import pretrained_models

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunSummary:
    """A run and its manifest, or the ``problem`` with reading it."""

    run: RunDirectory
    manifest: Manifest | None
    problem: str | None = None

    @classmethod
    def read(cls, run: RunDirectory) -> RunSummary:
        """The run with its manifest as it is now."""
        try:
            return cls(run, run.read_manifest())
        except InputError as error:
            return cls(run, None, str(error))


def run_directories(models_dir: Path) -> list[RunDirectory]:
    """Every run directory, readable or not, by path; of one family if that folder is given."""
    found = [*models_dir.glob(f"{PREFIX}*"), *models_dir.glob(f"*/{PREFIX}*")]
    return [RunDirectory(path) for path in sorted(found) if path.is_dir()]


def registry(models_dir: Path) -> list[RunSummary]:
    """All runs, the oldest first; those with an unreadable manifest last."""
    found = [RunSummary.read(run) for run in run_directories(models_dir)]
    readable = [(s.manifest.created, s.run.id, s) for s in found if s.manifest]
    readable.sort(key=lambda entry: entry[:2])
    return [summary for *_, summary in readable] + [s for s in found if s.manifest is None]


def exported_members(folder: Path) -> list[RunDirectory]:
    """Members of an exported ensemble; empty if ``folder`` is none."""
    runs = [RunDirectory(path) for path in sorted(folder.glob(f"{PREFIX}*"))]
    return [run for run in runs if run.exported_weights.is_file()]


def find_run(models_dir: Path, name: str) -> RunDirectory:
    """The run with this directory, id (with ``run_`` or without), shipped model's name, or
    unambiguous prefix of an id.

    Raises InputError if there is none (with the nearest id) or more than one, and for an ensemble.
    """
    found = find_runs(models_dir, name)
    if len(found) > 1:
        raise InputError(f"{name} is an ensemble: name one of its models, as {found[0].path}")
    return found[0]


def find_runs(models_dir: Path, name: str) -> list[RunDirectory]:
    """As ``find_run``; the members of an ensemble that was exported, or is shipped."""
    if members := exported_members(Path(name)):
        return members
    run = _find(models_dir, name)
    return exported_members(run.path) or [run]


def _find(models_dir: Path, name: str) -> RunDirectory:
    path = RunDirectory(Path(name))
    if path.path.is_file():
        path = RunDirectory(path.path.parent)
    if any(file.is_file() for file in (path.manifest, path.config, path.weights)):
        return path
    if path.path.is_dir():
        raise InputError(f"{name}: not a run directory (no {path.manifest.name} in it)")
    own = run_directories(models_dir)
    shipped = [RunDirectory(path) for path in pretrained_models()]
    wanted = name.removeprefix(PREFIX)
    # A run of the user hides a shipped model of the same name.
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
    ids, models = sorted(run.id for run in own), sorted(run.id for run in shipped)
    near = difflib.get_close_matches(wanted, ids + models, n=1, cutoff=0.5)
    if near:
        hint = f"did you mean '{near[0]}'?"
    else:
        hint = f"the latest are {', '.join(ids[-4:])}; shipped: {', '.join(models) or 'none'}"
    raise InputError(f"no run '{name}' in {models_dir}: {hint}")


def _named(runs: list[RunDirectory], wanted: str) -> list[RunDirectory]:
    exact = [run for run in runs if run.id == wanted]
    return exact or [run for run in runs if wanted and run.id.startswith(wanted)]


def newest_to_resume(models_dir: Path, family: str) -> RunDirectory:
    """The run of a family that ``--resume`` continues: the newest unfinished one, else the newest.

    Whether a process trains it already is left to its lease. Raises InputError if there is none.
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
            log.warning("skipped: %s", summary.problem)
        else:
            found.append((summary.run, summary.manifest))
    return found


def read_metrics(run: RunDirectory) -> dict[str, dict[str, dict[str, Any]]] | None:
    """metrics.json; None if the run has none yet. Raises InputError if it is malformed."""
    if not run.metrics_json.exists():
        return None
    metrics = read_json(run.metrics_json)
    try:
        found = {split: dict(metrics[split]) for split in ("val", "test")}
        types = {kind for table in found.values() for row in table.values()
                 for kind in set(map(type, dict(row).values()))}  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{run.metrics_json}: not a run's metrics ({error!r})") from None
    if not types <= {int, float, type(None)}:
        raise InputError(f"{run.metrics_json}: not a run's metrics (a value is not a number)")
    return found
