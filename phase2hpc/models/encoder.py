"""Interface of an encoder: a batch of crystals to one vector per crystal."""

from __future__ import annotations

import importlib
from typing import Any, Protocol

from torch import Tensor, nn

from phase2hpc.config.algorithms import Algorithm, ModelSettings
from phase2hpc.data.crystal_data import CrystalData
from phase2hpc.data.graph import GraphSettings
from phase2hpc.errors import InputError
from phase2hpc.utils.error_text import first_line


class Encoder(Protocol):
    """Interface of an algorithm: a ``torch.nn.Module`` with this interface.

    The constructor is called with the validated settings of the algorithm (an instance of
    ``Algorithm.settings``) and the settings of the store's graphs, by position.

    A crystal vector must not depend on the other crystals of the batch, on the order of atoms
    and edges, or on the choice of the cell: take means over atoms
    (``phase2hpc.models.geometry.mean_over_atoms``), and weight edges by ``edge_geometry``.

    Attributes:
        out_features: length F of a crystal's vector.
    """

    out_features: int

    def __init__(self, settings: Any, graph: GraphSettings) -> None: ...

    def __call__(self, batch: CrystalData) -> Tensor:
        """Crystal vectors of a batch, shape (B, F), in the dtype of ``batch.pos``."""
        ...


def make_encoder(algorithm: Algorithm, settings: ModelSettings, graph: GraphSettings) -> nn.Module:
    """The encoder of an algorithm, with its first weights.

    Raises:
        InputError: a plug-in's encoder cannot be imported or has not the interface of ``Encoder``.
    """
    where = f"algorithm '{algorithm.name}' of {algorithm.provider}: its encoder {algorithm.encoder}"
    module_name, _, class_name = algorithm.encoder.partition(":")
    try:
        encoder_class: type[Encoder] = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        if algorithm.provider == "phase2hpc":
            raise
        raise InputError(f"{where} cannot be imported ({error})") from error
    try:
        encoder = encoder_class(settings, graph)
    # The constructor of a plug-in may raise anything.
    except Exception as error:
        if algorithm.provider == "phase2hpc":
            raise
        detail = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"{where} cannot be made ({detail})") from error
    if not isinstance(encoder, nn.Module):
        raise InputError(f"{where} is not a torch.nn.Module")
    features = getattr(encoder, "out_features", None)
    if not isinstance(features, int) or features < 1:
        raise InputError(f"{where} has no 'out_features', a positive integer")
    return encoder
