"""Sigma and intervals of predictions, by the errors of the same models in validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phase2hpc.inference.batched import Outputs
from phase2hpc.inference.calibration import Calibration
from phase2hpc.inference.coverage import DEFAULT_COVERAGE
from phase2hpc.inference.error_model import SIGMA_COVERAGE, ErrorModel
from phase2hpc.inference.target_scaler import TargetScaler

Array = npt.NDArray[np.float64]

# Knots of the scaled prediction, as quantiles of those in validation: the error of a band gap of
# zero is another than that of a wide one.
KNOTS = (0.01, 0.2, 0.4, 0.6, 0.8, 0.99)
# Added to distances and spreads, which have no logarithm at zero.
TINY = 1e-6


@dataclass(frozen=True)
class Estimate:
    """Uncertainty of n predictions of R properties in physical units, each (n, R).

    sigma: half the width of the interval that covers 68% of crystals; low, high: bounds of the
    interval of the coverage asked for. NaN where validation has too few labels.
    """

    sigma: Array
    low: Array
    high: Array


class ErrorEstimator:
    """Error models of all reported properties of one model or of the mean of several.

    Features of a crystal: the logarithm of its distance to the training crystals, the scaled
    prediction, and for an ensemble the logarithm of the spread among its members.
    """

    def __init__(
        self, scalers: Sequence[TargetScaler], calibrations: Sequence[Calibration]
    ) -> None:
        """Fit to the validation crystals, which are the same for all members."""
        self.scalers = [scaler.of_reported() for scaler in scalers]
        scaled = np.stack([c.scaled.astype(np.float64) for c in calibrations])
        distances = np.stack([c.distance.astype(np.float64) for c in calibrations])
        self.knots = np.quantile(scaled.mean(axis=0), KNOTS, axis=0)
        center, features = self._features(scaled, distances)
        errors = np.abs(center - self.scalers[0].transform(calibrations[0].targets))
        growing = np.zeros(features.shape[2], dtype=bool)
        growing[len(KNOTS) - 1 :] = True
        known = np.isfinite(errors)
        self.models = [
            ErrorModel.fit(features[p][known[:, p]], errors[known[:, p], p], growing)
            for p in range(errors.shape[1])
        ]

    def estimate(
        self, outputs: Sequence[Outputs], distances: Array, coverage: float = DEFAULT_COVERAGE
    ) -> Estimate:
        """Uncertainty of n crystals.

        outputs: of each member; distances: (M, n) to each member's training crystals; coverage: of
        the intervals. What symmetry makes zero is certain.
        """
        scaled = np.stack([found.scaled[:, : len(self.models)] for found in outputs])
        center, features = self._features(scaled, distances)
        sigma, width = (
            np.stack(
                [
                    np.full(len(center), np.nan) if model is None else model.half_width(x, share)
                    for model, x in zip(self.models, features, strict=True)
                ],
                axis=1,
            )
            for share in (SIGMA_COVERAGE, coverage)
        )
        width[np.isinf(width)] = np.nan
        inverse, physical = self.scalers[0].inverse, self.scalers[0].physical
        estimate = Estimate(
            (inverse(center + sigma) - inverse(center - sigma)) / 2,
            physical(center - width),
            physical(center + width),
        )
        zero = outputs[0].zero[:, : len(self.models)]
        for values in (estimate.sigma, estimate.low, estimate.high):
            values[zero] = 0.0
        return estimate

    def _features(self, scaled: Array, distances: Array) -> tuple[Array, Array]:
        """Mean predictions on the first member's scale (n, R), and features (R, n, F)."""
        transform = self.scalers[0].transform
        physical = [s.physical(values) for s, values in zip(self.scalers, scaled, strict=True)]
        center = transform(np.mean(physical, axis=0))
        raw = scaled.mean(axis=0)
        low, high = self.knots[:-1, None], self.knots[1:, None]
        # Piecewise linear: how far the prediction has come between two knots, from 0 to 1.
        columns = list((np.clip(raw, low, high) - low) / np.maximum(high - low, TINY))
        distance = np.log(distances + TINY).mean(axis=0)
        columns.append(np.repeat(distance[:, None], raw.shape[1], axis=1))
        if len(scaled) > 1:
            columns.append(np.log(np.std([transform(p) for p in physical], axis=0, ddof=1) + TINY))
        return center, np.stack(columns, axis=2).transpose(1, 0, 2)
