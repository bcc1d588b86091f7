"""Request of a prediction table: inputs, models and settings, and what its bytes depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils.shard_folder import fingerprints

if TYPE_CHECKING:
    from phase2hpc.inference.predictor import Predictor


@dataclass(frozen=True)
class PredictionRequest:
    """Arguments of ``predict``; picklable, for worker processes.

    inputs: as of ``Predictor.predict_chunks``. runs: paths of run directories. id_prop: read the
    files that a folder's id_prop.csv lists, not all of it.
    """

    inputs: tuple[str, ...]
    runs: tuple[str, ...]
    id_prop: bool
    device: str
    threads: int
    max_atoms: int | None
    interval: float

    def load(self) -> Predictor:
        """The models, in this process."""
        from phase2hpc.inference.predictor import load_predictor

        runs = [RunDirectory(Path(run)) for run in self.runs]
        return load_predictor(runs, self.device, self.threads, self.max_atoms, self.interval)

    def properties(self) -> Sequence[str]:
        """The properties that the models predict."""
        from phase2hpc.inference.trained_model import TrainedModel

        return TrainedModel.load(RunDirectory(Path(self.runs[0])).weights).scaler.reported

    def made_from(self) -> dict[str, Any]:
        """Everything that the table depends on, as JSON values."""
        return {
            "inputs": fingerprints(self.inputs),
            "models": [file_hashes(RunDirectory(Path(run))) for run in self.runs],
            "id_prop": self.id_prop,
            "device": self.device,
            "threads": self.threads,
            "max_atoms": self.max_atoms,
            "interval": self.interval,
        }


def file_hashes(run: RunDirectory) -> Sequence[str]:
    """SHA-256 of a model's weights and of its calibration, "" where it has none."""
    files = (run.weights, run.calibration)
    return [
        hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else "" for file in files
    ]
