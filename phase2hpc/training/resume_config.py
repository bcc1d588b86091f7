"""Selection of the run that ``--resume`` continues, and comparison of its settings.

Imports no torch, for use on login nodes.
"""

from __future__ import annotations

from phase2hpc.config import properties as property_table
from phase2hpc.config.algorithm_registry import algorithm_named
from phase2hpc.config.algorithms import ADDED_SETTINGS
from phase2hpc.config.run_config import RunConfig, build_config
from phase2hpc.errors import InputError
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.registry import find_run, newest_to_resume
from phase2hpc.runs.run_directory import RunDirectory, family_folder
from phase2hpc.training.request import TrainRequest
from phase2hpc.utils.absolute_path import absolute_path

# A resumed run may train for more epochs, and in smaller microbatches after running out of memory.
# A change of any other setting that affects the result needs --accept-changes.
MAY_CHANGE_ON_RESUME = frozenset({"epochs", "max_edges"})
# These change the shapes of weights and optimiser state and cannot be accepted.
CHANGES_THE_SHAPE = frozenset({"properties", "auxiliary", "task_weights"})


def run_to_resume(request: TrainRequest) -> RunDirectory:
    """The run that ``--resume`` continues: ``--run-id``, else the newest unfinished run of the
    algorithm and level, else the newest.

    Whether a process trains it already is left to its lease. Raises InputError if there is none,
    and for a ``--run-id`` that is ambiguous or an ensemble's.
    """
    family = family_folder(request.algorithm, request.level)
    if not request.run_id:
        return newest_to_resume(request.models_dir, family)
    return find_run(request.models_dir / family, request.run_id)


def resumed_config(request: TrainRequest, run: RunDirectory) -> RunConfig:
    """Configuration of a resumed run: its own settings, overridden by the request's.

    Raises InputError with the difference where a setting that affects the result differs and the
    request does not accept changes.
    """
    saved = run.read_config()
    if (saved.algorithm, saved.level) != (request.algorithm, request.level):
        raise InputError(
            f"--resume: run {run.id} is {saved.algorithm} {saved.level}, not {request.algorithm} "
            f"{request.level}: give its --algorithm and --level"
        )
    groups = (saved.training, saved.model, saved.runtime)
    flat = {key: value for group in groups for key, value in group.model_dump().items()}
    # A requested preset overrides its settings, but those of newer versions.
    preset = algorithm_named(request.algorithm).presets.get(request.overrides.get("preset", ""), {})
    flat |= {name: value for name, value in preset.items() if name not in ADDED_SETTINGS}
    names = saved.properties
    if request.properties:
        names = tuple(property_table.resolve(request.properties, list(saved.properties)))
    auxiliary = saved.auxiliary
    if request.auxiliary:
        known = [*saved.properties, *saved.auxiliary]
        auxiliary = tuple(property_table.resolve(request.auxiliary, known))
    columns = {**saved.columns}
    for name, given in request.columns.items():
        columns[name] = given.over(saved.column(name))
    columns = {n: c for n, c in columns.items() if c != property_table.default_settings(n)}
    config = build_config(
        request.algorithm,
        request.level,
        names,
        {
            **flat,
            **request.overrides,
            "store": absolute_path(request.store) if request.store else saved.runtime.store,
            "models_dir": absolute_path(request.models_dir),
        },
        seed=saved.seed if request.seed is None else request.seed,
        init_from=saved.init_from,
        auxiliary=auxiliary,
        columns=columns,
        fold=saved.fold if request.fold is None else request.fold,
    )
    difference = _check_changes(run, saved, config, request.accept_changes)
    if difference and not is_complete(run.read_manifest(), config):
        print(f"run {run.id} resumes with other settings ({difference})")
    return config


def is_complete(manifest: Manifest, config: RunConfig) -> bool:
    """Whether a run has nothing left to train with these settings."""
    if manifest.state != "finished" or manifest.epochs < config.training.epochs:
        return False
    patience = config.training.patience
    of_patience = manifest.epoch < manifest.epochs
    # As ``TrainingLoop`` ends: best_epoch is 0 before the first.
    waited = manifest.epoch - (manifest.best_epoch or 0)
    return not of_patience or (patience is not None and waited >= patience)


def _check_changes(run: RunDirectory, saved: RunConfig, now: RunConfig, accept: bool) -> str:
    """The accepted changes of settings, in words."""
    before, after = saved.identity(), now.identity()
    changed = {key for key in before if before[key] != after[key]} - MAY_CHANGE_ON_RESUME
    if not changed:
        return ""
    difference = "; ".join(
        f"{key}: {before[key]} in the run, {after[key]} requested"
        for key in before
        if key in changed
    )
    shape = changed & (CHANGES_THE_SHAPE | type(saved.model).model_fields.keys())
    if not accept:
        advice = "accept them with --accept-changes, or "
        raise InputError(
            f"--resume: run {run.id} was started with other settings ({difference}): "
            f"{'' if shape else advice}start a new run, from its weights by --init-from {run.path}"
        )
    if shape:
        raise InputError(
            f"--accept-changes: {', '.join(sorted(shape))} cannot change in run {run.id} "
            f"({difference}): start a new run, from its weights by --init-from {run.path}"
        )
    return difference
