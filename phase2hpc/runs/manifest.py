"""Manifest of a run: identity, provenance, progress and last recorded state."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from phase2hpc.config.run_config import RunConfig
from phase2hpc.runs import provenance
from phase2hpc.runs.job_request import JobRequest
from phase2hpc.utils.absolute_path import absolute_path
from phase2hpc.utils.container_image import Image, this_image
from phase2hpc.utils.dependencies import installed_versions
from phase2hpc.utils.time_format import utc_now

if TYPE_CHECKING:
    from phase2hpc.runs.run_directory import RunDirectory

SCHEMA_VERSION = 1

# What the run's last process recorded; ``runs.state`` tells what holds now.
RecordedState = Literal["submitted", "running", "stopped", "finished", "failed"]
# Within the range that every local time zone can represent.
Moment = Annotated[
    AwareDatetime,
    Field(ge=datetime(1970, 1, 2, tzinfo=UTC), lt=datetime(9999, 1, 1, tzinfo=UTC)),
]


class Trial(BaseModel):
    """Place of a run in a search for settings, and the settings chosen for it; none before it
    starts."""

    model_config = ConfigDict(extra="allow", frozen=True, defer_build=True)

    number: int = Field(ge=0)
    settings: dict[str, int | float | str] = {}


class Manifest(BaseModel):
    """Manifest of a run, as in manifest.json.

    Unknown keys are kept, so that an older phase2hpc does not drop what a newer one wrote.
    """

    model_config = ConfigDict(extra="allow", validate_assignment=True, defer_build=True)

    schema_version: int = SCHEMA_VERSION
    run_id: str
    algorithm: str
    level: str
    properties: list[str]
    state: RecordedState = "running"
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
    training_crystals: int | None = None
    # Crystals of the splits val and test, with labels or without.
    val_crystals: int | None = None
    test_crystals: int | None = None
    parameters: int | None = None
    device: str | None = None
    processes: int = 1
    job_ids: list[str] = []
    # Slurm's name of the jobs' cluster; '' for the one of the machine that submits.
    cluster: str = ""
    # Jobs that the newest one was submitted to start after.
    after: list[str] = []
    # Where the newest job's scripts and logs are, from the run directory.
    job_folder: str | None = None
    submission: JobRequest | None = None
    ensemble: str | None = None
    ensemble_member: str | None = None
    ensemble_size: int | None = None
    # None: the run is none of a search for settings.
    trial: Trial | None = None
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
            store=str(absolute_path(store)),
            store_hash=store_hash,
        )
