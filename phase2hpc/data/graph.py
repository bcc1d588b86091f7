"""Neighbour graph of a crystal, with periodic images.

Edges are every neighbour within the cutoff or, where that is more than ``max_neighbors``, those
up to ``shell_width`` beyond the receiver's k-th neighbour. 69% of real crystals have the 12th
and 13th neighbour of some atom at the same distance, so a cut at a count would depend on the
order of atoms; the model gives each edge a weight that vanishes smoothly where this list ends.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from phase2hpc.data.neighbor_search import Pairs, pairs_within

# Distances closer than this are one shell: the order of edges within it is by sender and image,
# so that rounding of coordinates does not reorder a store. Nothing but the order depends on it.
SHELL_TOLERANCE = 1e-4
# The first sphere searched would hold this many times k atoms at even density, and is worth it
# where it is smaller than this share of the cutoff. Speed alone depends on either.
FIRST_SEARCH = 1.6
SMALLER_SEARCH = 0.9
MAX_IMAGE = 127
MAX_ATOMS = 65535
# Shells that fit a signed number of 64 bits beside 40 bits of sender and image.
MAX_PACKED_SHELLS = 1 << 23
_IMAGE_PLACES = np.array([1 << 16, 1 << 8, 1], dtype=np.int32)
_IMAGE_OFFSET = int(128 * _IMAGE_PLACES.sum())


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
    pairs: Pairs | None = None,
) -> Graph:
    """Edges of a structure; lattice (3, 3) in angstrom, frac_coords (n, 3) in [0, 1).

    pairs: of ``first_search``, where it was done before. Raises GraphError where an index does not
    fit the store (65,535 atoms, 127 images).
    """
    n = len(frac_coords)
    if n > MAX_ATOMS:
        raise GraphError(f"{n} atoms: at most {MAX_ATOMS} fit a graph")
    if pairs is None or pairs.radius > settings.cutoff:
        pairs = first_search(lattice, frac_coords, settings)
    graph = _graph_of(pairs, n, settings)
    if graph is None:
        graph = _graph_of(pairs_within(lattice, frac_coords, settings.cutoff), n, settings)
    assert graph is not None
    return graph


def first_search(
    lattice: npt.NDArray[np.float64],
    frac_coords: npt.NDArray[np.float64],
    settings: GraphSettings,
    at_least: float = 0.0,
) -> Pairs:
    """Pairs within a radius that holds the lists of most crystals, and no less than ``at_least``.

    The k nearest of most crystals lie in a smaller sphere than the cutoff's: this one would hold
    FIRST_SEARCH * k neighbours were they spread evenly.
    """
    radius = settings.cutoff
    if settings.max_neighbors is not None:
        volume = _volume(lattice) / len(frac_coords)
        smaller = (0.75 / math.pi * volume * FIRST_SEARCH * settings.max_neighbors) ** (1 / 3)
        smaller += settings.shell_width
        if smaller < SMALLER_SEARCH * radius:
            radius = smaller
    return pairs_within(lattice, frac_coords, max(radius, at_least))


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


def _volume(lattice: npt.NDArray[np.float64]) -> float:
    # Ten times faster than np.linalg.det on a single matrix.
    (a, b, c), (d, e, f), (g, h, i) = lattice.tolist()
    return float(abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)))


def _graph_of(pairs: Pairs, n: int, settings: GraphSettings) -> Graph | None:
    """The graph of these pairs, None where a list of neighbours reaches beyond their radius."""
    order = _by_receiver_and_distance(pairs, n)
    receiver, distance = pairs.receiver[order], pairs.distance[order]
    if settings.max_neighbors is not None:
        degree = np.bincount(receiver, minlength=n)
        full = np.flatnonzero(degree > settings.max_neighbors)
        if len(full) < n and pairs.radius < settings.cutoff:
            return None
        # Reach of each receiver's list: infinite with no more than k in it.
        limit = np.full(n, np.inf)
        kth = (np.cumsum(degree) - degree)[full] + settings.max_neighbors - 1
        limit[full] = distance[kth] + settings.shell_width
        # A list that ends inside the sphere that was searched is whole.
        if pairs.radius < settings.cutoff and limit.max() > pairs.radius:
            return None
        kept = distance < limit[receiver]
        order, receiver, distance = order[kept], receiver[kept], distance[kept]
    image = pairs.image[order]
    if len(image) and (image.max() > MAX_IMAGE or image.min() < -MAX_IMAGE):
        raise GraphError(
            f"neighbours lie more than {MAX_IMAGE} lattice vectors away: the cell is extremely "
            "thin or skewed, give the reduced (Niggli) cell"
        )
    # A new shell begins where the distance jumps or the receiver changes.
    begins = (distance[1:] - distance[:-1] > SHELL_TOLERANCE) | (receiver[1:] != receiver[:-1])
    shell = np.zeros(len(distance), dtype=np.int64)
    np.cumsum(begins, out=shell[1:])
    # Sender and image as one number of 40 bits, in that order.
    packed = (pairs.sender[order] << 24) + (image @ _IMAGE_PLACES + _IMAGE_OFFSET)
    if len(shell) > MAX_PACKED_SHELLS:
        packed = packed[np.lexsort((packed, shell))]
    else:
        # One number that holds all sorts several times faster than an index by two.
        packed += shell << 40
        packed.sort()
    # The three lowest bytes, from the third down, are the image plus 128.
    image_bytes = packed.astype("<i8", copy=False).view(np.int8).reshape(-1, 8)[:, 2::-1]
    return Graph(
        (packed >> 24).astype(np.uint16),
        receiver.astype(np.uint16),
        np.bitwise_xor(image_bytes, np.int8(-128)),
    )


def _by_receiver_and_distance(pairs: Pairs, n: int) -> npt.NDArray[np.intp]:
    """Order of the pairs by receiver, then distance."""
    if not len(pairs.distance):
        return np.empty(0, dtype=np.intp)
    # Positive floating-point numbers are in the order of their bits.
    bits = pairs.distance.view(np.int64)
    low = bits.min()
    width = int(bits.max() - low).bit_length()
    if width + n.bit_length() > 63:
        return np.lexsort((pairs.distance, pairs.receiver))
    return np.argsort((pairs.receiver << width) + (bits - low))
