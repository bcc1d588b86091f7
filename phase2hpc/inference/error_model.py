"""Error scale of a property as a function of the crystal, fitted on validation errors.

The scale is log-linear in a few features of a crystal, fitted by maximum likelihood of a Laplace
distribution with a ridge penalty. Quantiles of the normalised errors turn it into sigma and into
intervals of a given coverage: normalised split conformal prediction (Papadopoulos et al., ECML
2002; Lei et al., JASA 113, 1094 (2018), section 5.2), with quantiles by size of the scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# Fewer validation labels give no error model.
MIN_LABELS = 10
# Normalised errors are ranked by size of the scale, in parts of at least MIN_PART labels.
MIN_PART, MAX_PARTS = 150, 5
FOLDS = 10
RIDGE = 3.0
# Share of errors within sigma: that of a normal distribution within one standard deviation.
SIGMA_COVERAGE = math.erf(math.sqrt(0.5))
# In standard deviations of the training labels: smaller errors are equal.
SMALLEST = 1e-4
_MAX_ITERATIONS = 50


@dataclass(frozen=True)
class ErrorModel:
    """Scale s = exp(w0 + w x) of the absolute error, and quantiles of the normalised error.

    weights: (1 + F,). lowest, highest: (F,) range of the features in validation, to which they are
    clipped. centers: (B,) logarithm of the scale in the middle of each part of the validation
    crystals, ascending; scores: sorted normalised errors of each part.
    """

    weights: Array
    lowest: Array
    highest: Array
    centers: Array
    scores: tuple[Array, ...]

    @classmethod
    def fit(
        cls, features: Array, errors: Array, growing: npt.NDArray[np.bool_]
    ) -> ErrorModel | None:
        """Fit to features (n, F) and absolute errors (n,); None for too few of them.

        growing: (F,) features with which the scale may only grow. Each normalised error is that of
        a fit to the other nine tenths of the crystals.
        """
        n = len(errors)
        if n < MIN_LABELS:
            return None
        lowest, highest = features.min(axis=0), features.max(axis=0)
        # A crystal beyond all of validation has up to twice the feature's effect.
        highest = np.where(growing, highest + math.log(2.0), highest)
        log_scale = np.empty(n)
        fold = np.arange(n) % FOLDS
        for number in range(FOLDS):
            out = fold == number
            weights = _fit_weights(features[~out], errors[~out], growing)
            log_scale[out] = weights[0] + features[out] @ weights[1:]
        scores = errors / np.exp(log_scale)
        parts = np.array_split(
            np.argsort(log_scale, kind="stable"), min(max(n // MIN_PART, 1), MAX_PARTS)
        )
        return cls(
            _fit_weights(features, errors, growing),
            lowest,
            highest,
            np.array([np.median(log_scale[part]) for part in parts]),
            tuple(np.sort(scores[part]) for part in parts),
        )

    def half_width(self, features: Array, coverage: float) -> Array:
        """Half-widths (n,) of intervals that cover this share of crystals like the validation's.

        Infinite where validation has too few labels for such a coverage.
        """
        clipped = np.clip(features, self.lowest, self.highest)
        log_scale = self.weights[0] + clipped @ self.weights[1:]
        quantiles = np.array([_conformal_quantile(part, coverage) for part in self.scores])
        if not np.isfinite(quantiles).all():
            return np.full(len(features), np.inf)
        width: Array = np.exp(log_scale) * np.interp(log_scale, self.centers, quantiles)
        return np.maximum(width, SMALLEST)


def _conformal_quantile(scores: Array, coverage: float) -> float:
    """The score that a new one stays below with at least this probability."""
    rank = math.ceil((len(scores) + 1) * coverage)
    return float(scores[rank - 1]) if rank <= len(scores) else math.inf


def _fit_weights(features: Array, errors: Array, growing: npt.NDArray[np.bool_]) -> Array:
    """Weights (1 + F,) by Newton's method; the objective is convex.

    A feature of ``growing`` with a negative weight is left out.
    """
    mean, spread = features.mean(axis=0), features.std(axis=0)
    varies = spread > 1e-9 * (1.0 + np.abs(mean))
    spread = np.where(varies, spread, 1.0)
    inputs = np.column_stack([np.ones(len(features)), (features - mean) / spread])
    errors = np.maximum(errors, SMALLEST)
    used = np.concatenate([[True], varies])
    while True:
        weights = np.zeros(inputs.shape[1])
        weights[used] = _newton(inputs[:, used], errors)
        shrinking = np.concatenate([[False], growing]) & (weights < 0)
        if not shrinking.any():
            break
        used &= ~shrinking
    slopes = weights[1:] / spread
    return np.concatenate([[weights[0] - slopes @ mean], slopes])


def _newton(inputs: Array, errors: Array) -> Array:
    """Minimum of sum(e / s + log s) + RIDGE / 2 |w|^2 with s = exp(inputs w), w0 unpenalised."""
    penalty = RIDGE * np.eye(inputs.shape[1])
    penalty[0, 0] = 0.0
    log_errors = np.log(errors)

    def objective(w: Array) -> float:
        log_scale = inputs @ w
        # Infinite far from the minimum, where a step is halved.
        with np.errstate(over="ignore"):
            sizes = np.exp(log_errors - log_scale).sum()
        return float(sizes + log_scale.sum() + w @ penalty @ w / 2)

    weights = np.zeros(inputs.shape[1])
    weights[0] = math.log(errors.mean())
    value = objective(weights)
    for _ in range(_MAX_ITERATIONS):
        ratio = np.exp(log_errors - inputs @ weights)
        gradient = inputs.T @ (1.0 - ratio) + penalty @ weights
        hessian = (inputs * ratio[:, None]).T @ inputs + penalty
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while (new := objective(weights - size * step)) > value and size > 1e-6:
            size /= 2
        if value - new < 1e-9 * (1.0 + abs(value)):
            break
        weights, value = weights - size * step, new
    return weights
