"""Invariance of predictions: cell, origin, orientation, order of atoms, and rest of the batch.

Differences are judged against the spread of predictions over crystals, which a trained model
shares with the labels: in those units a property has the standard deviation 1.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from crystals import (
    IDS,
    LONELY,
    LOW_SYMMETRY,
    TRANSFORMS,
    arrays_of,
    batch_of,
    predictions,
    random_model,
    sample_crystals,
)

from phase2hpc.config.algorithms import ALGORITHMS
from phase2hpc.data.crystal import RawCrystal
from phase2hpc.data.graph import GraphSettings
from phase2hpc.data.loader import collate
from phase2hpc.models import geometry
from phase2hpc.models.multitask import MultiTaskModel

ALLOWED = {torch.float32: 1e-4, torch.float64: 1e-9}
BY_COUNT = GraphSettings()
SPHERE = GraphSettings(cutoff=4.5, max_neighbors=None)
MODELS = [(name, dtype) for name in ALGORITHMS for dtype in ALLOWED]


class Case:
    """A model and its predictions for the sample crystals as they are."""

    def __init__(self, algorithm: str, dtype: torch.dtype, settings: GraphSettings) -> None:
        self.dtype, self.settings = dtype, settings
        self.model: MultiTaskModel = random_model(algorithm, settings, dtype)
        self.raws = sample_crystals()
        self.expected = self.predict(self.raws)
        self.spread = self.expected.std(axis=0)

    def predict(self, raws: tuple[RawCrystal, ...]) -> npt.NDArray[np.float64]:
        return predictions(self.model, raws, self.settings, self.dtype)

    def check(self, found: npt.NDArray[np.float64], what: str) -> None:
        error = np.abs(found - self.expected) / self.spread
        worst = int(error.max(axis=1).argmax())
        assert error.max() < ALLOWED[self.dtype], (what, self.raws[worst].id, error[worst])


@pytest.fixture(scope="module", params=MODELS, ids=lambda p: f"{p[0]}-{str(p[1])[6:]}")
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*request.param, BY_COUNT)


def test_predictions_of_different_crystals_differ(case: Case) -> None:
    scaled = case.expected / case.spread
    gaps = np.abs(scaled[:, None] - scaled[None]).max(axis=2) + np.eye(len(scaled))
    assert gaps.min() > 100 * ALLOWED[torch.float32]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_description_of_a_crystal_does_not_matter(case: Case, name: str) -> None:
    case.check(case.predict(tuple(TRANSFORMS[name](raw) for raw in case.raws)), name)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_invariant_with_the_whole_cutoff_sphere(algorithm: str) -> None:
    case = Case(algorithm, torch.float64, SPHERE)
    for name in ("improper rotation", "all at once"):
        case.check(case.predict(tuple(TRANSFORMS[name](raw) for raw in case.raws)), name)


def test_company_in_the_batch_does_not_matter(case: Case) -> None:
    arrays = arrays_of([*case.raws, LONELY], BY_COUNT, float64=case.dtype == torch.float64)
    n = len(case.raws)

    def predict(indices: list[int]) -> npt.NDArray[np.float64]:
        with torch.inference_mode():
            return case.model(collate(arrays, indices, dtype=case.dtype)).double().numpy()

    case.check(np.concatenate([predict([i]) for i in range(n)]), "alone")
    case.check(predict(list(range(n))[::-1])[::-1], "reversed")
    case.check(np.concatenate([predict([i, n, i])[2:] for i in range(n)]), "beside a lonely atom")
    rng = np.random.default_rng(0)
    found = np.full_like(case.expected, np.nan)
    for part in np.array_split(rng.permutation(n), 4):
        company = [*part.tolist(), n, *rng.integers(0, n, 3).tolist()]
        found[part] = predict(company)[: len(part)]
    case.check(found, "in random company")


def test_equal_crystals_in_a_batch_get_equal_predictions(case: Case) -> None:
    found = case.predict((case.raws[0], *case.raws, case.raws[0]))
    assert np.abs(found[0] - found[-1]).max() <= ALLOWED[case.dtype] * case.spread.min()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_lonely_atom_gets_a_prediction(algorithm: str) -> None:
    model = random_model(algorithm, BY_COUNT, torch.float64)
    batch = batch_of([LONELY])
    assert batch.edge_index.shape == (2, 0)
    alone = model(batch)
    alone.sum().backward()
    assert torch.isfinite(alone).all()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    beside = model(batch_of([sample_crystals()[2], LONELY, sample_crystals()[0]]))[1]
    torch.testing.assert_close(beside, alone[0], rtol=0, atol=1e-10)


# --- Continuity -------------------------------------------------------------------------------


def moved(raw: RawCrystal, way: float) -> RawCrystal:
    """The first atom moved by ``way`` angstrom, in a direction of no symmetry."""
    frac = np.array(raw.frac_coords, dtype=float)
    frac[0] += way * np.array([0.6, 0.64, 0.48]) @ np.linalg.inv(np.asarray(raw.lattice))
    return replace(raw, frac_coords=frac)


def edge_set(raw: RawCrystal, settings: GraphSettings) -> bytes:
    """The edges of a crystal; the atom that moves does not cross the border of its cell."""
    arrays = arrays_of([raw], settings, float64=True)
    rows = np.column_stack([arrays.receiver, arrays.sender, arrays.image])
    return rows[np.lexsort(rows.T)].tobytes()


def neighbor_list_changes(
    raw: RawCrystal, settings: GraphSettings, reach: float = 0.5, steps: int = 50
) -> list[tuple[float, float]]:
    """Ways just before and just after each change of the list, 1e-10 angstrom apart."""
    ways = np.linspace(0.0, reach, steps + 1)
    sets = [edge_set(moved(raw, way), settings) for way in ways]
    changes = []
    for i in range(steps):
        low, high = float(ways[i]), float(ways[i + 1])
        if sets[i] == sets[i + 1]:
            continue
        while high - low > 1e-10:
            middle = 0.5 * (low + high)
            if edge_set(moved(raw, middle), settings) == sets[i]:
                low = middle
            else:
                high = middle
        changes.append((low, high))
    return changes


def centred(name: str) -> RawCrystal:
    """The crystal with its first atom in the middle of the cell."""
    raw = next(raw for raw in sample_crystals() if raw.id == name)
    frac = np.asarray(raw.frac_coords)
    return replace(raw, frac_coords=frac - frac[0] + 0.4)


@pytest.mark.parametrize("settings", [BY_COUNT, SPHERE], ids=["12th neighbour", "cutoff"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_prediction_is_continuous_where_the_neighbor_list_changes(
    algorithm: str, settings: GraphSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(algorithm, torch.float64, settings)
    raw = centred(LOW_SYMMETRY)
    changes = neighbor_list_changes(raw, settings)[:6]
    assert len(changes) >= 3

    def jumps() -> npt.NDArray[np.float64]:
        ends = tuple(moved(raw, way) for change in changes for way in change)
        found = case.predict(ends) / case.spread
        return np.abs(found[1::2] - found[::2]).max(axis=1)

    # The atom moves 1e-10 A: what is left is a slope of the order of 1 an angstrom and rounding.
    smooth = jumps().max()
    assert smooth < 1e-9
    # Not so without the weights (though Bessel functions vanish at the cutoff by themselves).
    monkeypatch.setattr(geometry, "neighbor_weights", lambda length, *_, **__: length * 0 + 1)
    assert jumps().max() > 300 * smooth


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", ["JVASP-1127", LOW_SYMMETRY])
def test_increments_shrink_with_the_step(algorithm: str, name: str) -> None:
    """From the symmetric structure through every swap of the 12th and 13th neighbour."""
    case = Case(algorithm, torch.float64, BY_COUNT)
    raw = centred(name)
    fine = case.predict(tuple(moved(raw, way) for way in np.linspace(0.0, 0.24, 49))) / case.spread
    largest = [np.abs(np.diff(fine[::stride], axis=0)).max() for stride in (4, 2, 1)]
    assert largest[1] < 0.7 * largest[0] and largest[2] < 0.7 * largest[1], largest


def test_sample_has_ties_where_a_count_would_cut() -> None:
    raws = sample_crystals()
    assert [raw.id for raw in raws] == list(IDS)
    sphere = GraphSettings(cutoff=6.0, max_neighbors=None)
    tied = 0
    for raw in raws:
        batch = batch_of([raw], sphere)
        length = geometry.edge_vectors(batch).norm(dim=1)
        rows = [length[batch.edge_index[1] == i].sort().values for i in range(batch.num_nodes)]
        tied += any(len(row) > 12 and float(row[12] - row[11]) < 1e-6 for row in rows)
    assert 5 <= tied < len(raws)
