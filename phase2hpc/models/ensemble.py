"""Several models on one batch; what depends on no weights is computed once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from phase2hpc.data.crystal_data import CrystalData
from phase2hpc.models.equivariant import ConstantGeometry, EquivariantEncoder
from phase2hpc.models.multitask import MultiTaskModel


def with_vectors_of_each(
    models: Sequence[MultiTaskModel], batch: CrystalData
) -> list[tuple[Tensor, Tensor]]:
    """``with_vectors`` of each model, bit for bit."""
    known: dict[object, ConstantGeometry] = {}
    results = []
    for model in models:
        encoder = model.encoder
        # A subclass may compute otherwise.
        if type(encoder) is not EquivariantEncoder:
            results.append(model.with_vectors(batch))
            continue
        if encoder.geometry_key not in known:
            known[encoder.geometry_key] = encoder.constant_geometry(batch)
        results.append(model.with_vectors(batch, known[encoder.geometry_key]))
    return results
