"""Training crystals in the space of crystal vectors, and the distance of a crystal to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[np.floating]

# Principal components kept: as good a measure of error as all of them (benchmarks/RESULTS.md).
MAX_COMPONENTS = 16
NEIGHBORS = 5
# Training crystals kept, and those of them whose own distances are measured.
MAX_CRYSTALS = 16_384
MAX_MEASURED = 4_096
# A crystal further away than all but this share of the training crystals is outside.
INSIDE = 0.99
_CHUNK = 512


@dataclass(frozen=True)
class TrainingEmbedding:
    """Principal components of the standardised crystal vectors of training crystals.

    center: (F,), projection: (F, C): components = (vector - center) @ projection. crystals:
    (n, C). limit: quantile INSIDE of the distances of training crystals to the others; 0 where
    there is none, since they are fewer than two or all alike.
    """

    center: Array
    projection: Array
    crystals: Array
    limit: float

    @classmethod
    def fit(cls, vectors: Array) -> TrainingEmbedding:
        """From the vectors (n, F) of training crystals, n at least 1."""
        exact = vectors.astype(np.float64)
        center, spread = exact.mean(axis=0), exact.std(axis=0)
        spread[spread < 1e-6 * (spread.max() or 1.0)] = np.inf
        standard = (exact - center) / spread
        values, directions = np.linalg.eigh(standard.T @ standard)
        count = min(MAX_COMPONENTS, len(values))
        projection = directions[:, np.argsort(values)[::-1][:count]] / spread[:, None]
        # Half precision: the numbers are of order one.
        crystals = ((exact - center) @ projection).astype(np.float16)
        measured = np.arange(0, len(crystals), -(-len(crystals) // MAX_MEASURED))
        distances = _distances(crystals[measured], crystals, NEIGHBORS + 1, skip_nearest=True)
        return cls(
            center.astype(np.float32),
            projection.astype(np.float32),
            crystals,
            float(np.quantile(distances, INSIDE)) if len(crystals) > 1 else 0.0,
        )

    def distance(self, vectors: Array) -> npt.NDArray[np.float64]:
        """Mean distance (m,) of crystals to their NEIGHBORS nearest training crystals."""
        projected = (vectors.astype(np.float32) - self.center) @ self.projection
        return _distances(projected, self.crystals, NEIGHBORS)

    def remoteness(self, distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Distances over their limit, infinite where there is none: a scale of likeness is then
        not known, and no crystal counts as alike."""
        # Older calibrations have NaN in place of 0.
        return distance / self.limit if self.limit > 0.0 else np.full_like(distance, np.inf)


def _distances(
    points: Array, others: Array, neighbors: int, *, skip_nearest: bool = False
) -> npt.NDArray[np.float64]:
    """Mean distance to the nearest others; ``skip_nearest``: each point is among the others."""
    there = torch.from_numpy(others.astype(np.float32))
    out = [np.empty(0)]
    for begin in range(0, len(points), _CHUNK):
        here = torch.from_numpy(points[begin : begin + _CHUNK].astype(np.float32))
        # By matrix products the distance of near points would be rounding errors.
        table = torch.cdist(here, there, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = table.topk(min(neighbors, len(there)), dim=1, largest=False).values
        if skip_nearest:
            nearest = nearest[:, 1:]
        out.append(nearest.mean(dim=1).to(torch.float64).numpy())
    return np.concatenate(out)
