"""Embedding of the elements: a learned vector plus a linear map of tabulated descriptors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from phase2hpc.data.element_descriptors import element_descriptors
from phase2hpc.data.elements import MAX_ATOMIC_NUMBER


class ElementEmbedding(nn.Embedding):
    """Atomic numbers (N,) -> features (N, F).

    With descriptors, elements that are rare in training begin near those that are like them.
    """

    # Part of the weights: a model keeps the table that it was trained with.
    descriptors: Tensor

    def __init__(self, size: int, *, descriptors: bool) -> None:
        super().__init__(MAX_ATOMIC_NUMBER + 1, size)
        self.projection: nn.Linear | None = None
        if descriptors:
            table = torch.tensor(element_descriptors())
            self.register_buffer("descriptors", table)
            self.projection = nn.Linear(table.shape[1], size)

    def forward(self, species: Tensor) -> Tensor:
        features: Tensor = super().forward(species)
        if self.projection is not None:
            features = features + self.projection(self.descriptors[species])
        return features
