"""torch.compile of a model; a missing compiler and failed compilations as one-line errors."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from phase2hpc.data.crystal_data import CrystalData
from phase2hpc.errors import InputError
from phase2hpc.utils.os_errors import path_error
from phase2hpc.utils.text import one_line

log = logging.getLogger(__name__)

# Modules of the exception classes of a compilation.
_COMPILER_MODULES = ("torch._dynamo.", "torch._inductor.", "triton.")
_ADVICE = "or train without it (--set compile=false)"
MAX_MESSAGE_LENGTH = 200


def compiled(model: nn.Module, device: torch.device) -> Callable[[CrystalData], Tensor]:
    """``model`` compiled for dynamic shapes, at its first call.

    Raises InputError where this machine has no working compiler.
    """
    if missing := _missing_compiler(device):
        raise InputError(f"compile=true needs {missing}, {_ADVICE}; the container images have none")
    warning = getattr(getattr(model, "encoder", None), "compile_warning_on_cpu", None)
    if warning is not None and device.type == "cpu":
        log.warning("compile=true on a CPU: %s; it is faster without", warning)
    return torch.compile(model, dynamic=True)


@contextmanager
def compilation_errors() -> Iterator[None]:
    """Raise InputError for a failed compilation, and the error of a full disk as such.

    A graph is compiled at the first call that needs it, which may be in any step.
    """
    try:
        yield
    except Exception as error:
        homes = [f"{kind.__module__}." for kind in type(error).__mro__]
        if not any(home.startswith(_COMPILER_MODULES) for home in homes):
            raise
        cause = getattr(error, "inner_exception", error)
        if isinstance(cause, OSError):
            raise path_error(
                cause,
                f"{cause.filename or 'torch'} (of compile=true)",
                note=f"TORCHINDUCTOR_CACHE_DIR names another folder for torch's files; {_ADVICE}",
            ) from error
        raise InputError(
            "compile=true: torch cannot compile the model on this machine "
            f"({_summary(cause)}): fix the compiler, {_ADVICE}"
        ) from error


def _missing_compiler(device: torch.device) -> str | None:
    if device.type == "cuda":
        if find_spec("triton") is None:
            return "the package triton on a GPU, and it is not installed: install it"
        named = os.environ.get("CC")
        if not any(map(shutil.which, [named] if named else ["gcc", "clang"])):
            return (
                "a C compiler on a GPU, and none is found here (triton looks for "
                f"{named or 'gcc, then clang'}; CC names another): install one"
            )
        return None
    # Imported here: they take a second.
    from torch._inductor import config
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, OSError):
        return (
            "a C++ compiler, and none works here (torch looks for "
            f"{config.cpp.cxx[-1]}; CXX names another): install one"
        )
    return None


def _summary(error: BaseException) -> str:
    """The most informative line of an error: of a compiler's output, its first error."""
    lines = str(getattr(error, "output", None) or error).strip().splitlines()
    lines = [line for line in lines if "error" in line.lower()] or lines
    text = f"{type(error).__name__}, {lines[0].strip()}" if lines else type(error).__name__
    return one_line(text)[:MAX_MESSAGE_LENGTH]
