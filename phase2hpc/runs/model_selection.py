"""Selection of the runs that predict, and their description in one line."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from phase2hpc.errors import InputError
from phase2hpc.runs.ensemble import Ensemble, ensemble_of, find_ensemble
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.registry import exported_members, find_runs, read_metrics, registry
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils import tables
from phase2hpc.utils.package_files import pretrained_models

log = logging.getLogger(__name__)

# Levels whose runs predict without being named: the others are checks of the pipeline.
PRODUCTION_LEVELS = ("std", "pro", "max")
BEST = "best"


def runs_to_predict_with(models_dir: Path, names: Sequence[str] | None) -> list[RunDirectory]:
    """The runs to predict with, several for an ensemble.

    names: run directories, their best.pt, ids, ids of ensembles, exported models, or ``best``
    alone, the finished run with the best validation score among those on the same store and
    properties as the default run. None: the default, the newest finished run at level std, pro or
    max, else the shipped model.

    Raises InputError as ``find_run``, for a run given twice, and if there is no model.
    """
    if names is None:
        return _default_runs(models_dir)
    wanted = [name.strip() for name in names if name.strip()]
    if not wanted:
        raise InputError("--run: give a run directory or an id, several with commas")
    if wanted == [BEST]:
        return [_best_run(models_dir)]
    runs = [run for name in wanted for run in _models(models_dir, name)]
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise InputError(f"--run {','.join(wanted)}: the same run twice")
    return runs


def _models(models_dir: Path, name: str) -> list[RunDirectory]:
    ensemble = find_ensemble(models_dir, name)
    if ensemble is not None:
        ensemble.check()
        return list(ensemble.members)
    runs = find_runs(models_dir, name)
    file = Path(name)
    if file.is_file() and file.suffix == ".pt" and file.name != runs[0].best.name:
        raise InputError(
            f"--run {name}: give the run directory, or a file named {runs[0].best.name}"
        )
    return runs


def _finished(models_dir: Path) -> list[tuple[RunDirectory, Manifest]]:
    """Finished runs, the newest first."""
    found = []
    for summary in reversed(registry(models_dir)):
        if summary.manifest is None:
            log.warning("skipped: %s", summary.problem)
        elif summary.manifest.state == "finished":
            found.append((summary.run, summary.manifest))
    return found


def _default_runs(models_dir: Path) -> list[RunDirectory]:
    finished = _finished(models_dir)
    production = [run for run, manifest in finished if manifest.level in PRODUCTION_LEVELS]
    if production:
        return [production[0]]
    levels = ", ".join(PRODUCTION_LEVELS[:-1]) + f" or {PRODUCTION_LEVELS[-1]}"
    other = f" (--run {finished[0][0].id} for the newest one)" if finished else ""
    for path in pretrained_models():
        log.warning(
            "no finished run at level %s in %s%s: predicting with the shipped model %s",
            levels, models_dir, other, path.name,
        )  # fmt: skip
        return exported_members(path) or [RunDirectory(path)]
    raise InputError(
        f"no finished run at level {levels} in {models_dir}{other}: train one, or name a run by "
        "--run"
    )


def _best_run(models_dir: Path) -> RunDirectory:
    scored = [(run, m) for run, m in _finished(models_dir) if m.best_score is not None]
    if not scored:
        raise InputError(f"--run {BEST}: no finished run in {models_dir}: train one")
    production = [(run, m) for run, m in scored if m.level in PRODUCTION_LEVELS]
    _, reference = (production or scored)[0]
    comparable = [
        (m.best_score, run)
        for run, m in scored
        if m.store_hash == reference.store_hash and set(m.properties) == set(reference.properties)
    ]
    return min(comparable, key=lambda pair: pair[0] or 0.0)[1]


def describe_model(runs: Sequence[RunDirectory]) -> str:
    """Algorithm, level, id, training crystals and test MAE by property, in one line.

    The MAE is the ensemble's own for all runs of an ensemble, for other runs the mean over them.
    """
    several = len(runs) > 1
    names = ", ".join(f"{run.family}/{run.id}" for run in runs)
    text = f"the mean of {len(runs)} runs, {names}" if several else names
    ensemble = whole_ensemble(runs) if several else None
    if ensemble is not None:
        family = runs[0].family
        text = f"the mean of ensemble {family}/{ensemble.id} of {len(runs)} runs"
    manifests = [run.read_manifest() for run in runs if run.manifest.exists()]
    if len(manifests) < len(runs):
        return text
    kinds = dict.fromkeys(f"{m.algorithm} {m.level}" for m in manifests)
    text = f"{' and '.join(kinds)}, {text}"
    crystals = [m.training_crystals for m in manifests]
    facts = []
    if None not in crystals:
        counts = " and ".join(dict.fromkeys(f"{count:,}" for count in crystals))
        facts.append(f"{counts} training crystals")
    own = ensemble is not None and ensemble.results.metrics_json.exists()
    if errors := _test_errors([ensemble.results] if own and ensemble else runs, runs[0]):
        facts.append(f"{'mean test' if several and not own else 'test'} MAE {errors}")
    return f"{text} ({'; '.join(facts)})" if facts else text


def whole_ensemble(runs: Sequence[RunDirectory]) -> Ensemble | None:
    """The ensemble that consists of these runs."""
    if not runs[0].manifest.exists():
        return None
    found = ensemble_of(runs[0])
    same = found and {r.path.resolve() for r in found.members} == {r.path.resolve() for r in runs}
    return found if same else None


def _test_errors(runs: Sequence[RunDirectory], first: RunDirectory) -> str:
    tests = [(read_metrics(run) or {}).get("test", {}) for run in runs]
    config, parts = first.read_config(), []
    for name in tests[0]:
        values = [test.get(name, {}).get("mae") for test in tests]
        known = [value for value in values if value is not None]
        if known and len(known) == len(values):
            mean = tables.number(sum(known) / len(known), 3)
            parts.append(f"{name} {mean} {config.column(name).unit}".rstrip())
    return ", ".join(parts)
