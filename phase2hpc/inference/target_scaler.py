"""Target scaler: labels on a common scale, fitted on training labels and saved with the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from phase2hpc.config.properties import ColumnSettings, Scale, default_settings
from phase2hpc.data.graph_arrays import MAX_LABEL
from phase2hpc.errors import InputError

# On an asinh scale a property is learned as asinh(y / s), with s this share of its mean magnitude:
# linear for small values, logarithmic for large ones.
ASINH_SHARE = 0.1
# Labels whose standard deviation is below this fraction of their mean are constant up to rounding.
CONSTANT = 1e-9
# "auto" chooses a linear scale for labels of at most this skewness (normal distribution: 0,
# exponential: 2).
MAX_LINEAR_SKEW = 2.0


class TargetScaler:
    """y -> (f(y) - mean) / std by property, with f the identity, the logarithm or asinh(y / s).

    All arrays are (P,) in the order of ``properties``. asinh_scale: s, 0 where f is another.
    log: whether f is the logarithm. label_fraction: the share of training crystals that carry the
    label. lower_bound: in physical units, -inf for none. auxiliary: how many properties at the end
    are trained but not reported. ``units`` are those of the labels.
    """

    def __init__(
        self,
        properties: Sequence[str],
        mean: npt.NDArray[np.float64],
        std: npt.NDArray[np.float64],
        asinh_scale: npt.NDArray[np.float64],
        label_fraction: npt.NDArray[np.float64],
        *,
        log: npt.NDArray[np.bool_] | None = None,
        columns: Mapping[str, ColumnSettings] | None = None,
        auxiliary: int = 0,
    ) -> None:
        self.properties = tuple(properties)
        self.mean, self.std, self.asinh_scale = mean, std, asinh_scale
        self.label_fraction = label_fraction
        self.log = np.zeros(len(self.properties), dtype=bool) if log is None else log
        settings = {
            name: (columns or {}).get(name, ColumnSettings()).over(default_settings(name))
            for name in self.properties
        }
        self.lower_bound = np.array(
            [-np.inf if (b := c.lower_bound) is None else b for c in settings.values()]
        )
        self.units = {name: column.unit or "" for name, column in settings.items()}
        self.auxiliary = auxiliary

    @property
    def reported(self) -> tuple[str, ...]:
        """Properties that are scored and predicted: all but the auxiliary ones."""
        return self.properties[: len(self.properties) - self.auxiliary]

    def of_reported(self) -> TargetScaler:
        """The scaler of the reported properties alone."""
        count = len(self.reported)
        arrays = (self.mean, self.std, self.asinh_scale, self.label_fraction)
        scaler = TargetScaler(
            self.reported, *(array[:count] for array in arrays), log=self.log[:count]
        )
        scaler.lower_bound = self.lower_bound[:count]
        scaler.units = {name: self.units[name] for name in self.reported}
        return scaler

    @property
    def scales(self) -> dict[str, Scale]:
        """The scale on which each property is learned."""
        curved = np.where(self.log, "log", np.where(self.asinh_scale > 0, "asinh", "linear"))
        return dict(zip(self.properties, curved.tolist(), strict=True))

    @classmethod
    def fit(
        cls,
        properties: Sequence[str],
        labels: npt.NDArray[np.floating],
        columns: Mapping[str, ColumnSettings] | None = None,
        *,
        auxiliary: int = 0,
    ) -> TargetScaler:
        """Fit on training labels (n, P), NaN where missing.

        columns: settings by property that differ from the default ones; labels on a log scale are
        positive. Raises InputError naming the properties without a single label.
        """
        labels = np.asarray(labels, dtype=np.float64)
        counts = np.isfinite(labels).sum(axis=0)
        empty = [name for name, n in zip(properties, counts, strict=True) if n == 0]
        if empty:
            raise InputError(
                f"no training crystal has a label for {', '.join(empty)}: leave it out of "
                "--properties, or prepare a store that has it"
            )
        scales = [
            _scale_of(name, (columns or {}).get(name, ColumnSettings()), labels[:, p])
            for p, name in enumerate(properties)
        ]
        curved = np.array([scale == "asinh" for scale in scales])
        # Zero: not scaled by asinh.
        asinh_scale = np.where(curved, ASINH_SHARE * np.nanmean(np.abs(labels), axis=0), 0.0)
        scaler = cls(
            properties,
            np.zeros(len(counts)),
            np.ones(len(counts)),
            asinh_scale,
            counts / len(labels),
            log=np.array([scale == "log" for scale in scales]),
            columns=columns,
            auxiliary=auxiliary,
        )
        transformed = scaler._bend(labels)
        mean, std = np.nanmean(transformed, axis=0), np.nanstd(transformed, axis=0)
        scaler.mean, scaler.std = mean, np.where(std > CONSTANT * np.abs(mean), std, 1.0)
        return scaler

    def to_scale_of(self, other: TargetScaler, name: str) -> tuple[float, float]:
        """(factor, offset): scaled values here times factor plus offset are scaled values there.

        The property is on the same kind of scale in both. Of an asinh scale only about: its s
        differs too.
        """
        here, there = self.properties.index(name), other.properties.index(name)
        factor = self.std[here] / other.std[there]
        offset = (self.mean[here] - other.mean[there]) / other.std[there]
        return float(factor), float(offset)

    def transform(self, labels: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Physical units -> scaled, (n, P); NaN for NaN, and for values <= 0 on a log scale."""
        return (self._bend(np.asarray(labels, dtype=np.float64)) - self.mean) / self.std

    def inverse(self, scaled: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Scaled -> physical units, (n, P); on a curved scale at most MAX_LABEL in size."""
        bent = np.asarray(scaled, dtype=np.float64) * self.std + self.mean
        curved = self.asinh_scale > 0
        limit = self._bend(np.where(curved | self.log, MAX_LABEL, np.inf))
        bent = np.clip(bent, -limit, limit)
        values = np.where(curved, np.sinh(np.where(curved, bent, 0.0)) * self.asinh_scale, bent)
        return np.where(self.log, np.exp(np.where(self.log, bent, 0.0)), values)

    def physical(self, scaled: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Predictions of the reported properties from scaled ones of all: (n, P) -> (n, R) in
        physical units, clipped to their lower bounds (a gap is not negative)."""
        return self.physical_of_all(scaled)[:, : len(self.reported)]

    def physical_of_all(self, scaled: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """As ``physical``, with auxiliary properties: (n, P) -> (n, P)."""
        values: npt.NDArray[np.float64] = np.maximum(self.inverse(scaled), self.lower_bound)
        return values

    @property
    def scaled_lower_bound(self) -> npt.NDArray[np.float64]:
        """(P,) lower bounds on the common scale; -inf for none, and for zero on a log scale."""
        # Rounded as labels are: one that is at its bound must be found there.
        bound = self.transform(self.lower_bound[None].astype(np.float32))[0]
        return np.where(np.isnan(bound), -np.inf, bound)

    def _bend(self, labels: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        curved = self.asinh_scale > 0
        bent = np.where(
            curved, np.arcsinh(labels / np.where(curved, self.asinh_scale, 1.0)), labels
        )
        if not self.log.any():
            return bent
        positive = np.where(self.log & (labels > 0), labels, np.nan)
        return np.where(self.log, np.log(positive), bent)

    def state_dict(self) -> dict[str, Any]:
        """Plain lists and names, to save with a model."""
        state: dict[str, Any] = {
            "properties": list(self.properties),
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "asinh_scale": self.asinh_scale.tolist(),
            "label_fraction": self.label_fraction.tolist(),
            "log": self.log.tolist(),
            "lower_bound": [None if np.isinf(b) else b for b in self.lower_bound.tolist()],
            "units": [self.units[name] for name in self.properties],
            "auxiliary": self.auxiliary,
        }
        return state

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> TargetScaler:
        """The scaler that ``state_dict`` came from, of any version."""
        names = state["properties"]
        arrays = (np.array(state[k]) for k in ("mean", "std", "asinh_scale", "label_fraction"))
        scaler = cls(names, *arrays, auxiliary=int(state.get("auxiliary", 0)))
        if "log" in state:
            further: list[Any] = [state.get(key) for key in ("log", "lower_bound", "units")]
            if any(not isinstance(v, list) or len(v) != len(names) for v in further):
                raise ValueError("log, lower_bound and units are not lists by property")
            scaler.log = np.array(further[0], dtype=bool)
            bounds = [-np.inf if bound is None else bound for bound in further[1]]
            scaler.lower_bound = np.array(bounds, dtype=np.float64)
            scaler.units = dict(zip(names, further[2], strict=True))
        return scaler


def _scale_of(name: str, given: ColumnSettings, labels: npt.NDArray[np.floating]) -> Scale:
    """The scale of a property: as given, by the skew of its labels (n,), or the default one."""
    scale: Scale = given.over(default_settings(name)).scale or "linear"
    known = labels[np.isfinite(labels)]
    return _automatic(known) if scale == "auto" else scale


def _automatic(labels: npt.NDArray[np.floating]) -> Scale:
    """Linear for labels that are not skewed, else the scale with the least skewness."""
    skews: dict[Scale, float] = {"linear": abs(_skew(labels))}
    if skews["linear"] <= MAX_LINEAR_SKEW:
        return "linear"
    magnitude = ASINH_SHARE * float(np.abs(labels).mean())
    skews["asinh"] = abs(_skew(np.arcsinh(labels / magnitude)))
    if (labels > 0).all():
        skews["log"] = abs(_skew(np.log(labels)))
    return min(skews, key=lambda scale: skews[scale])


def _skew(labels: npt.NDArray[np.floating]) -> float:
    """Third standardised moment, 0 for a constant."""
    centred = labels - labels.mean()
    spread = float(centred.std())
    return float(np.mean((centred / spread) ** 3)) if spread > 0 else 0.0


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
