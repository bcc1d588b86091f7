"""Choice of the device, and the warning where a GPU is present and torch sees none."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from phase2hpc.errors import InputError
from phase2hpc.inference.devices import choose_device
from phase2hpc.utils import gpus as hardware


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One without a GPU that torch sees; the driver's list, where it has one."""
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "SLURM_GPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(hardware, "_DRIVER_GPUS", tmp_path / "gpus")
    return tmp_path / "gpus"


def warned(caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert choose_device("auto") == torch.device("cpu")
    return caplog.text


def test_no_gpu_no_word(machine: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert warned(caplog) == ""
    machine.mkdir()
    assert warned(caplog) == ""


def test_a_gpu_that_torch_does_not_see(
    machine: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    (machine / "0000:01:00.0").mkdir(parents=True)
    said = warned(caplog)
    assert "this machine has GPUs (1), but torch sees none, and the CPU is used: is there" in said
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert warned(caplog) == ""
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "2")
    assert "this job has GPUs (2 on this node), but torch sees none" in warned(caplog)
    # Hidden on purpose.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert warned(caplog) == ""


@pytest.mark.parametrize(
    ("variant", "cuda", "said"),
    [
        (None, None, "the installed torch is a CPU build: use the CUDA one"),
        (None, "13.0", r"new enough for CUDA 13\.0"),
        ("cpu", None, "this image is the cpu variant: use the CUDA one"),
        ("cuda", "13.0", r"start the container with --nv \(apptainer\), --gpus all"),
    ],
)
def test_why_cuda_is_refused(variant, cuda, said, in_image, monkeypatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    if variant:
        in_image(variant)
    with pytest.raises(InputError, match=rf"torch sees no GPU here: .*{said}.*; or use --device"):
        choose_device("cuda")


def test_another_word() -> None:
    with pytest.raises(InputError, match="--device tpu: use auto, cpu or cuda"):
        choose_device("tpu")
