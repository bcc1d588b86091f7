"""Run directory: paths of its files, creation, and reading and writing of its JSON files.

No other module joins these paths. Imports no torch: login nodes read runs too.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from phase2hpc.config.algorithm_registry import algorithm_named
from phase2hpc.config.run_config import RunConfig
from phase2hpc.errors import InputError
from phase2hpc.runs import provenance
from phase2hpc.runs.manifest import SCHEMA_VERSION, Manifest
from phase2hpc.utils.atomic_io import write_atomically
from phase2hpc.utils.container_image import this_image
from phase2hpc.utils.dependencies import installed_versions
from phase2hpc.utils.error_text import first_problem
from phase2hpc.utils.mounts import nearest_folder
from phase2hpc.utils.os_errors import path_error
from phase2hpc.utils.regular_file import open_regular
from phase2hpc.utils.time_format import utc_now

PREFIX = "run_"
# The largest JSON file of a run is its history: a few hundred bytes per epoch.
MAX_TEXT_BYTES = 1 << 28


@dataclass(frozen=True)
class RunDirectory:
    """The paths of one run."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name.removeprefix(PREFIX)

    @property
    def family(self) -> str:
        return self.path.parent.name

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def checkpoint(self) -> Path:
        """The newest training checkpoint."""
        return self.path / "checkpoint.pt"

    def checkpoint_of(self, step: int) -> Path:
        """An older training checkpoint."""
        return self.path / f"checkpoint_{step}.pt"

    def older_checkpoints(self) -> list[tuple[int, Path]]:
        """(step, path) of the checkpoints before the newest, the latest first."""
        return self._numbered("checkpoint")

    def damaged_checkpoints(self) -> list[Path]:
        """Checkpoints that could not be read and were set aside."""
        aside = r"checkpoint.*\.pt\.(damaged|unreadable|newer-version)(-\d+)?"
        return [p for p in self._files() if re.fullmatch(aside, p.name)]

    @property
    def best(self) -> Path:
        return self.path / "best.pt"

    @property
    def exported_weights(self) -> Path:
        """Weights of an exported model, in place of best.pt."""
        return self.path / "model.safetensors"

    @property
    def model_json(self) -> Path:
        """Scaler, elements and graph settings of an exported model."""
        return self.path / "model.json"

    @property
    def model_card(self) -> Path:
        return self.path / "README.md"

    @property
    def weights(self) -> Path:
        """The file of the trained weights: best.pt, or that of an exported model."""
        exported = self.exported_weights
        return exported if exported.is_file() and not self.best.is_file() else self.best

    @property
    def calibration(self) -> Path:
        """Statistics of training and validation crystals for uncertainty and domain."""
        return self.path / "calibration.safetensors"

    def best_of(self, epoch: int) -> Path:
        """Best weights of an earlier epoch than ``best``."""
        return self.path / f"best_{epoch}.pt"

    def older_bests(self) -> list[tuple[int, Path]]:
        """(epoch, path) of the earlier best weights, the latest first."""
        return self._numbered("best")

    @property
    def history(self) -> Path:
        return self.path / "history.json"

    @property
    def metrics_json(self) -> Path:
        return self.path / "metrics.json"

    @property
    def metrics_csv(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def predictions_val(self) -> Path:
        return self.path / "predictions_val.csv"

    @property
    def predictions_test(self) -> Path:
        return self.path / "predictions_test.csv"

    def predictions(self, split: str) -> Path:
        """Predictions beside labels of a split, val or test."""
        return {"val": self.predictions_val, "test": self.predictions_test}[split]

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def lease(self) -> Path:
        """Folder with one file while a process trains the run."""
        return self.path / "lease"

    def _numbered(self, name: str) -> list[tuple[int, Path]]:
        matched = ((re.fullmatch(rf"{name}_(\d+)\.pt", p.name), p) for p in self._files())
        return sorted(((int(m[1]), p) for m, p in matched if m), reverse=True)

    def _files(self) -> list[Path]:
        return sorted(self.path.iterdir()) if self.path.is_dir() else []

    def write_config(self, config: RunConfig) -> None:
        write_atomically(self.config, config.to_json())

    def read_config(self) -> RunConfig:
        return RunConfig.from_json(_text(self.config), str(self.config))

    def write_manifest(self, manifest: Manifest) -> None:
        write_atomically(self.manifest, manifest.model_dump_json(indent=2) + "\n")

    def read_manifest(self) -> Manifest:
        """Raises InputError for a manifest that is missing, malformed or of a newer version."""
        data = read_json(self.manifest)
        try:
            if not isinstance(data, dict):
                raise InputError(f"{self.manifest}: not a manifest (no JSON object)")
            version = data.get("schema_version")
            if isinstance(version, int) and version > SCHEMA_VERSION:
                raise InputError(
                    f"{self.manifest}: written by a newer phase2hpc (schema {version}, this one "
                    f"reads {SCHEMA_VERSION}): update phase2hpc"
                )
            return Manifest.model_validate(data)
        except ValidationError as error:
            raise InputError(f"{self.manifest}: {first_problem(error, 'key')}") from None

    def update_manifest(self, **changes: Any) -> Manifest:
        """Set some keys and the time; only the run's one writer calls this."""
        unknown = changes.keys() - Manifest.model_fields.keys()
        if unknown:
            raise TypeError(f"a manifest has no {sorted(unknown)}")
        manifest = self.read_manifest()
        for key, value in {**changes, "updated": utc_now()}.items():
            setattr(manifest, key, value)
        self.write_manifest(manifest)
        return manifest

    def take_over(self, job_id: str | None = None) -> Manifest:
        """Record in the manifest that this process trains the run now, as job ``job_id``."""
        job_ids = self.read_manifest().job_ids
        if job_id is not None and job_id not in job_ids:
            job_ids = [*job_ids, job_id]
        return self.update_manifest(
            state="running",
            host=provenance.host(),
            pid=os.getpid(),
            process_start=provenance.process_start(os.getpid()),
            versions=installed_versions(),
            git_commit=provenance.git_commit(),
            image=this_image(),
            job_ids=job_ids,
            message="",
        )


def family_folder(algorithm: str, level: str) -> str:
    """Name of the folder of all runs of an algorithm at a level."""
    return algorithm_named(algorithm).family(level)


def checked_run_id(run_id: str) -> str:
    """A run id given by the user, without the folder's prefix. Raises InputError if malformed."""
    bare = run_id.removeprefix(PREFIX)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", bare):
        raise InputError(
            f"run id '{run_id}': use up to 100 letters, digits, '.', '_' and '-', "
            "a letter or digit first"
        )
    return bare


def new_run_id() -> str:
    """A random id; creating its directory shows that it is unique."""
    return f"{utc_now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def create_run(models_dir: Path, family: str, run_id: str | None = None) -> RunDirectory:
    """Create the directory of a new run, exclusively among all hosts that share the folder.

    Raises InputError if ``run_id`` is taken or malformed, or the folder cannot be written.
    """
    folder = models_dir / family
    # mkdir is exclusive on every file system, shared ones too.
    while True:
        run = RunDirectory(folder / (PREFIX + (checked_run_id(run_id) if run_id else new_run_id())))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            run.path.mkdir()
        except FileExistsError:
            if not folder.is_dir():
                raise InputError(
                    f"{folder}: is a file, and the runs need a folder of this name"
                ) from None
            if run_id:
                raise InputError(
                    f"run '{run.id}' exists already in {folder}: continue it with "
                    "--resume, or choose another --run-id"
                ) from None
            continue
        except OSError as error:
            raise path_error(error, f"{folder}: cannot create a run here") from None
        return run


def check_place_of_runs(models_dir: Path, family: str) -> None:
    """Raise as ``create_run`` where no run can be created; leaves nothing behind."""
    folder = models_dir / family
    try:
        tempfile.TemporaryDirectory(prefix=".phase2hpc-", dir=nearest_folder(folder)).cleanup()
    except OSError as error:
        raise path_error(error, f"{folder}: cannot create a run here") from None


def read_json(path: Path) -> Any:
    """Content of a run's JSON file. Raises InputError if it is missing or malformed."""
    try:
        return json.loads(_text(path))
    except RecursionError:
        raise InputError(f"{path}: not JSON (nested too deeply)") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from None


def _text(path: Path) -> str:
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_TEXT_BYTES:
                raise InputError(f"{path}: not a file of a run: larger than {MAX_TEXT_BYTES} bytes")
            return file.read().decode("utf-8")
    except FileNotFoundError:
        raise InputError(f"{path.parent}: no {path.name} here: not a run directory?") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
