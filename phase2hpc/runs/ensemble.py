"""Ensembles: finished runs of one recipe that differ in the seed, and the folder of their results.

Members are found by the ensemble's id in their manifests. metrics.json, predictions_{val,test}.csv
and report.html of the ensemble are in ``ensemble_<id>`` beside the members, under the names that a
run has for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phase2hpc.config.run_config import RunConfig
from phase2hpc.errors import InputError
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.registry import RunSummary, exported_members, registry
from phase2hpc.runs.run_directory import PREFIX, RunDirectory
from phase2hpc.utils.package_files import pretrained_models

ENSEMBLE_PREFIX = "ensemble_"
# Settings in which runs of one recipe may differ; the last two change rounding only.
NOT_THE_RECIPE = ("seed", "init_from", "cuda_graphs", "deterministic")
# Folder of an array's scripts and logs, beside its runs.
ARRAY_PREFIX = "array_"


@dataclass(frozen=True)
class Ensemble:
    """An ensemble, sweep or search: its id and its runs, the oldest first."""

    id: str
    members: tuple[RunDirectory, ...]

    @property
    def results(self) -> RunDirectory:
        """Folder of the results; it may not exist yet."""
        return RunDirectory(self.members[0].path.parent / f"{ENSEMBLE_PREFIX}{self.id}")

    def manifests(self) -> list[Manifest]:
        """Raises InputError for one that is not readable."""
        return [run.read_manifest() for run in self.members]

    def unfinished(self) -> list[str]:
        """Ids of members without results, and ``N missing`` for members that were removed."""
        manifests = self.manifests()
        found = [m.run_id for m in manifests if m.state != "finished"]
        missing = (manifests[0].ensemble_size or 0) - len(manifests)
        return found + ([f"{missing} missing"] if missing > 0 else [])

    @property
    def is_sweep(self) -> bool:
        """True where the members differ in more than the seed, or are to."""
        if any(manifest.trial is not None for manifest in self.manifests()):
            return True
        return bool(differing_settings([run.read_config() for run in self.members]))

    def check(self) -> None:
        """Raise InputError unless all members are finished and have one recipe and one store."""
        if unfinished := self.unfinished():
            raise InputError(
                f"ensemble {self.id}: not all of its runs are finished ({', '.join(unfinished)}): "
                "resume them, or name the finished ones with commas"
            )
        if differing := differing_settings([run.read_config() for run in self.members]):
            raise InputError(
                f"{self.id} is a sweep, whose runs differ in {', '.join(differing)}, not an "
                "ensemble: name one of its runs, or runs of equal settings with commas"
            )
        if len({manifest.store_hash for manifest in self.manifests()}) > 1:
            raise InputError(f"ensemble {self.id}: its runs were trained on different stores")


def differing_settings(configs: Sequence[RunConfig]) -> dict[str, list[object]]:
    """Settings of the recipe that differ, with the value of each."""
    flat = [config.identity() for config in configs]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    for own in NOT_THE_RECIPE:
        keys.pop(own, None)
    values = {key: [settings.get(key) for settings in flat] for key in keys}
    return {key: found for key, found in values.items() if any(v != found[0] for v in found)}


def find_ensemble(models_dir: Path, name: str) -> Ensemble | None:
    """The ensemble or sweep with this id or folder, exported ones and the shipped by name
    included; None if there is none, or a run hides it."""
    path = Path(name)
    if path.name.startswith(ENSEMBLE_PREFIX) and path.is_dir():
        return _of_id(registry(path.parent), path.name.removeprefix(ENSEMBLE_PREFIX))
    if (exported := _exported(path)) is not None:
        return exported
    known = registry(models_dir)
    if any(summary.run.id == name.removeprefix(PREFIX) for summary in known):
        return None
    shipped = (_exported(folder) for folder in pretrained_models() if folder.name == name)
    return _of_id(known, name) or next(shipped, None)


def _exported(folder: Path) -> Ensemble | None:
    members = exported_members(folder)
    name = members[0].read_manifest().ensemble if members else None
    return None if name is None else Ensemble(name, tuple(members))


def array_folder(run: RunDirectory, ensemble: str) -> Path:
    """Folder of the scripts and logs of the array that a run belongs to."""
    return run.path.with_name(f"{ARRAY_PREFIX}{ensemble}")


def ensemble_of(run: RunDirectory) -> Ensemble | None:
    """The ensemble or sweep that a run is a member of."""
    name = run.read_manifest().ensemble
    return None if name is None else _of_id(registry(run.path.parent), name)


def _of_id(known: Sequence[RunSummary], name: str) -> Ensemble | None:
    members = [s.run for s in known if s.manifest and s.manifest.ensemble == name]
    return Ensemble(name, tuple(members)) if members else None
