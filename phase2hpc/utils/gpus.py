"""The GPUs of this machine as its driver counts them, and why torch may not see them. No torch."""

from __future__ import annotations

from pathlib import Path

from phase2hpc.utils.container_image import this_image

# The driver's list of them is seen in every container, their device files are not.
_OF_THE_DRIVER = Path("/proc/driver/nvidia/gpus")


def gpu_count() -> int:
    """NVIDIA GPUs of the machine, whether or not this process may use them."""
    return len(list(_OF_THE_DRIVER.glob("*")))


def why_torch_sees_none(built_for: str | None) -> str:
    """What to do where there are GPUs. built_for: torch's version of CUDA, None for a CPU build."""
    image = this_image()
    if built_for is None:
        what = "this image's variant is cpu" if image else "the torch installed is the CPU's build"
        return f"{what}: use the CUDA one"
    if image:
        return (
            "start the container with --nv (apptainer), --gpus all (docker) or "
            "--device nvidia.com/gpu=all (podman)"
        )
    return f"is there a driver (nvidia-smi) that is new enough for CUDA {built_for}?"
