"""Graphs of real crystals: pymatgen's neighbours, whole shells, a defined order."""

from __future__ import annotations

import gzip
import itertools
import json
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from paths import SAMPLE
from pymatgen.core import Lattice, Structure

from phase2hpc.data import graph as graph_module
from phase2hpc.data.graph import (
    MAX_IMAGE,
    SHELL_TOLERANCE,
    Graph,
    GraphError,
    GraphSettings,
    build_graph,
    isolated_atoms,
)

SPHERE = GraphSettings(cutoff=5.0, max_neighbors=None)
DEFAULT = GraphSettings()
# Al fcc, Ta bcc, C diamond, KTaO3, VSe2 (layered), Bi2Te2Se, a monoclinic and two triclinic ones.
NAMED = (
    "JVASP-816", "JVASP-1014", "JVASP-91", "JVASP-1127", "JVASP-10", "JVASP-4101", "JVASP-12320",
    "JVASP-13359", "JVASP-96960",
)  # fmt: skip


class Cell(NamedTuple):
    id: str
    lattice: npt.NDArray[np.float64]
    species: list[str]
    frac: npt.NDArray[np.float64]


def sample() -> list[Cell]:
    """The named crystals and every 500th of the file."""
    cells = []
    with gzip.open(SAMPLE, "rt") as handle:
        for number, line in enumerate(handle):
            if number % 500 == 0 or line[7 : line.index('"', 7)] in NAMED:
                record = json.loads(line)
                frac = np.array(record["frac_coords"]) % 1.0
                frac[frac >= 1.0] = 0.0
                cells.append(
                    Cell(record["id"], np.array(record["lattice"]), record["species"], frac)
                )
    return cells


CELLS = sample()


def edges(graph: Graph) -> set[tuple[int, ...]]:
    """(receiver, sender, image) of every edge."""
    rows = np.column_stack([graph.receiver, graph.sender, graph.image]).tolist()
    found = {tuple(row) for row in rows}
    assert len(found) == len(rows), "an edge twice"
    return found


def distances(graph: Graph, cell: Cell) -> npt.NDArray[np.float64]:
    there = cell.frac[graph.sender] + graph.image
    return np.linalg.norm((there - cell.frac[graph.receiver]) @ cell.lattice, axis=1)


def by_pymatgen(cell: Cell, radius: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """(E, 5) receiver, sender, image and (E,) distances."""
    structure = Structure(Lattice(cell.lattice), cell.species, cell.frac)
    receiver, sender, image, distance = structure.get_neighbor_list(radius)
    return np.column_stack([receiver, sender, image]).astype(int), distance


@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.id)
def test_whole_sphere_is_that_of_pymatgen(cell: Cell) -> None:
    rows, distance = by_pymatgen(cell, SPHERE.cutoff + 1e-6)
    graph = build_graph(cell.lattice, cell.frac, SPHERE)
    found = edges(graph)
    # A distance that is the cutoff but for rounding may fall on either side; its weight is zero.
    assert {tuple(row) for row in rows[distance < SPHERE.cutoff - 1e-6].tolist()} <= found
    assert found <= {tuple(row) for row in rows.tolist()}
    assert (distances(graph, cell) <= SPHERE.cutoff + 1e-9).all()


@pytest.mark.parametrize("settings", [DEFAULT, GraphSettings(8.0, 12, 0.1), GraphSettings(4, 6, 1)])
@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.id)
def test_list_ends_a_shell_beyond_the_kth_neighbor(cell: Cell, settings: GraphSettings) -> None:
    """The rule written out, on pymatgen's neighbours."""
    assert settings.max_neighbors is not None
    rows, distance = by_pymatgen(cell, settings.cutoff - 1e-6)
    found = edges(build_graph(cell.lattice, cell.frac, settings))
    for receiver in range(len(cell.frac)):
        mine = rows[:, 0] == receiver
        row, length = rows[mine], distance[mine]
        reach = np.inf
        if len(length) > settings.max_neighbors:
            reach = np.sort(length)[settings.max_neighbors - 1] + settings.shell_width
        sure = {tuple(r) for r in row[length < reach - 1e-6].tolist()}
        possible = {tuple(r) for r in row[length < reach + 1e-6].tolist()}
        here = {edge for edge in found if edge[0] == receiver}
        near_cutoff = {
            edge for edge in here - possible
            if abs(length_of(cell, edge) - settings.cutoff) < 2e-6
        }  # fmt: skip
        assert sure <= here
        assert here - near_cutoff <= possible


def length_of(cell: Cell, edge: tuple[int, ...]) -> float:
    receiver, sender, *image = edge
    return float(np.linalg.norm((cell.frac[sender] + image - cell.frac[receiver]) @ cell.lattice))


def test_tied_neighbors_stay_together() -> None:
    """fcc has 12 neighbours, bcc 8 + 6: with k = 10, all 14 of bcc are kept, none of them half."""
    for name, k, degree in (("JVASP-816", 10, 12), ("JVASP-1014", 6, 8), ("JVASP-1014", 10, 14)):
        cell = next(cell for cell in CELLS if cell.id == name)
        graph = build_graph(cell.lattice, cell.frac, GraphSettings(6.0, k, 0.1))
        assert len(graph.sender) == degree


def test_sorted_by_receiver_shell_sender_image() -> None:
    for cell, settings in itertools.product(CELLS, (SPHERE, DEFAULT)):
        graph = build_graph(cell.lattice, cell.frac, settings)
        assert (np.diff(graph.receiver.astype(int)) >= 0).all()
        length = distances(graph, cell)
        for receiver in range(len(cell.frac)):
            rows = np.flatnonzero(graph.receiver == receiver)
            jump = np.diff(length[rows])
            assert (jump > -SHELL_TOLERANCE * len(rows)).all()
            shell = np.cumsum(np.concatenate([[0], jump > SHELL_TOLERANCE]))
            keys = [
                (int(s), int(graph.sender[e]), *graph.image[e].tolist())
                for s, e in zip(shell, rows, strict=True)
            ]
            assert keys == sorted(keys)


def test_order_does_not_depend_on_rounding() -> None:
    rng = np.random.default_rng(0)
    for cell in CELLS:
        rattled = np.clip(cell.frac + 1e-9 * rng.normal(size=cell.frac.shape), 0, None)
        one = build_graph(cell.lattice, cell.frac, DEFAULT)
        two = build_graph(cell.lattice, rattled, DEFAULT)
        if edges(one) == edges(two):
            assert np.array_equal(one.sender, two.sender) and np.array_equal(one.image, two.image)
        else:  # Only where a distance is the end of a list but for rounding.
            odd = edges(one) ^ edges(two)
            assert len(odd) < 0.2 * len(one.sender), cell.id


@pytest.mark.parametrize("share", [0.01, 0.5, 1.0, 50.0])
def test_first_search_decides_speed_only(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too small a first sphere is searched again, too large a one is the cutoff's."""
    expected = [build_graph(cell.lattice, cell.frac, DEFAULT) for cell in CELLS]
    monkeypatch.setattr(graph_module, "FIRST_SEARCH", share)
    for cell, one in zip(CELLS, expected, strict=True):
        two = build_graph(cell.lattice, cell.frac, DEFAULT)
        for name in ("sender", "receiver", "image"):
            assert np.array_equal(getattr(one, name), getattr(two, name)), cell.id


def test_first_search_is_enough_for_most(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[float] = []
    search = graph_module.pairs_within
    monkeypatch.setattr(
        graph_module, "pairs_within", lambda *a: (searched.append(a[2]), search(*a))[1]
    )
    for cell in CELLS:
        build_graph(cell.lattice, cell.frac, DEFAULT)
    assert len(searched) < 1.3 * len(CELLS)
    assert np.mean(searched) < 0.9 * DEFAULT.cutoff


def test_dtypes_and_shapes() -> None:
    graph = build_graph(CELLS[0].lattice, CELLS[0].frac, DEFAULT)
    assert graph.sender.dtype == graph.receiver.dtype == np.uint16
    assert graph.image.dtype == np.int8 and graph.image.shape == (len(graph.sender), 3)


@pytest.mark.parametrize("settings", [SPHERE, DEFAULT])
def test_one_atom(settings: GraphSettings) -> None:
    graph = build_graph(np.eye(3) * 3.0, np.array([[0.2, 0.4, 0.9]]), settings)
    assert not graph.sender.any() and not graph.receiver.any()
    assert (np.abs(graph.image).sum(axis=1) > 0).all(), "no edge from an atom to itself"
    assert {tuple(-row for row in e[2:]) for e in edges(graph)} == {e[2:] for e in edges(graph)}


@pytest.mark.parametrize("settings", [SPHERE, DEFAULT])
def test_atom_without_a_neighbor(settings: GraphSettings) -> None:
    graph = build_graph(np.eye(3) * 9.0, np.array([[0.5, 0.5, 0.5]]), settings)
    assert len(graph.sender) == 0 and graph.image.shape == (0, 3)
    pair = build_graph(np.diag([9.0, 9.0, 30.0]), np.array([[0, 0, 0], [0, 0, 0.1]]), settings)
    assert edges(pair) == {(0, 1, 0, 0, 0), (1, 0, 0, 0, 0)}


def test_left_handed_cell_has_the_same_edges() -> None:
    cell = next(cell for cell in CELLS if cell.id == "JVASP-13359")
    swap = [1, 0, 2]
    one = build_graph(cell.lattice, cell.frac, DEFAULT)
    two = build_graph(cell.lattice[swap], cell.frac[:, swap], DEFAULT)
    assert edges(one) == {(r, s, b, a, c) for r, s, a, b, c in edges(two)}


def test_image_that_does_not_fit_the_store() -> None:
    thin = np.diag([0.04, 30.0, 30.0])
    with pytest.raises(GraphError, match=f"more than {MAX_IMAGE} lattice vectors"):
        build_graph(thin, np.zeros((1, 3)), GraphSettings(6.0, None))
    graph = build_graph(np.diag([0.05, 30.0, 30.0]), np.zeros((1, 3)), GraphSettings(6.0, None))
    assert graph.image[:, 0].min() == -graph.image[:, 0].max() < -110


def test_too_many_atoms() -> None:
    with pytest.raises(GraphError, match="65536 atoms"):
        build_graph(np.eye(3), np.zeros((65_536, 3)), DEFAULT)


@pytest.mark.parametrize("values", [
    {"cutoff": 0.1}, {"cutoff": 50.0}, {"max_neighbors": 0}, {"shell_width": 0.0},
    {"cutoff": float("nan")},
])  # fmt: skip
def test_settings_are_checked(values: dict[str, float]) -> None:
    with pytest.raises(GraphError):
        GraphSettings(**values)  # type: ignore[arg-type]


def test_settings_survive_as_a_dict() -> None:
    settings = GraphSettings(5.5, None, 0.2)
    assert GraphSettings(**settings.to_dict()) == settings  # type: ignore[arg-type]


def test_isolated_atoms() -> None:
    """No neighbour, or one at the cutoff itself; a chain beside an isolated atom."""
    one = np.zeros((1, 3))
    for length, expected in ((5.999, []), (6.0, [0]), (6.001, [0]), (9.0, [0])):
        lattice = length * np.eye(3)
        graph = build_graph(lattice, one, DEFAULT)
        assert isolated_atoms(lattice, one, graph, DEFAULT.cutoff).tolist() == expected
    lattice, frac = np.diag([30.0, 30.0, 6.5]), np.array([[0, 0, 0], [0, 0, 0.4], [0.5, 0.5, 0]])
    graph = build_graph(lattice, frac, DEFAULT)
    assert isolated_atoms(lattice, frac, graph, DEFAULT.cutoff).tolist() == [2]
