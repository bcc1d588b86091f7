"""GPUs of this machine by its driver, without torch, and why torch may not see them."""

from __future__ import annotations

from pathlib import Path

from phase2hpc.utils.container_image import this_image

# Visible in every container, unlike the device files.
_DRIVER_GPUS = Path("/proc/driver/nvidia/gpus")


def gpu_count() -> int:
    """Number of NVIDIA GPUs of the machine, usable by this process or not."""
    return len(list(_DRIVER_GPUS.glob("*")))


def advice_for_invisible_gpus(built_for: str | None) -> str:
    """Remedy if torch sees no GPU although there is one. built_for: CUDA version of the
    installed torch, None for a CPU build."""
    image = this_image()
    if built_for is None:
        what = "this image is the cpu variant" if image else "the installed torch is a CPU build"
        return f"{what}: use the CUDA one"
    if image:
        return (
            "start the container with --nv (apptainer), --gpus all (docker) or "
            "--device nvidia.com/gpu=all (podman)"
        )
    return f"is there a driver (nvidia-smi) that is new enough for CUDA {built_for}?"
