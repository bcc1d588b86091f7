"""Weights of an exported model as safetensors, and beside them what inference needs as JSON.

model.safetensors has the weights by name, config.json the settings, and model.json the settings of
graphs, the scaler of targets and the elements of the training data. Weights that are exact in half
precision are stored in it; they are read into the precision of the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from phase2hpc.checkpointing.file_errors import CheckpointError
from phase2hpc.checkpointing.schema import migrate, versioned
from phase2hpc.errors import InputError
from phase2hpc.runs.run_directory import RunDirectory, read_json
from phase2hpc.utils.atomic_io import write_atomically
from phase2hpc.utils.tensor_file import metadata_of, read_tensor_file

KIND = "weights"


def save_exported(run: RunDirectory, state: Mapping[str, Any]) -> None:
    """Write the content of a best.pt to ``run``, but for its config, which config.json has."""
    from safetensors.torch import save

    others = {k: v for k, v in versioned("best", dict(state)).items() if k != "weights"}
    del others["config"]
    weights = {name: _stored(tensor) for name, tensor in state["weights"].items()}
    write_atomically(run.exported_weights, save(weights, metadata_of(KIND)))
    write_atomically(run.model_json, json.dumps(others, indent=1, allow_nan=False) + "\n")


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in the smaller of the tensor's precision and half that has the same values."""
    half = tensor.half() if tensor.is_floating_point() else tensor
    same = torch.equal(half.to(tensor.dtype), tensor)
    return (half if same else tensor).contiguous().clone()


def load_exported(run: RunDirectory) -> dict[str, Any]:
    """The content of ``save_exported`` in the current schema, as of ``load_best``.

    Raises InputError where a file is missing, damaged or of a newer version.
    """
    try:
        arrays, _ = read_tensor_file(run.exported_weights, KIND)
    except FileNotFoundError:
        raise InputError(f"{run.exported_weights}: not there") from None
    others = read_json(run.model_json)
    if not isinstance(others, dict):
        raise InputError(f"{run.model_json}: not a model (no JSON object)")
    weights = {name: torch.from_numpy(array) for name, array in arrays.items()}
    state = {**others, "weights": weights, "config": run.read_config().to_json()}
    try:
        return migrate("best", state)
    except CheckpointError as reason:
        raise InputError(f"{run.model_json}: {reason}") from None
