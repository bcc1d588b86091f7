"""What a model computes on, and why that is not the GPU that should be there."""

from __future__ import annotations

import logging
import os

import torch

from phase2hpc.errors import InputError
from phase2hpc.utils.gpus import gpu_count, why_torch_sees_none

log = logging.getLogger(__name__)


def choose_device(wanted: str) -> torch.device:
    """The device of ``--device``; auto: a GPU where torch sees one, and a warning where it does
    not see one that is there.

    Raises InputError where cuda is asked for and absent, and for another word than auto, cpu or
    cuda.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {wanted}: use auto, cpu or cuda")
    if wanted != "cpu" and torch.cuda.is_available():
        return torch.device("cuda")
    if wanted == "cuda":
        raise InputError(
            "--device cuda: torch sees no GPU here: "
            f"{why_torch_sees_none(torch.version.cuda)}; or use --device cpu or auto"
        )
    if wanted == "auto" and (there := _gpus_that_are_there()):
        log.warning(
            "%s, but torch sees none, and the CPU is used: %s (--device cpu says that this is "
            "meant)",
            there,
            why_torch_sees_none(torch.version.cuda),
        )
    return torch.device("cpu")


def _gpus_that_are_there() -> str | None:
    # Empty: hidden on purpose.
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return None
    # A job has those that it asked for, however many its node has.
    if "SLURM_JOB_ID" in os.environ:
        of_job = os.environ.get("SLURM_GPUS_ON_NODE", "0")
        return None if of_job == "0" else f"this job has GPUs ({of_job} on this node)"
    return f"this machine has GPUs ({count})" if (count := gpu_count()) else None
