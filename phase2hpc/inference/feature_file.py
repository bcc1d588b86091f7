"""HDF5 file of crystal vectors, for other models, clustering and search by likeness."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from phase2hpc.inference.prediction_table import Prediction
from phase2hpc.utils.atomic_io import write_atomically
from phase2hpc.utils.os_errors import write_error


def write_features(
    path: Path, rows: Sequence[Prediction], vectors: npt.NDArray[np.floating], model: str
) -> None:
    """Write vectors (n, F) with the id, input, formula and status of each structure.

    model: description of the model, an attribute of the file. A structure without a vector has a
    row of NaN.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["model"] = model
        file.create_dataset("vectors", data=vectors)
        for name in ("id", "input", "formula", "status"):
            texts = [getattr(row, name) for row in rows]
            file.create_dataset(name, data=texts, dtype=h5py.string_dtype(), shape=(len(texts),))
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise write_error(error, f"--features {path}: cannot be written") from None
