"""safetensors files with one JSON object as their metadata.

safetensors writes several entries of metadata in random order; one makes equal files equal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phase2hpc.errors import InputError
from phase2hpc.utils.error_text import first_line
from phase2hpc.utils.regular_file import open_regular

KEY = "phase2hpc"
MAX_BYTES = 1 << 32


def metadata_of(kind: str, **values: Any) -> dict[str, str]:
    """Metadata to save with tensors: the kind of file, and plain values."""
    return {KEY: json.dumps({"kind": kind, **values}, sort_keys=True, allow_nan=True)}


def read_tensor_file(path: Path, kind: str) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """(NumPy arrays, values of ``metadata_of``) of a file of this kind.

    Raises FileNotFoundError, and InputError where it cannot be read or is another file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        with open_regular(path) as file:
            content = file.read(MAX_BYTES)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        tensors: dict[str, Any] = load(content)
        # The file begins with the length of its header.
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        metadata = json.loads(header.get("__metadata__", {}).get(KEY, "{}"))
        if not isinstance(metadata, dict) or metadata.get("kind") != kind:
            raise InputError(f"{path}: not a file of phase2hpc's {kind}")
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: damaged, or not a safetensors file ({first_line(error)}): copy it again"
        ) from None
    return tensors, metadata
