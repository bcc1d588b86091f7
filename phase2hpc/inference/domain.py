"""Applicability domain of a model: elements, neighbours, size of the cell, likeness to training."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass

from phase2hpc.data.crystal import Crystal
from phase2hpc.data.elements import SYMBOLS
from phase2hpc.data.graph import Graph, isolated_atoms
from phase2hpc.data.symmetry import primitive_size
from phase2hpc.inference.training_embedding import INSIDE

# A primitive cell of more than this many times the atoms of the largest cell in training is
# outside.
FAR_LARGER = 2


@dataclass(frozen=True)
class Domain:
    """Limits of what a model was trained on.

    elements: atomic numbers of the training crystals; cutoff: of graphs, in angstrom; max_atoms: in
    a training crystal's cell, None where unknown.
    """

    elements: Set[int]
    cutoff: float
    max_atoms: int | None

    def outside(self, crystal: Crystal, graph: Graph, remoteness: float) -> str:
        """Reasons why a crystal is outside the domain, "" where it is inside.

        remoteness: of ``TrainingEmbedding.remoteness``; NaN for a model without calibration.
        """
        reasons = []
        if unseen := sorted(set(crystal.numbers.tolist()) - self.elements):
            names = ", ".join(SYMBOLS[number] for number in unseen)
            reasons.append(f"never occurred in training: {names}")
        isolated = isolated_atoms(crystal.lattice, crystal.frac_coords, graph, self.cutoff).tolist()
        if isolated:
            first = isolated[0]
            others = f" and {len(isolated) - 1} more have" if len(isolated) > 1 else " has"
            reasons.append(
                f"no neighbour: atom {first + 1} ({SYMBOLS[crystal.numbers[first]]}){others} none "
                f"within {self.cutoff:g} A"
            )
        if self.max_atoms is not None and len(crystal.numbers) > FAR_LARGER * self.max_atoms:
            atoms = primitive_size(crystal.lattice, crystal.frac_coords, crystal.numbers)
            if atoms > FAR_LARGER * self.max_atoms:
                reasons.append(f"large cell: {atoms} atoms, in training at most {self.max_atoms}")
        if math.isinf(remoteness):
            reasons.append("likeness unknown: fewer than two training crystals, or all alike")
        elif remoteness > 1.0:
            reasons.append(
                f"unlike the training crystals: {remoteness:.2g} times as far from the nearest of "
                f"them as {INSIDE:.0%} of them are"
            )
        return "; ".join(reasons)
