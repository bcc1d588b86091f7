"""Several models on one batch; what depends on no weights is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from phase2hpc.data.crystal_data import CrystalData
from phase2hpc.models.multitask import MultiTaskModel


def with_vectors_of_each(
    models: Sequence[MultiTaskModel], batch: CrystalData
) -> list[tuple[Tensor, Tensor]]:
    """``with_vectors`` of each model, bit for bit."""
    known: dict[object, object] = {}
    results = []
    for model in models:
        encoder: Any = model.encoder
        key = getattr(encoder, "geometry_key", None)
        if key is None:
            results.append(model.with_vectors(batch))
            continue
        if key not in known:
            known[key] = encoder.constant_geometry(batch)
        results.append(model.with_vectors(batch, known[key]))
    return results
