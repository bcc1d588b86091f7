"""Multi-task model: an encoder and one head per property."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, silu

from phase2hpc.config.algorithms import Algorithm, ModelSettings
from phase2hpc.data.crystal_data import CrystalData
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
        self.head_dropout = head_dropout
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

    def forward(self, batch: CrystalData) -> Tensor:
        return self.with_vectors(batch)[0]

    def with_vectors(self, batch: CrystalData, *constants: object) -> tuple[Tensor, Tensor]:
        """Scaled predictions (B, P), and the crystal vectors (B, F) they were made from.

        constants: what the encoder takes besides the batch (``models.ensemble``).
        """
        vector = self.encoder(batch, *constants)
        of_elements = mean_over_atoms(self.element(batch.z), batch.batch, batch.ptr)
        return self._apply_heads(vector) + of_elements, vector

    def _apply_heads(self, vector: Tensor) -> Tensor:
        """All heads at once as batched products: (B, F) -> (B, P). Each has its own dropout."""
        hidden_weight, hidden_bias, out_weight, out_bias = (
            torch.stack([head.get_parameter(f"{layer}.{name}") for head in self.heads])
            for layer in (1, 3)
            for name in ("weight", "bias")
        )
        dropped = dropout(
            vector.expand(len(self.heads), *vector.shape), self.head_dropout, self.training
        )
        hidden = silu(
            torch.baddbmm(hidden_bias.unsqueeze(1), dropped, hidden_weight.transpose(1, 2))
        )
        out = torch.baddbmm(out_bias.unsqueeze(1), hidden, out_weight.transpose(1, 2))
        return out.squeeze(2).t()


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
