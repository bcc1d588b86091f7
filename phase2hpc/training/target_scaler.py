"""Targets on a common scale, fitted on training labels only and saved with the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from phase2hpc.config.properties import PROPERTIES
from phase2hpc.data.graph_arrays import MAX_LABEL
from phase2hpc.errors import InputError

# A heavy-tailed property is learned as asinh(y / s), with s this share of its mean magnitude:
# linear for small values, logarithmic for large ones.
ASINH_SHARE = 0.1
# Labels whose scatter is below this share of their size are one constant, give or take rounding.
CONSTANT = 1e-9


class TargetScaler:
    """y -> (f(y) - mean) / std by property, with f the identity or asinh(y / s).

    All arrays are (P,) in the order of ``properties``; ``label_fraction`` is the share of
    training crystals that carry the label.
    """

    def __init__(
        self,
        properties: Sequence[str],
        mean: npt.NDArray[np.float64],
        std: npt.NDArray[np.float64],
        asinh_scale: npt.NDArray[np.float64],
        label_fraction: npt.NDArray[np.float64],
    ) -> None:
        self.properties = tuple(properties)
        self.mean, self.std, self.asinh_scale = mean, std, asinh_scale
        self.label_fraction = label_fraction

    @classmethod
    def fit(cls, properties: Sequence[str], labels: npt.NDArray[np.floating]) -> TargetScaler:
        """Fit on training labels (n, P), NaN where missing.

        Raises InputError naming the properties without a single label.
        """
        labels = np.asarray(labels, dtype=np.float64)
        counts = np.isfinite(labels).sum(axis=0)
        empty = [name for name, n in zip(properties, counts, strict=True) if n == 0]
        if empty:
            raise InputError(
                f"no training crystal has a label for {', '.join(empty)}: leave it out of "
                "--properties, or prepare a store that has it"
            )
        heavy = np.array(
            [name in PROPERTIES and PROPERTIES[name].heavy_tailed for name in properties]
        )
        # Zero: not scaled by asinh.
        asinh_scale = np.where(heavy, ASINH_SHARE * np.nanmean(np.abs(labels), axis=0), 0.0)
        scaler = cls(
            properties,
            np.zeros(len(counts)),
            np.ones(len(counts)),
            asinh_scale,
            counts / len(labels),
        )
        transformed = scaler._bend(labels)
        mean, std = np.nanmean(transformed, axis=0), np.nanstd(transformed, axis=0)
        scaler.mean, scaler.std = mean, np.where(std > CONSTANT * np.abs(mean), std, 1.0)
        return scaler

    def transform(self, labels: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Physical units -> scaled, (n, P); NaN stays NaN."""
        return (self._bend(np.asarray(labels, dtype=np.float64)) - self.mean) / self.std

    def inverse(self, scaled: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Scaled -> physical units, (n, P); on an asinh scale at most MAX_LABEL in size."""
        bent = np.asarray(scaled, dtype=np.float64) * self.std + self.mean
        curved = self.asinh_scale > 0
        limit = self._bend(np.where(curved, MAX_LABEL, np.inf))
        bent = np.clip(bent, -limit, limit)
        return np.where(curved, np.sinh(np.where(curved, bent, 0.0)) * self.asinh_scale, bent)

    def _bend(self, labels: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        curved = self.asinh_scale > 0
        return np.where(
            curved, np.arcsinh(labels / np.where(curved, self.asinh_scale, 1.0)), labels
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain lists and names, to save with a model."""
        return {
            "properties": list(self.properties),
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "asinh_scale": self.asinh_scale.tolist(),
            "label_fraction": self.label_fraction.tolist(),
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> TargetScaler:
        """The scaler that ``state_dict`` came from."""
        arrays = (np.array(state[k]) for k in ("mean", "std", "asinh_scale", "label_fraction"))
        return cls(state["properties"], *arrays)


def composition_baseline(
    composition: npt.NDArray[np.float64], scaled: npt.NDArray[np.float64], ridge: float = 1.0
) -> Tensor:
    """Ridge fit of scaled labels (n, P), NaN where missing, on atomic fractions (n, Z): (Z, P)."""
    weights = np.zeros((composition.shape[1], scaled.shape[1]))
    penalty = ridge * np.eye(composition.shape[1])
    for p in range(scaled.shape[1]):
        labelled = np.isfinite(scaled[:, p])
        x = composition[labelled]
        weights[:, p] = np.linalg.solve(x.T @ x + penalty, x.T @ scaled[labelled, p])
    return torch.from_numpy(weights)
