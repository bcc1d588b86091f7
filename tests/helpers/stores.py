"""Stores written from arrays in one call."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from phase2hpc.data.graph import GraphSettings
from phase2hpc.data.graph_arrays import GraphArrays
from phase2hpc.data.store.writer import StoreWriter


def write_store(
    path: str | os.PathLike[str],
    arrays: GraphArrays,
    graph_settings: GraphSettings,
    **options: Any,
) -> str:
    """Write these graphs as one store (options as for StoreWriter); returns the content hash."""
    float64 = arrays.frac_coords.dtype == np.float64
    with StoreWriter(path, graph_settings=graph_settings, float64=float64, **options) as writer:
        writer.append(arrays)
        return writer.finish()
