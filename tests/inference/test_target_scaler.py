"""Scaling of targets, and the fit on the composition."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from phase2hpc.config.properties import ColumnSettings
from phase2hpc.errors import InputError
from phase2hpc.inference.target_scaler import MAX_LABEL, TargetScaler, composition_baseline

NAMES = ("formation_energy", "dielectric", "my_own")


def labels(n: int = 400, seed: int = 0) -> npt.NDArray[np.float64]:
    """Normal, heavy-tailed over decades, and rare labels."""
    rng = np.random.default_rng(seed)
    values = np.column_stack(
        [rng.normal(-2, 3, n), np.exp(rng.normal(2, 1.5, n)), rng.uniform(0, 1e4, n)]
    )
    values[rng.random((n, 3)) > [1.0, 0.4, 0.05]] = np.nan
    return values


def test_training_labels_have_mean_zero_and_deviation_one() -> None:
    y = labels()
    scaler = TargetScaler.fit(NAMES, y)
    scaled = scaler.transform(y)
    np.testing.assert_allclose(np.nanmean(scaled, axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(np.nanstd(scaled, axis=0), 1, atol=1e-12)
    assert np.array_equal(np.isnan(scaled), np.isnan(y))
    np.testing.assert_allclose(scaler.label_fraction, np.isfinite(y).mean(axis=0))
    assert scaler.mean[0] == pytest.approx(np.nanmean(y[:, 0]))


def test_fit_sees_only_what_it_is_given() -> None:
    """Other labels, val's and test's, are transformed by the same numbers."""
    y = labels()
    scaler = TargetScaler.fit(NAMES, y)
    before = scaler.state_dict()
    scaler.transform(labels(seed=1) * 100)
    assert scaler.state_dict() == before
    row = scaler.transform(np.array([[1.0, 10.0, 5.0]]))
    assert row[0, 0] == pytest.approx((1.0 - np.nanmean(y[:, 0])) / np.nanstd(y[:, 0]))


def test_round_trip() -> None:
    y = labels()
    scaler = TargetScaler.fit(NAMES, y)
    np.testing.assert_allclose(scaler.inverse(scaler.transform(y)), y, rtol=1e-10)
    extreme = np.array([[-1e6, MAX_LABEL, -1e30], [0.0, -1e20, 0.0]])
    np.testing.assert_allclose(scaler.inverse(scaler.transform(extreme)), extreme, rtol=1e-9)


def test_round_trip_of_a_label_many_deviations_out() -> None:
    """One giant among thousands of zeros lies 100 of its own standard deviations out."""
    y = np.zeros((10_000, 1))
    y[7] = 1e6
    scaler = TargetScaler.fit(["dielectric"], y)
    scaled = scaler.transform(y)
    assert scaled.max() > 50
    np.testing.assert_allclose(scaler.inverse(scaled), y, rtol=1e-9, atol=1e-6)


def test_asinh_for_heavy_tails_only() -> None:
    scaler = TargetScaler.fit(NAMES, labels())
    assert scaler.asinh_scale[1] > 0 and scaler.asinh_scale[[0, 2]].tolist() == [0.0, 0.0]
    steps = np.diff(scaler.transform(np.array([[1e3, 1e3, 1e3], [1e4] * 3, [1e5] * 3])), axis=0)
    assert steps[1, 1] == pytest.approx(steps[0, 1], rel=1e-3), "a decade is a decade"
    assert steps[1, 0] == pytest.approx(10 * steps[0, 0])
    small = np.diff(scaler.transform(np.array([[0.0, x, 0.0] for x in (0, 0.01, 0.02)])), axis=0)
    assert small[1, 1] == pytest.approx(small[0, 1], rel=1e-2), "linear near zero"


def test_inverse_never_overflows() -> None:
    scaler = TargetScaler.fit(NAMES, labels())
    for scale in (1e3, 1e10, 1e30):
        with np.errstate(over="raise", invalid="raise"):
            out = scaler.inverse(np.array([[scale] * 3, [-scale] * 3]))
        assert np.isfinite(out).all()
        assert out[0, 1] > 0 > out[1, 1] and np.abs(out[:, 1]).max() <= MAX_LABEL * 1.001
    assert np.isnan(scaler.inverse(np.full((1, 3), np.nan))).all()


def test_state_survives_json() -> None:
    scaler = TargetScaler.fit(NAMES, labels())
    again = TargetScaler.from_state_dict(json.loads(json.dumps(scaler.state_dict())))
    assert again.properties == NAMES
    assert again.state_dict() == scaler.state_dict()
    y = labels(seed=2)
    assert np.array_equal(again.transform(y), scaler.transform(y), equal_nan=True)


@pytest.mark.parametrize("name", ["band_gap", "dielectric"])
@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e8])
@pytest.mark.parametrize("count", [1, 3, 1000])
def test_constant_labels(name: str, value: float, count: int) -> None:
    """The mean of equal numbers may be off by rounding: that is no scale to divide by."""
    y = np.full((count + 1, 1), value)
    y[-1] = np.nan
    scaler = TargetScaler.fit([name], y)
    assert scaler.std[0] == 1.0
    scaled = scaler.transform(np.array([[value], [value + 1.0]]))
    assert abs(scaled[0, 0]) < 1e-6 and abs(scaled[1, 0]) <= 20
    assert scaler.inverse(scaled)[0, 0] == pytest.approx(value)


def columns(**settings: str | float) -> dict[str, ColumnSettings]:
    return {"own": ColumnSettings.model_validate(settings)}


def test_a_log_scale() -> None:
    y = np.geomspace(1e-3, 1e5, 50)[:, None]
    scaler = TargetScaler.fit(["own"], y, columns(scale="log", lower_bound=0.5, unit="GPa"))
    steps = np.diff(scaler.transform(y), axis=0)
    np.testing.assert_allclose(steps, np.full_like(steps, steps[0, 0]), rtol=1e-9)
    np.testing.assert_allclose(scaler.inverse(scaler.transform(y)), y, rtol=1e-9)
    assert scaler.physical(np.array([[-50.0]]))[0, 0] == 0.5
    with np.errstate(over="raise", invalid="raise"):
        assert np.isfinite(scaler.inverse(np.array([[1e30], [-1e30]]))).all()
    assert scaler.units == {"own": "GPa"} and scaler.scales == {"own": "log"}
    again = TargetScaler.from_state_dict(json.loads(json.dumps(scaler.state_dict())))
    assert again.state_dict() == scaler.state_dict()


@pytest.mark.parametrize(
    ("draw", "scale"),
    [
        (lambda rng: rng.normal(size=4000), "linear"),
        (lambda rng: rng.exponential(size=4000) ** 0.5, "linear"),
        (lambda rng: np.exp(2 * rng.normal(size=4000)), "log"),
        (
            lambda rng: np.where(rng.random(4000) < 0.5, 0.0, np.exp(2 * rng.normal(size=4000))),
            "asinh",
        ),
        (lambda rng: np.full(10, 3.0), "linear"),
    ],
)
def test_the_automatic_scale_follows_the_skew(
    draw: Callable[[np.random.Generator], npt.NDArray[np.float64]], scale: str
) -> None:
    y = draw(np.random.default_rng(0))[:, None]
    assert TargetScaler.fit(["own"], y, columns(scale="auto")).scales == {"own": scale}


def test_auxiliary_properties_are_not_reported() -> None:
    scaler = TargetScaler.fit(NAMES, labels(), auxiliary=1)
    assert scaler.reported == NAMES[:2]
    assert scaler.physical(np.zeros((4, 3))).shape == (4, 2)
    assert TargetScaler.from_state_dict(scaler.state_dict()).reported == NAMES[:2]


def test_a_state_of_an_earlier_version() -> None:
    state = TargetScaler.fit(["band_gap", "dielectric"], labels()[:, :2]).state_dict()
    old = {k: state[k] for k in ("properties", "mean", "std", "asinh_scale", "label_fraction")}
    assert TargetScaler.from_state_dict(old).state_dict() == state
    for broken in ({"log": [True]}, {"units": None}, {"lower_bound": [0.0] * 3}):
        with pytest.raises(ValueError, match="not lists by property"):
            TargetScaler.from_state_dict({**state, **broken})


def test_property_without_a_label_is_named() -> None:
    y = labels()
    y[:, 1:] = np.nan
    with pytest.raises(InputError, match="dielectric, my_own") as error:
        TargetScaler.fit(NAMES, y)
    assert "\n" not in str(error.value) and "formation_energy" not in str(error.value)


def compositions(n: int, elements: int, seed: int) -> npt.NDArray[np.float64]:
    counts = np.random.default_rng(seed).integers(0, 4, (n, elements)).astype(float)
    counts[:, 0] += 1
    return counts / counts.sum(axis=1, keepdims=True)


def test_composition_baseline_finds_known_linear_data() -> None:
    rng = np.random.default_rng(0)
    x = compositions(3000, 6, 0)
    truth = rng.normal(size=(6, 2))
    y = x @ truth
    y[rng.random(len(y)) > 0.5, 1] = np.nan
    found = composition_baseline(x, y, ridge=1e-6)
    assert isinstance(found, torch.Tensor) and found.shape == (6, 2)
    np.testing.assert_allclose(found.numpy(), truth, atol=1e-5)


def test_composition_baseline_leaves_unseen_elements_at_zero() -> None:
    x = np.hstack([compositions(50, 3, 0), np.zeros((50, 1))])
    found = composition_baseline(x, x[:, :1] * 2.0).numpy()
    assert found[3] == 0 and found[0] > 0.5
    # One label: shrunk by the ridge, not fitted exactly.
    y = np.full((50, 1), np.nan)
    y[0] = 4.0
    single = composition_baseline(x, y).numpy()
    assert np.isfinite(single).all() and 0 < float((x[0] @ single)[0]) < 4.0


@pytest.mark.parametrize("scale", ["linear", "asinh", "log"])
@pytest.mark.parametrize("bound", [0.1, 0.3, 1.0, 1.7])
def test_a_label_at_its_bound_is_found_there(scale: Any, bound: float) -> None:
    """Labels have single precision, in which most bounds have no equal."""
    rng = np.random.default_rng(0)
    values = bound + rng.exponential(size=(50, 1)) * rng.integers(0, 2, size=(50, 1))
    values = values.astype(np.float32).astype(np.float64)
    columns = {"mine": ColumnSettings(lower_bound=bound, scale=scale)}
    for first in range(20):
        scaler = TargetScaler.fit(["mine"], values[first:], columns)
        here = scaler.transform(values)[:, 0] <= scaler.scaled_lower_bound[0]
        assert here.tolist() == (values[:, 0] == np.float32(bound)).tolist()


def test_without_a_bound_nothing_is_at_it() -> None:
    values = np.array([[-1e30, 2.0], [0.0, 3.0], [1.0, 9.0]])
    columns = {"mine": ColumnSettings(lower_bound=0.0, scale="log")}
    scaler = TargetScaler.fit(["other", "mine"], values, columns)
    assert scaler.scaled_lower_bound.tolist() == [-np.inf, -np.inf]
