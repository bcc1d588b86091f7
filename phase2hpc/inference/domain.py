"""Applicability domain of a model: known elements, and atoms with neighbours."""

from __future__ import annotations

from collections.abc import Set

from phase2hpc.data.crystal import Crystal
from phase2hpc.data.elements import SYMBOLS
from phase2hpc.data.graph import Graph, isolated_atoms


def outside_domain(crystal: Crystal, graph: Graph, elements: Set[int], cutoff: float) -> str:
    """Reason why a crystal is outside the domain, "" where none is known.

    elements: atomic numbers of the training data; cutoff: of the graph, in angstrom.
    """
    reasons = []
    if unseen := sorted(set(crystal.numbers.tolist()) - elements):
        names = ", ".join(SYMBOLS[number] for number in unseen)
        reasons.append(f"never occurred in training: {names}")
    isolated = isolated_atoms(crystal.lattice, crystal.frac_coords, graph, cutoff).tolist()
    if isolated:
        first = isolated[0]
        others = f" and {len(isolated) - 1} more have" if len(isolated) > 1 else " has"
        reasons.append(
            f"no neighbour: atom {first + 1} ({SYMBOLS[crystal.numbers[first]]}){others} none "
            f"within {cutoff:g} A"
        )
    return "; ".join(reasons)
