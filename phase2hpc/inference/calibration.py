"""Calibration of a trained model: what it was trained on, and its errors in validation.

One safetensors file beside best.pt. Error models and intervals are derived from it when a model is
loaded, in the same way for one model and for an ensemble.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from phase2hpc.errors import InputError
from phase2hpc.inference.batched import Outputs
from phase2hpc.inference.training_embedding import TrainingEmbedding
from phase2hpc.utils.atomic_io import write_atomically
from phase2hpc.utils.error_text import first_line
from phase2hpc.utils.tensor_file import metadata_of, read_tensor_file

KIND = "calibration"
VERSION = 1

Array = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Calibration:
    """Statistics of training and validation crystals under one model.

    weights_hash: of the model (``TrainedModel.weights_hash``). validation: name of the crystals in
    validation; equal for models that can be calibrated as an ensemble. scaled: (n, R) their
    scaled predictions of the reported properties, targets: (n, R) labels in physical units, NaN
    where missing or where symmetry decides; distance: (n,) to the training crystals.
    max_atoms: in the cell of a training crystal.
    """

    weights_hash: str
    validation: str
    properties: tuple[str, ...]
    embedding: TrainingEmbedding
    scaled: Array
    targets: Array
    distance: Array
    max_atoms: int

    @classmethod
    def fit(
        cls,
        *,
        weights_hash: str,
        validation: str,
        properties: tuple[str, ...],
        training_vectors: Array,
        outputs: Outputs,
        targets: Array,
        max_atoms: int,
    ) -> Calibration:
        """From the vectors of training crystals, and outputs and labels of validation crystals."""
        embedding = TrainingEmbedding.fit(training_vectors)
        count = len(properties)
        return cls(
            weights_hash,
            validation,
            properties,
            embedding,
            outputs.scaled[:, :count].astype(np.float32),
            np.where(outputs.zero[:, :count], np.nan, targets).astype(np.float32),
            embedding.distance(outputs.vectors).astype(np.float32),
            max_atoms,
        )

    def save(self, path: Path) -> None:
        """Write the file; OSError where it cannot be written."""
        from safetensors.numpy import save

        tensors = {
            "embedding.center": self.embedding.center,
            "embedding.projection": self.embedding.projection,
            "embedding.crystals": self.embedding.crystals,
            "validation.scaled": self.scaled,
            "validation.targets": self.targets,
            "validation.distance": self.distance,
        }
        metadata = metadata_of(
            KIND,
            version=VERSION,
            weights=self.weights_hash,
            validation=self.validation,
            properties=list(self.properties),
            limit=self.embedding.limit,
            max_atoms=self.max_atoms,
        )
        contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        write_atomically(path, save(contiguous, metadata))

    @classmethod
    def load(cls, path: Path) -> Calibration | None:
        """Read the file; None where there is none. Raises InputError where it is not valid."""
        try:
            tensors, metadata = read_tensor_file(path, KIND)
        except FileNotFoundError:
            return None
        try:
            return cls._checked(tensors, metadata)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: not a calibration of this version ({first_line(error)}): make it again "
                "by phase2hpc calibrate, or remove it"
            ) from None

    @classmethod
    def _checked(cls, tensors: Mapping[str, Any], metadata: Mapping[str, Any]) -> Calibration:
        if metadata["version"] != VERSION:
            raise ValueError(f"version {metadata['version']}")
        properties = tuple(map(str, metadata["properties"]))
        center, projection, crystals = (
            tensors[f"embedding.{name}"] for name in ("center", "projection", "crystals")
        )
        scaled, targets, distance = (
            tensors[f"validation.{name}"] for name in ("scaled", "targets", "distance")
        )
        components, n = projection.shape[1], len(distance)
        shapes = [
            (center, (len(center),)), (projection, (len(center), components)),
            (crystals, (len(crystals), components)), (distance, (n,)),
            (scaled, (n, len(properties))), (targets, (n, len(properties))),
        ]  # fmt: skip
        for array, shape in shapes:
            if array.shape != shape or array.dtype.kind != "f":
                raise ValueError(f"a tensor of shape {array.shape} where {shape} is expected")
        return cls(
            str(metadata["weights"]),
            str(metadata["validation"]),
            properties,
            TrainingEmbedding(center, projection, crystals, float(metadata["limit"])),
            scaled,
            targets,
            distance,
            int(metadata["max_atoms"]),
        )
