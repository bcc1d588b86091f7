"""One structure -> one graph: which atoms see which periodic images.

Edges are every neighbour within the cutoff or, where that is more than ``max_neighbors``, those
up to ``shell_width`` beyond the receiver's k-th neighbour. 69% of real crystals have the 12th
and 13th neighbour of some atom at the same distance, so a cut at a count would depend on the
order of atoms; the model gives each edge a weight that vanishes smoothly where this list ends.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import vesin

# Distances closer than this are one shell: the order of edges within it is by sender and image,
# so that rounding of coordinates does not reorder a store. Nothing but the order depends on it.
SHELL_TOLERANCE = 1e-4
MAX_IMAGE = 127
MAX_ATOMS = 65535


class GraphError(ValueError):
    """This structure cannot be written as a graph; the message says why."""


@dataclass(frozen=True)
class GraphSettings:
    """What decides the edges of a graph.

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
    search = vesin.NeighborList(cutoff=settings.cutoff, full_list=True, sorted=False)
    receiver, sender, image, distance = search.compute(
        points=frac_coords @ lattice, box=lattice, periodic=True, quantities="ijSd"
    )
    if len(image) and np.abs(image).max() > MAX_IMAGE:
        raise GraphError(
            f"neighbours lie more than {MAX_IMAGE} lattice vectors away: the cell is extremely "
            "thin or skewed, give the reduced (Niggli) cell"
        )
    receiver = receiver.astype(np.uint16)
    order = np.lexsort((distance, receiver))
    if settings.max_neighbors is not None:
        degree = np.bincount(receiver, minlength=n)
        start = np.cumsum(degree) - degree
        full = np.flatnonzero(degree > settings.max_neighbors)
        reach = np.full(n, np.inf)
        reach[full] = distance[order[start[full] + settings.max_neighbors - 1]]
        order = order[distance[order] < reach[receiver[order]] + settings.shell_width]
    sender, receiver, image, distance = (
        sender[order].astype(np.uint16), receiver[order], image[order], distance[order]
    )  # fmt: skip
    # A new shell begins where the distance jumps or the receiver changes.
    jump = np.diff(distance, prepend=-np.inf) > SHELL_TOLERANCE
    shell = np.cumsum(jump | (np.diff(receiver.astype(np.int32), prepend=-1) != 0))
    order = np.lexsort((image[:, 2], image[:, 1], image[:, 0], sender, shell, receiver))
    return Graph(sender[order], receiver[order], image[order].astype(np.int8))
