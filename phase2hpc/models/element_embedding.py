"""First features of the atoms: by element, and by the parity of the crystal's electrons."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from phase2hpc.data.electron_parity import PARITIES
from phase2hpc.data.element_descriptors import element_descriptors
from phase2hpc.data.elements import MAX_ATOMIC_NUMBER

# Weights of an encoder that older models lack; where they are zero, it computes as those do.
ADDED_WEIGHTS = ("embedding.parity.weight",)


class ElementEmbedding(nn.Embedding):
    """Atomic numbers (N,) -> features (N, F), a learned vector of each element.

    descriptors: add a linear map of tabulated descriptors. Elements that are rare in training then
    begin near those that are like them. electron_parity: add a learned vector of the parity of the
    crystal's electrons (``data.electron_parity``). Its initial values are as large as those of the
    elements: grown from zero, it comes too late for the few crystals that need it.
    """

    # Part of the weights: a model keeps the table that it was trained with.
    descriptors: Tensor

    def __init__(self, size: int, *, descriptors: bool, electron_parity: bool) -> None:
        super().__init__(MAX_ATOMIC_NUMBER + 1, size)
        self.projection: nn.Linear | None = None
        if descriptors:
            table = torch.tensor(element_descriptors())
            self.register_buffer("descriptors", table)
            self.projection = nn.Linear(table.shape[1], size)
        self.parity = nn.Embedding(PARITIES, size) if electron_parity else None

    # nn.Embedding has no use for crystals.
    def forward(self, species: Tensor, crystal: Tensor, parity: Tensor) -> Tensor:  # type: ignore[override]
        """crystal (N,): of each atom. parity (B,): of each crystal."""
        features: Tensor = super().forward(species)
        if self.projection is not None:
            features = features + self.projection(self.descriptors[species])
        if self.parity is not None:
            features = features + self.parity(parity[crystal])
        return features
