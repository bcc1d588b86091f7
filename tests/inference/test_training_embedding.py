"""Distance of crystals to the training crystals in the space of crystal vectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from phase2hpc.inference import training_embedding
from phase2hpc.inference.training_embedding import INSIDE, MAX_COMPONENTS, TrainingEmbedding


def vectors(n: int, seed: int = 0) -> np.ndarray:
    """In three directions of 40, one of them of another unit, and two that never vary."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(3, 40))
    mixing[:, 5:7] = 0.0
    mixing[:, 9] *= 1e4
    return (rng.normal(size=(n, 3)) @ mixing + 3.0).astype(np.float32)


def test_others_like_them_are_inside_and_strangers_are_not() -> None:
    embedding = TrainingEmbedding.fit(vectors(3000))
    inside = embedding.distance(vectors(2000, seed=1)) <= embedding.limit
    assert abs(inside.mean() - INSIDE) < 0.01
    assert (embedding.distance(4.0 * vectors(200, seed=1)) > embedding.limit).mean() > 0.9
    assert embedding.crystals.shape == (3000, MAX_COMPONENTS)


def test_the_nearest_are_found(monkeypatch) -> None:
    monkeypatch.setattr(training_embedding, "_CHUNK", 7)
    training, new = vectors(50), vectors(20, seed=2)
    embedding = TrainingEmbedding.fit(training)
    a, b = (((x - embedding.center) @ embedding.projection) for x in (training, new))
    table = np.linalg.norm(b[:, None] - a[None], axis=2)
    expected = np.sort(table, axis=1)[:, : training_embedding.NEIGHBORS].mean(axis=1)
    # Training crystals are kept in half precision.
    assert embedding.distance(new) == pytest.approx(expected, rel=2e-2)


def test_the_limit_is_of_the_other_training_crystals(monkeypatch) -> None:
    training = vectors(400)
    embedding = TrainingEmbedding.fit(training)
    # Each is its own nearest, so that its distance with itself is smaller.
    assert embedding.limit > np.quantile(embedding.distance(training), INSIDE)
    monkeypatch.setattr(training_embedding, "MAX_MEASURED", 100)
    assert TrainingEmbedding.fit(training).limit == pytest.approx(embedding.limit, rel=0.3)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_hardly_any_training_crystals(n) -> None:
    embedding = TrainingEmbedding.fit(vectors(n))
    distance = embedding.distance(vectors(3, seed=1))
    assert np.isfinite(distance).all() and np.isfinite(embedding.limit)
    assert (embedding.remoteness(distance) == np.inf).all() == (n == 1)


def test_without_a_scale_of_likeness_no_crystal_is_alike() -> None:
    """One training crystal, or several that are the same; and a limit as it was once saved."""
    one = vectors(1)
    for embedding in (
        TrainingEmbedding.fit(one),
        TrainingEmbedding.fit(np.repeat(one, 8, axis=0)),
        replace(TrainingEmbedding.fit(one), limit=np.nan),
    ):
        for others in (one, vectors(3, seed=1)):
            assert (embedding.remoteness(embedding.distance(others)) == np.inf).all()
    usual = TrainingEmbedding.fit(vectors(50))
    assert usual.remoteness(np.array([2.0 * usual.limit])) == pytest.approx([2.0])
