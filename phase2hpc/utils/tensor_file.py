"""Reading of safetensors files with their metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from phase2hpc.errors import InputError
from phase2hpc.utils.error_text import first_line
from phase2hpc.utils.regular_file import open_regular

MAX_BYTES = 1 << 32


def read_tensor_file(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, str]]:
    """(NumPy arrays, metadata) of a safetensors file whose metadata has this ``format``.

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
        metadata: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: damaged, or not a safetensors file ({first_line(error)}): copy it again"
        ) from None
    if metadata.get("format") != kind:
        raise InputError(f"{path}: not a file of the kind '{kind}'")
    return tensors, metadata
