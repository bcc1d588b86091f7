"""Conversion of a training state to values that ``torch.load(weights_only=True)`` accepts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

DTYPES = frozenset(
    {
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
        torch.int16, torch.int8, torch.uint8, torch.bool,
    }
)  # fmt: skip


def to_plain(value: Any, where: str = "state") -> Any:
    """``value`` as dicts, lists, tuples, Python scalars and contiguous tensors on the CPU.

    NumPy arrays become tensors and NumPy scalars Python's. A tensor that is plain already is not
    copied; a view is, because it would be saved with its whole storage.

    Raises TypeError that names the place of anything else, at saving rather than at reading.
    """
    if isinstance(value, torch.Tensor):
        if value.dtype not in DTYPES or value.layout is not torch.strided:
            raise TypeError(f"{where}: a tensor of {value.dtype}, {value.layout} cannot be saved")
        tensor = value.detach().cpu().contiguous()
        return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
    if isinstance(value, np.ndarray):
        return to_plain(torch.from_numpy(value.copy()), where)
    if isinstance(value, np.generic):
        return value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in (str, int):
                raise TypeError(f"{where}: the key {key!r} is neither text nor an integer")
        return {key: to_plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [to_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    raise TypeError(f"{where}: a {type(value).__name__} cannot be saved")
