"""Neighbour graph of a crystal, with periodic images.

Edges are every neighbour within the cutoff or, where that is more than ``max_neighbors``, those
up to ``shell_width`` beyond the receiver's k-th neighbour. 69% of real crystals have the 12th
and 13th neighbour of some atom at the same distance, so a cut at a count would depend on the
order of atoms; the model gives each edge a weight that vanishes smoothly where this list ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import vesin

# Distances closer than this are one shell: the order of edges within it is by sender and image,
# so that rounding of coordinates does not reorder a store. Nothing but the order depends on it.
SHELL_TOLERANCE = 1e-4
# The first sphere searched would hold this many times k atoms at even density, and is worth it
# where it is smaller than this share of the cutoff. Speed alone depends on either.
FIRST_SEARCH = 1.6
SMALLER_SEARCH = 0.9
MAX_IMAGE = 127
MAX_ATOMS = 65535


class GraphError(ValueError):
    """A structure cannot be written as a graph, or a setting is not valid; the message says why."""


@dataclass(frozen=True)
class GraphSettings:
    """Settings of neighbour graphs.

    cutoff: no edge is longer, in angstrom. max_neighbors: k, the neighbour count beyond which a
    receiver's list ends by count; None means the whole cutoff sphere. shell_width: how far past
    the k-th neighbour the list reaches, in angstrom.
    """

    cutoff: float = 6.0
    max_neighbors: int | None = 12
    shell_width: float = 0.3

    def __post_init__(self) -> None:
        if not 0.5 <= self.cutoff <= 20.0:
            raise GraphError(f"cutoff {self.cutoff} A is outside 0.5 to 20")
        if self.max_neighbors is not None and self.max_neighbors < 1:
            raise GraphError(f"max_neighbors {self.max_neighbors} must be at least 1")
        if not 0.01 <= self.shell_width <= 5.0:
            raise GraphError(f"shell_width {self.shell_width} A is outside 0.01 to 5")

    def to_dict(self) -> dict[str, float | int | None]:
        return asdict(self)


@dataclass(frozen=True)
class Graph:
    """Edges sorted by receiver, shell, sender, image.

    sender, receiver: (E,) uint16 atom indices. image: (E, 3) int8, the sender's lattice image:
    the edge vector is (frac[sender] + image - frac[receiver]) @ lattice.
    """

    sender: npt.NDArray[np.uint16]
    receiver: npt.NDArray[np.uint16]
    image: npt.NDArray[np.int8]


def build_graph(
    lattice: npt.NDArray[np.float64],
    frac_coords: npt.NDArray[np.float64],
    settings: GraphSettings,
) -> Graph:
    """Edges of a structure; lattice (3, 3) in angstrom, frac_coords (n, 3) in [0, 1).

    Raises GraphError where an index does not fit the store (65,535 atoms, 127 images).
    """
    n = len(frac_coords)
    if n > MAX_ATOMS:
        raise GraphError(f"{n} atoms: at most {MAX_ATOMS} fit a graph")
    for radius in _radii(lattice, n, settings):
        receiver, sender, image, distance = _search(lattice, frac_coords, radius)
        order = np.lexsort((distance, receiver))
        if settings.max_neighbors is None:
            break
        limit = _limits(receiver, distance[order], n, settings)
        # A list that ends inside the sphere that was searched is whole.
        if radius >= settings.cutoff or limit.max() <= radius:
            order = order[distance[order] < limit[receiver[order]]]
            break
    return _sorted_by_shell(receiver[order], sender[order], image[order], distance[order])


def isolated_atoms(
    lattice: npt.NDArray[np.float64],
    frac_coords: npt.NDArray[np.float64],
    graph: Graph,
    cutoff: float,
) -> npt.NDArray[np.int64]:
    """Indices of atoms without a neighbour inside the cutoff, where edges have a weight.

    Arguments as of ``build_graph``. A neighbour at the cutoff itself does not count: its weight is
    zero, up to rounding.
    """
    fractions = graph.image + frac_coords[graph.sender] - frac_coords[graph.receiver]
    inside = np.linalg.norm(fractions @ lattice, axis=1) < cutoff * (1 - 1e-6)
    degree = np.bincount(graph.receiver[inside], minlength=len(frac_coords))
    return np.flatnonzero(degree == 0)


def _radii(lattice: npt.NDArray[np.float64], n: int, settings: GraphSettings) -> Iterator[float]:
    """Radii to search, the cutoff last: the k nearest of most crystals lie in a smaller sphere.

    The first one would hold FIRST_SEARCH * k neighbours were they spread evenly.
    """
    if settings.max_neighbors is not None:
        volume = abs(float(np.linalg.det(lattice))) / n
        radius = (0.75 / np.pi * volume * FIRST_SEARCH * settings.max_neighbors) ** (1 / 3)
        radius += settings.shell_width
        if radius < SMALLER_SEARCH * settings.cutoff:
            yield float(radius)
    yield settings.cutoff


def _search(
    lattice: npt.NDArray[np.float64], frac_coords: npt.NDArray[np.float64], radius: float
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """Receiver, sender, image and distance of every pair within ``radius``, in no order."""
    search = vesin.NeighborList(cutoff=radius, full_list=True, sorted=False)
    receiver, sender, image, distance = search.compute(
        points=frac_coords @ lattice, box=lattice, periodic=True, quantities="ijSd"
    )
    return receiver, sender, image, distance


def _limits(
    receiver: npt.NDArray[Any],
    sorted_distance: npt.NDArray[np.float64],
    n: int,
    settings: GraphSettings,
) -> npt.NDArray[np.float64]:
    """Reach of each receiver's list, (n,) angstrom: infinite with no more than k in it.

    sorted_distance: (E,) by receiver, then distance.
    """
    assert settings.max_neighbors is not None
    degree = np.bincount(receiver, minlength=n)
    full = np.flatnonzero(degree > settings.max_neighbors)
    limit = np.full(n, np.inf)
    kth = (np.cumsum(degree) - degree)[full] + settings.max_neighbors - 1
    limit[full] = sorted_distance[kth] + settings.shell_width
    return limit


def _sorted_by_shell(
    receiver: npt.NDArray[Any],
    sender: npt.NDArray[Any],
    image: npt.NDArray[np.int32],
    distance: npt.NDArray[np.float64],
) -> Graph:
    """The graph of edges that are sorted by receiver, then distance.

    Raises GraphError where a lattice image does not fit the store.
    """
    if len(image) and np.abs(image).max() > MAX_IMAGE:
        raise GraphError(
            f"neighbours lie more than {MAX_IMAGE} lattice vectors away: the cell is extremely "
            "thin or skewed, give the reduced (Niggli) cell"
        )
    # A new shell begins where the distance jumps or the receiver changes.
    jump = distance[1:] - distance[:-1] > SHELL_TOLERANCE
    shell = np.zeros(len(distance), dtype=np.int64)
    np.cumsum(jump | (receiver[1:] != receiver[:-1]), out=shell[1:])
    # Sender and image as one number, in that order: one key sorts faster than four.
    within = sender.astype(np.int64)
    for axis in range(3):
        within = within * 256 + (image[:, axis] + 128)
    order = np.lexsort((within, shell))
    return Graph(
        sender[order].astype(np.uint16),
        receiver[order].astype(np.uint16),
        image[order].astype(np.int8),
    )
