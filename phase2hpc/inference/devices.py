"""Choice of the device (CPU or GPU), with the reason where an expected GPU cannot be used."""

from __future__ import annotations

import logging
import os

import torch

from phase2hpc.errors import InputError
from phase2hpc.utils.gpus import advice_for_invisible_gpus, gpu_count

log = logging.getLogger(__name__)


def choose_device(wanted: str) -> torch.device:
    """The device for ``--device``: auto, cpu or cuda.

    auto: the GPU where torch sees one; a warning where the machine or job has one that torch does
    not see. Raises InputError for another word, and for cuda where torch sees no GPU.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {wanted}: use auto, cpu or cuda")
    if wanted != "cpu" and torch.cuda.is_available():
        return torch.device("cuda")
    if wanted == "cuda":
        raise InputError(
            "--device cuda: torch sees no GPU here: "
            f"{advice_for_invisible_gpus(torch.version.cuda)}; or use --device cpu or auto"
        )
    if wanted == "auto" and (there := _present_gpus()):
        log.warning(
            "%s, but torch sees none, and the CPU is used: %s (--device cpu turns this "
            "warning off)",
            there,
            advice_for_invisible_gpus(torch.version.cuda),
        )
    return torch.device("cpu")


def _present_gpus() -> str | None:
    # Hidden by the user.
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return None
    # A job has the GPUs that it requested, not those of its node.
    if "SLURM_JOB_ID" in os.environ:
        of_job = os.environ.get("SLURM_GPUS_ON_NODE", "0")
        return None if of_job == "0" else f"this job has GPUs ({of_job} on this node)"
    return f"this machine has GPUs ({count})" if (count := gpu_count()) else None
