"""Study of a search: an Optuna journal beside its runs, which take settings from it and add their
validation scores.

What a run was given is in its manifest too: after a requeue it goes on with it, and a run whose
process died before it told its score is told by the next one. Optuna is imported when needed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from phase2hpc.config.run_config import RunConfig
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.runs.ensemble import Ensemble, array_folder, ensemble_of
from phase2hpc.runs.manifest import Trial
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.training.tuning.space import Range, Space, Value
from phase2hpc.utils.absolute_path import absolute_path
from phase2hpc.utils.atomic_io import write_atomically
from phase2hpc.utils.error_text import first_line, type_and_message

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

log = logging.getLogger(__name__)

SPACE_FILE = "space.json"
JOURNAL_FILE = "study.journal"
_STUDY = "phase2hpc"
# Key of a trial's attribute: the id of its run.
_RUN = "run"


def require_optuna() -> None:
    """Raise InputError where Optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise InputError(
            "--tune needs optuna, which is not installed here: pip install 'phase2hpc[tune]'"
        )


def write_space(folder: Path, space: Space) -> None:
    """Write the space of a search into the folder of its jobs."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / SPACE_FILE, space.model_dump_json(indent=1) + "\n")


def choose_settings(run: RunDirectory, config: RunConfig) -> RunConfig:
    """The configuration of a run with the settings that its study gives it, written to the run.

    A run that is none of a search, or has its settings, keeps its configuration. Raises InputError
    without Optuna or the space, and Phase2Error where the study cannot be read.
    """
    manifest = run.read_manifest()
    trial = manifest.trial
    if trial is None or trial.settings:
        return config
    ensemble = _ensemble(run)
    folder = array_folder(run, ensemble.id)
    space = _read_space(folder / SPACE_FILE)
    require_optuna()
    try:
        values = _ask(folder, space, ensemble, run.id, _sampler_seed(config.seed, trial.number))
    except InputError:
        raise
    except Exception as error:  # Of Optuna, its journal or the file system.
        raise Phase2Error(
            f"{folder / JOURNAL_FILE}: no settings from this study ({type_and_message(error)}): "
            "without this file the next run begins a study with the scores of the finished runs"
        ) from error
    config = space.config_with(config, values)
    run.write_config(config)
    label = ",".join([f"trial={trial.number}", *(f"{k}={_shown(v)}" for k, v in values.items())])
    run.update_manifest(
        trial=Trial(number=trial.number, settings=values),
        ensemble_member=label,
        epochs=config.training.epochs,
    )
    print(f"run {run.id}: {label}", flush=True)
    return config


def tell_score(run: RunDirectory) -> None:
    """Add the score of a run that has just finished to its study, if it has one.

    What prevents it is a warning: the run has its results, and the next one tells its score.
    """
    if run.read_manifest().trial is None:
        return
    try:
        ensemble = _ensemble(run)
        folder = array_folder(run, ensemble.id)
        _synchronise(_open(folder, 0), _read_space(folder / SPACE_FILE), ensemble)
    except Exception as error:  # Whatever it is: the run is finished.
        log.warning("the score of run %s is not in its study: %s", run.id, first_line(error))


def _ask(
    folder: Path, space: Space, ensemble: Ensemble, run_id: str, seed: int
) -> dict[str, Value]:
    study = _open(folder, seed)
    _synchronise(study, space, ensemble)
    for known in study.get_trials(deepcopy=False):
        # Its process died before the run had them.
        if known.user_attrs.get(_RUN) == run_id and known.params:
            return known.params
    trial = study.ask(_distributions(space))
    trial.set_user_attr(_RUN, run_id)
    return trial.params


def _open(folder: Path, seed: int) -> Study:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Absolute: its lock is a link to it, from the same folder.
    journal = absolute_path(folder / JOURNAL_FILE)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    # Runs that train at the same time: the sampler keeps away from their settings.
    sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return optuna.create_study(
        storage=storage, sampler=sampler, study_name=_STUDY, load_if_exists=True
    )


def _synchronise(study: Study, space: Space, ensemble: Ensemble) -> None:
    """Add the scores of finished runs that the study does not have.

    A failed run stays without one, as it may be resumed; the sampler keeps away from it.
    """
    from optuna.trial import TrialState, create_trial

    known = {trial.user_attrs.get(_RUN): trial for trial in study.get_trials(deepcopy=False)}
    for manifest in ensemble.manifests():
        trial, score = manifest.trial, manifest.best_score
        if trial is None or not trial.settings or manifest.state != "finished" or score is None:
            continue
        found = known.get(manifest.run_id)
        if found is None:
            study.add_trial(
                create_trial(
                    params=dict(trial.settings),
                    distributions=_distributions(space),
                    value=score,
                    user_attrs={_RUN: manifest.run_id},
                )
            )
        elif found.state == TrialState.RUNNING:
            study.tell(found.number, score, skip_if_finished=True)


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    found: dict[str, BaseDistribution] = {}
    for key, chosen in space.choices.items():
        if not isinstance(chosen, Range):
            found[key] = CategoricalDistribution(chosen)
        elif chosen.is_integer:
            found[key] = IntDistribution(
                int(chosen.low), int(chosen.high), log=chosen.log, step=int(chosen.step or 1)
            )
        else:
            found[key] = FloatDistribution(
                chosen.low, chosen.high, log=chosen.log, step=chosen.step
            )
    return found


def _sampler_seed(seed: int, number: int) -> int:
    """A seed of each trial: processes with the same one would begin with the same settings."""
    digest = hashlib.sha256(f"{seed} {number}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def _ensemble(run: RunDirectory) -> Ensemble:
    ensemble = ensemble_of(run)
    if ensemble is None:
        raise InputError(f"{run.manifest}: a trial without its ensemble")
    return ensemble


def _read_space(path: Path) -> Space:
    try:
        return Space.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise InputError(
            f"{path}: no space to choose settings from ({first_line(error)})"
        ) from None


def _shown(value: Value) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
