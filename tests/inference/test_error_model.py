"""Error models: the scale of errors is learned, and intervals cover what they say."""

from __future__ import annotations

import numpy as np
import pytest

from phase2hpc.inference.error_model import MIN_LABELS, SIGMA_COVERAGE, SMALLEST, ErrorModel


def drawn(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and errors whose scale is exp(1 + 2 x0); x1 says nothing."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 2))
    return features, np.abs(rng.normal(size=n)) * np.exp(1.0 + 2.0 * features[:, 0])


GROWING = np.array([True, False])


@pytest.mark.parametrize("coverage", [0.5, SIGMA_COVERAGE, 0.9, 0.95])
def test_new_crystals_are_covered(coverage) -> None:
    model = ErrorModel.fit(*drawn(1500, 1), GROWING)
    assert model is not None
    features, errors = drawn(20_000, 2)
    inside = errors <= model.half_width(features, coverage)
    # Standard error of a share among the 1,500.
    assert abs(inside.mean() - coverage) < 3 * np.sqrt(coverage * (1 - coverage) / 1500)
    for part in np.array_split(np.argsort(features[:, 0]), 4):
        assert abs(inside[part].mean() - coverage) < 0.06


def test_the_scale_is_learned() -> None:
    model = ErrorModel.fit(*drawn(1500, 1), GROWING)
    assert model is not None
    assert model.weights[1] == pytest.approx(2.0, abs=0.1) and abs(model.weights[2]) < 0.1
    sigma = model.half_width(np.array([[0.0, 0.0], [1.0, 0.0]]), SIGMA_COVERAGE)
    assert sigma == pytest.approx(np.exp([1.0, 3.0]), rel=0.15)


def test_errors_never_shrink_with_a_growing_feature() -> None:
    features, errors = drawn(500, 3)
    features[:, 0] *= -1
    model = ErrorModel.fit(features, errors, GROWING)
    assert model is not None and model.weights[1] == 0.0
    free = ErrorModel.fit(features, errors, ~GROWING)
    assert free is not None and free.weights[1] < -1.5


def test_beyond_validation_the_width_is_bounded() -> None:
    features, errors = drawn(500, 4)
    model = ErrorModel.fit(features, errors, GROWING)
    assert model is not None
    highest = features[:, 0].max()
    widths = model.half_width(np.array([[highest, 0.0], [highest + 0.3, 0.0], [99.0, 0.0]]), 0.9)
    assert widths[0] < widths[1] < widths[2] <= 1.01 * 2 ** model.weights[1] * widths[0]


def test_two_kinds_of_crystals_have_two_scales() -> None:
    """Metals, whose gap of zero is nearly always predicted, and insulators."""
    rng = np.random.default_rng(5)
    insulator = rng.random(3000) < 0.4
    errors = np.abs(rng.laplace(size=3000)) * np.where(insulator, 0.5, 0.001)
    errors[~insulator & (rng.random(3000) < 0.5)] = 0.0
    model = ErrorModel.fit(insulator[:1500, None] * 1.0, errors[:1500], np.array([False]))
    assert model is not None
    width = model.half_width(insulator[1500:, None] * 1.0, 0.9)
    inside = errors[1500:] <= width
    for kind in (insulator[1500:], ~insulator[1500:]):
        assert 0.85 < inside[kind].mean() < 0.95
    assert width[insulator[1500:]].min() > 50 * width[~insulator[1500:]].max()


def test_too_few_labels() -> None:
    features, errors = drawn(MIN_LABELS, 6)
    assert ErrorModel.fit(features[:-1], errors[:-1], GROWING) is None
    model = ErrorModel.fit(features, errors, GROWING)
    assert model is not None
    assert np.isfinite(model.half_width(features, 0.9)).all()
    # Of ten errors none is known to be larger than 95% of all.
    assert np.isinf(model.half_width(features, 0.95)).all()


def test_errors_and_features_without_any_spread() -> None:
    model = ErrorModel.fit(np.ones((40, 2)), np.zeros(40), GROWING)
    assert model is not None
    assert model.half_width(np.ones((2, 2)), 0.9) == pytest.approx(SMALLEST)
