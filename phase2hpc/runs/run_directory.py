"""The run directory: where its files are, how one is created, and its manifest.

Nothing else joins these paths. No torch here: a login node reads runs too.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from phase2hpc.config.run_config import RunConfig, algorithm_named
from phase2hpc.errors import InputError
from phase2hpc.runs import provenance
from phase2hpc.runs.job_request import Submission
from phase2hpc.utils.atomic_io import write_atomically
from phase2hpc.utils.container_image import Image, this_image
from phase2hpc.utils.dependencies import installed_versions
from phase2hpc.utils.error_text import first_problem
from phase2hpc.utils.mounts import nearest_folder
from phase2hpc.utils.os_errors import refused_place
from phase2hpc.utils.regular_file import open_regular
from phase2hpc.utils.time_format import utc_now

PREFIX = "run_"
SCHEMA_VERSION = 1

State = Literal["submitted", "running", "stopped", "finished", "failed"]
# The longest text of a run is its history, a few hundred bytes an epoch.
MAX_TEXT_BYTES = 1 << 28
# Any local time zone can show it.
Moment = Annotated[
    AwareDatetime,
    Field(ge=datetime(1970, 1, 2, tzinfo=UTC), lt=datetime(9999, 1, 1, tzinfo=UTC)),
]


class Manifest(BaseModel):
    """What a run is, where it stands and what made it.

    Keys that this version does not know are kept as they are, so that an older phase2hpc does
    not lose what a newer one wrote.
    """

    model_config = ConfigDict(extra="allow", validate_assignment=True)

    schema_version: int = SCHEMA_VERSION
    run_id: str
    algorithm: str
    level: str
    properties: list[str]
    state: State = "running"
    created: Moment = Field(default_factory=utc_now)
    updated: Moment = Field(default_factory=utc_now)
    step: int = 0
    epoch: int = 0
    epochs: int
    seed: int
    host: str = Field(default_factory=provenance.host)
    pid: int = Field(default_factory=os.getpid, ge=0, lt=2**31)
    process_start: str | None = Field(default_factory=lambda: provenance.process_start(os.getpid()))
    versions: dict[str, str] = Field(default_factory=installed_versions)
    git_commit: str | None = Field(default_factory=provenance.git_commit)
    # None outside of a container of phase2hpc.
    image: Image | None = Field(default_factory=this_image)
    store: str | None = None
    store_hash: str | None = None
    device: str | None = None
    processes: int = 1
    job_ids: list[str] = []
    # Where the newest job's scripts and logs are, from the run directory.
    job_folder: str | None = None
    submission: Submission | None = None
    ensemble: str | None = None
    ensemble_member: str | None = None
    ensemble_size: int | None = None
    # By the scheduler; and those of them in a row that found no newer checkpoint than the last.
    restarts: int = 0
    restarts_without_progress: int = 0
    step_at_start: int | None = None
    best_score: float | None = None
    best_epoch: int | None = None
    skipped_steps: int = 0
    message: str = ""

    @classmethod
    def for_run(
        cls, run: RunDirectory, config: RunConfig, store: Path, store_hash: str | None
    ) -> Manifest:
        """The first manifest of a run; ``store_hash`` None where the store is not opened yet."""
        return cls(
            run_id=run.id,
            algorithm=config.algorithm,
            level=config.level,
            properties=list(config.properties),
            epochs=config.training.epochs,
            seed=config.seed,
            store=str(store.resolve()),
            store_hash=store_hash,
        )

    @property
    def effective_state(self) -> str:
        """``state``, but 'interrupted' where it says running and the process is dead.

        Of a process on another host nothing is known: it counts as running.
        """
        if self.state == "running" and provenance.process_is_gone(
            self.host, self.pid, self.process_start
        ):
            return "interrupted"
        return self.state


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
        """The newest full state."""
        return self.path / "checkpoint.pt"

    def checkpoint_of(self, step: int) -> Path:
        """An older full state."""
        return self.path / f"checkpoint_{step}.pt"

    def older_checkpoints(self) -> list[tuple[int, Path]]:
        """(step, path) of the full states beside the newest, the latest step first."""
        return self._numbered("checkpoint")

    def damaged_checkpoints(self) -> list[Path]:
        """Full states that could not be used and were set aside."""
        aside = r"checkpoint.*\.pt\.(damaged|unreadable|newer-version)(-\d+)?"
        return [p for p in self._files() if re.fullmatch(aside, p.name)]

    @property
    def best(self) -> Path:
        return self.path / "best.pt"

    def best_of(self, epoch: int) -> Path:
        """The best weights before those of ``best``."""
        return self.path / f"best_{epoch}.pt"

    def older_bests(self) -> list[tuple[int, Path]]:
        """(epoch, path) of the best weights before those of ``best``, the latest epoch first."""
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
    def predictions_test(self) -> Path:
        return self.path / "predictions_test.csv"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def lease(self) -> Path:
        """A folder that holds one file while a process trains the run."""
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
        """Raises InputError, one line, for a manifest that is missing, broken or too new."""
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
        """Set some keys, and the time; the run's one writer calls this."""
        unknown = changes.keys() - Manifest.model_fields.keys()
        if unknown:
            raise TypeError(f"a manifest has no {sorted(unknown)}")
        manifest = self.read_manifest()
        for key, value in {**changes, "updated": utc_now()}.items():
            setattr(manifest, key, value)
        self.write_manifest(manifest)
        return manifest

    def take_over(self, job_id: str | None = None) -> Manifest:
        """Say in the manifest that this process runs the run now, as a job where it is one."""
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
    """Name of the folder that holds all runs of an algorithm at a level."""
    return algorithm_named(algorithm).folder.format(level=level)


def checked_run_id(run_id: str) -> str:
    """A user's own run id, without the folder's prefix. Raises InputError for one that is unfit."""
    bare = run_id.removeprefix(PREFIX)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", bare):
        raise InputError(
            f"run id '{run_id}': use up to 100 letters, digits, '.', '_' and '-', "
            "a letter or digit first"
        )
    return bare


def new_run_id() -> str:
    """A made-up id; that it is nobody else's shows when its directory is made."""
    return f"{utc_now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def create_run(models_dir: Path, family: str, run_id: str | None = None) -> RunDirectory:
    """Make the directory of a new run; its id is its own on every host that shares the folder.

    Raises InputError if ``run_id`` is taken or unfit, or the folder cannot be written.
    """
    folder = models_dir / family
    # Making a directory is exclusive on every file system, shared ones too.
    while True:
        run = RunDirectory(folder / (PREFIX + (checked_run_id(run_id) if run_id else new_run_id())))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            run.path.mkdir()
        except FileExistsError:
            if not folder.is_dir():
                raise InputError(f"{folder}: a file is in the way of the runs' folder") from None
            if run_id:
                raise InputError(
                    f"run '{run.id}' exists already in {folder}: go on with it by --resume, "
                    "or choose another --run-id"
                ) from None
            continue
        except OSError as error:
            raise refused_place(error, f"{folder}: cannot make a run here") from None
        return run


def check_place_of_runs(models_dir: Path, family: str) -> None:
    """Raises as ``create_run`` where no run can be made there, before the work that one needs;
    nothing is left."""
    folder = models_dir / family
    try:
        tempfile.TemporaryDirectory(prefix=".phase2hpc-", dir=nearest_folder(folder)).cleanup()
    except OSError as error:
        raise refused_place(error, f"{folder}: cannot make a run here") from None


def read_json(path: Path) -> Any:
    """A run's JSON file. Raises InputError, one line, for one that is missing or broken."""
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
