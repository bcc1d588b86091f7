"""The search through vesin's C function, against its class; overlaps and graph from one search."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from paths import SAMPLE

from phase2hpc.data import graph, neighbor_search
from phase2hpc.data.convert import Rejection, graphs_of
from phase2hpc.data.crystal import Crystal
from phase2hpc.data.graph import GraphSettings, build_graph
from phase2hpc.data.neighbor_search import pairs_within
from phase2hpc.data.readers.registry import read
from phase2hpc.data.validation import validate

RAWS = list(islice(read(SAMPLE), 120))
CRYSTALS = [validate(raw) for raw in RAWS]


def test_the_installed_vesin_is_called_directly() -> None:
    assert neighbor_search._direct is not None


@pytest.mark.parametrize("radius", [2.0, 4.5])
def test_direct_search_is_that_of_the_class(radius: float) -> None:
    assert neighbor_search._direct is not None
    for crystal in CRYSTALS[::4]:
        positions = crystal.frac_coords @ crystal.lattice
        direct = neighbor_search._direct(positions, crystal.lattice, radius)
        by_class = neighbor_search._by_class(positions, crystal.lattice, radius)
        for one, other in zip(direct, by_class, strict=True):
            np.testing.assert_array_equal(one, other)


def test_no_pair_within_the_radius() -> None:
    pairs = pairs_within(np.eye(3) * 5.0, np.zeros((1, 3)), 2.0)
    assert [len(values) for values in pairs[1:]] == [0, 0, 0, 0]
    assert pairs.image.shape == (0, 3)


def test_a_small_radius_in_a_large_cell_finds_its_pairs_only() -> None:
    """More than MAX_BOXES boxes: a wider search, of which the pairs beyond the radius are left
    out."""
    lattice = np.diag([400.0, 400.0, 400.0])
    frac = np.array([[0.0, 0.0, 0.0], [0.004, 0.0, 0.0], [0.008, 0.0, 0.0]])
    pairs = pairs_within(lattice, frac, 2.0)
    assert sorted(zip(pairs.receiver.tolist(), pairs.sender.tolist(), strict=True)) == [
        (0, 1), (1, 0), (1, 2), (2, 1),
    ]  # fmt: skip


def same(crystals: list[Crystal], others: list[object]) -> None:
    for crystal, other in zip(crystals, others, strict=True):
        assert not isinstance(other, Rejection)
        alone = build_graph(crystal.lattice, crystal.frac_coords, GraphSettings())
        for name in ("sender", "receiver", "image"):
            np.testing.assert_array_equal(getattr(alone, name), getattr(other[1], name))


def test_graph_from_the_search_for_overlaps_is_the_same() -> None:
    same(CRYSTALS, list(graphs_of(RAWS, GraphSettings())))


def test_short_cutoff_still_finds_overlaps() -> None:
    """The pairs to be searched for overlaps reach beyond a cutoff of 0.5 A."""
    raw = RAWS[0]
    frac = np.array(raw.frac_coords, dtype=float)
    twice = type(raw)(
        raw.id, raw.input, raw.lattice, [*raw.species, raw.species[0]],
        np.concatenate([frac, frac[:1] + 1e-3]),
    )  # fmt: skip
    first, second = graphs_of([twice, raw], GraphSettings(0.5, None))
    assert isinstance(first, Rejection)
    assert first.kind == "too close"
    assert not isinstance(second, Rejection)
    assert len(second[1].sender) == 0


def test_ways_to_sort_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where indices and distances do not fit one number, two keys are sorted by."""
    packed = list(graphs_of(RAWS, GraphSettings()))
    monkeypatch.setattr(graph, "MAX_PACKED_SHELLS", 0)
    monkeypatch.setattr(
        graph,
        "_by_receiver_and_distance",
        lambda pairs, n: np.lexsort((pairs.distance, pairs.receiver)),
    )
    same(CRYSTALS, packed)


def test_wide_range_of_distances_is_sorted_by_two_keys() -> None:
    rng = np.random.default_rng(0)
    receiver = rng.integers(0, 5000, 4000)
    distance = 10.0 ** rng.uniform(-12, 1, 4000)
    pairs = neighbor_search.Pairs(10.0, receiver, receiver, np.zeros((4000, 3)), distance)
    order = graph._by_receiver_and_distance(pairs, 5000)
    np.testing.assert_array_equal(order, np.lexsort((distance, receiver)))
