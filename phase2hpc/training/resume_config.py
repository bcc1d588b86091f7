"""Choice of the run that ``--resume`` continues, and check of its settings against the request.

No torch here: a login node asks too.
"""

from __future__ import annotations

from phase2hpc.config import properties as property_table
from phase2hpc.config.algorithm_registry import algorithm_named
from phase2hpc.config.run_config import RunConfig, build_config
from phase2hpc.errors import InputError
from phase2hpc.runs.registry import find_run, newest_to_resume
from phase2hpc.runs.run_directory import RunDirectory, family_folder
from phase2hpc.training.request import TrainRequest

# A resumed run may be trained for more epochs, and computed in other parts where memory ran out;
# all else that changes the result must be as it was, or be accepted by the user.
MAY_CHANGE_ON_RESUME = frozenset({"epochs", "max_edges"})
# With these another order of crystals comes out of the sampler: an epoch cannot go on half-way.
CHANGES_THE_ORDER = frozenset({"batch_size", "max_samples", "seed", "fold"})
# Weights and states of another shape: no flag makes them fit.
CHANGES_THE_SHAPE = frozenset({"properties", "auxiliary", "task_weights"})


def run_to_resume(request: TrainRequest) -> RunDirectory:
    """The run that ``--resume`` goes on with: ``--run-id``, else the family's newest unfinished,
    else its newest. Raises InputError where there is none, or where it is being trained."""
    family = family_folder(request.algorithm, request.level)
    if not request.run_id:
        return newest_to_resume(request.models_dir, family)
    return find_run(request.models_dir / family, request.run_id)


def resumed_config(request: TrainRequest, run: RunDirectory) -> RunConfig:
    """The run's own settings with the request's on top.

    Raises InputError with the difference where a setting that changes the result is another one
    and the request does not accept that.
    """
    saved = run.read_config()
    if (saved.algorithm, saved.level) != (request.algorithm, request.level):
        raise InputError(
            f"--resume: run {run.id} is {saved.algorithm} {saved.level}, not {request.algorithm} "
            f"{request.level}: give its --algorithm and --level"
        )
    groups = (saved.training, saved.model, saved.runtime)
    flat = {key: value for group in groups for key, value in group.model_dump().items()}
    # A preset asked for anew counts as its settings do.
    flat |= algorithm_named(request.algorithm).presets.get(request.overrides.get("preset", ""), {})
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
    config = build_config(
        request.algorithm,
        request.level,
        names,
        {
            **flat,
            **request.overrides,
            "store": request.store.resolve() if request.store else saved.runtime.store,
            "models_dir": request.models_dir.resolve(),
        },
        seed=saved.seed if request.seed is None else request.seed,
        init_from=saved.init_from,
        auxiliary=auxiliary,
        columns=columns,
        fold=saved.fold if request.fold is None else request.fold,
    )
    _refuse_or_say(run, saved, config, request.accept_changes)
    return config


def _refuse_or_say(run: RunDirectory, saved: RunConfig, now: RunConfig, accept: bool) -> None:
    changed = changed_settings(saved, now) - MAY_CHANGE_ON_RESUME
    if not changed:
        return
    before, after = saved.identity(), now.identity()
    difference = "; ".join(
        f"{key}: {before[key]} there, {after[key]} here" for key in before if key in changed
    )
    shape = changed & (CHANGES_THE_SHAPE | type(saved.model).model_fields.keys())
    if not accept:
        advice = "--accept-changes goes on with them, or "
        raise InputError(
            f"--resume: run {run.id} was started with other settings ({difference}): "
            f"{'' if shape else advice}start a new run, from its weights by --init-from {run.path}"
        )
    if shape:
        raise InputError(
            f"--accept-changes: {', '.join(sorted(shape))} cannot change in run {run.id} "
            f"({difference}): start a new run, from its weights by --init-from {run.path}"
        )
    print(f"run {run.id} goes on with other settings ({difference})")


def changed_settings(saved: RunConfig, now: RunConfig) -> set[str]:
    """Settings that change the result and differ."""
    before, after = saved.identity(), now.identity()
    return {key for key in before if before[key] != after[key]}
