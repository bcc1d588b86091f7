"""Multi-task model: an encoder and one head per property."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from phase2hpc.config.algorithms import Algorithm, ModelSettings
from phase2hpc.data.elements import MAX_ATOMIC_NUMBER
from phase2hpc.data.graph import GraphSettings
from phase2hpc.models.encoder import make_encoder
from phase2hpc.models.geometry import mean_over_atoms


class MultiTaskModel(nn.Module):
    """Batch -> scaled predictions (B, P), one column per property, in the order of ``properties``.

    Each prediction is a linear function of the composition (mean over atoms of one number per
    element) plus the property's head on the crystal vector. Both are intensive.
    """

    def __init__(
        self,
        encoder: nn.Module,
        properties: Sequence[str],
        *,
        head_hidden: int,
        head_dropout: float,
    ) -> None:
        super().__init__()
        self.properties = tuple(properties)
        self.encoder = encoder
        features = encoder.out_features
        assert isinstance(features, int)
        self.out_features = features
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Dropout(head_dropout),
                nn.Linear(features, head_hidden),
                nn.SiLU(),
                nn.Linear(head_hidden, 1),
            )
            for _ in self.properties
        )
        self.element = nn.Embedding(MAX_ATOMIC_NUMBER + 1, len(self.properties))
        nn.init.zeros_(self.element.weight)

    def forward(self, batch: Data) -> Tensor:
        return self.with_vectors(batch)[0]

    def with_vectors(self, batch: Data) -> tuple[Tensor, Tensor]:
        """Scaled predictions (B, P), and the crystal vectors (B, F) they were made from."""
        vector = self.encoder(batch)
        structure = torch.cat([head(vector) for head in self.heads], dim=1)
        of_elements = mean_over_atoms(self.element(batch.z), batch.batch, batch.ptr)
        return structure + of_elements, vector


def build_model(
    algorithm: Algorithm, settings: ModelSettings, graph: GraphSettings, properties: Sequence[str]
) -> MultiTaskModel:
    """A model with its first weights. Raises InputError as ``make_encoder``."""
    return MultiTaskModel(
        make_encoder(algorithm, settings, graph),
        properties,
        head_hidden=settings.head_hidden,
        head_dropout=settings.head_dropout,
    )
