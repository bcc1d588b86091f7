"""The command in front of python."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from phase2hpc.cluster.profiles.profile import ContainerSettings
from phase2hpc.cluster.submit.container import checked_image, image_digest, python_command
from phase2hpc.errors import InputError


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def started_as(command: str, at: Path, **variables: str) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment with which the runtime is really called, by a stand-in for it."""
    bin_ = at / "bin"
    bin_.mkdir()
    for name in ("apptainer", "singularity", "docker", "podman"):
        (bin_ / name).write_text('#!/bin/bash\nprintf \'%s\\n\' "$0" "$@"; echo ---; env\n')
        (bin_ / name).chmod(0o755)
    out = subprocess.run(
        ["/bin/bash", "-c", f"{command} -u -m module '/a b'"], capture_output=True, text=True,
        check=True, env={"PATH": f"{bin_}:/usr/bin:/bin", **variables},
    ).stdout  # fmt: skip
    arguments, _, environment = out.partition("---\n")
    pairs = (line.partition("=")[::2] for line in environment.splitlines())
    return [Path(arguments.splitlines()[0]).name, *arguments.splitlines()[1:]], dict(pairs)


@pytest.mark.parametrize("runtime", ["apptainer", "singularity"])
def test_apptainer(runtime: str, at: Path) -> None:
    container = ContainerSettings(
        image="/images/a.sif", runtime=runtime, binds=("/scratch:/data:ro",), options=("--no-home",)
    )
    models, store = at / "models", at / "work" / "data"
    command = python_command(
        container, "python3", [models, store, models], gpus=True, environment={"KEY": "a b"}
    )
    arguments, environment = started_as(command, at, SLURM_PROCID="1")
    assert arguments == [
        runtime, "exec", "--nv", "--bind", str(models), "--bind", str(at / "work"),
        "--bind", "/scratch:/data:ro", "--pwd", str(at / "work"), "--no-home", "/images/a.sif",
        "python3", "-u", "-m", "module", "/a b",
    ]  # fmt: skip
    prefix = f"{runtime.upper()}ENV_"
    assert environment[f"{prefix}KEY"] == "a b"
    assert environment[f"{prefix}PYTHONNOUSERSITE"] == environment[f"{prefix}PYTHONSAFEPATH"] == "1"
    assert environment["SLURM_PROCID"] == "1"


@pytest.mark.parametrize("option", ["--cleanenv", "-e", "--containall", "-C"])
def test_a_clean_environment_still_has_slurms_variables(option: str, at: Path) -> None:
    container = ContainerSettings(image="/images/a.sif", options=(option,))
    command = python_command(container, "python3", [], gpus=False, environment={})
    arguments, environment = started_as(
        command, at, SLURM_PROCID="1", SUBMITIT_EXECUTOR="slurm", CUDA_VISIBLE_DEVICES="0,1",
        PHASE2HPC_RESTARTS="2", UNRELATED="x",
    )  # fmt: skip
    assert arguments[:2] == ["apptainer", "exec"] and arguments[-4:] == [
        "-u", "-m", "module", "/a b",
    ]  # fmt: skip
    inside = {k.removeprefix("APPTAINERENV_") for k in environment if k.startswith("APPTAINERENV_")}
    assert inside >= {"SLURM_PROCID", "SUBMITIT_EXECUTOR", "CUDA_VISIBLE_DEVICES",
                      "PHASE2HPC_RESTARTS", "PYTHONNOUSERSITE"}  # fmt: skip
    assert "UNRELATED" not in inside and "--nv" not in arguments


@pytest.mark.parametrize("runtime", ["docker", "podman"])
def test_docker(runtime: str, at: Path) -> None:
    container = ContainerSettings(image="name:1", runtime=runtime, binds=("/scratch",), nv=True)
    command = python_command(
        container, "python3", [at / "models"], gpus=False, environment={"KEY": "a b"}
    )
    arguments, _ = started_as(command, at, SUBMITIT_LOCAL_JOB_ID="local-1", RANK="0")
    assert arguments[:2] == [runtime, "run"]
    image = arguments.index("name:1")
    assert arguments[image + 1 :] == ["-u", "-m", "module", "/a b"]
    assert arguments[image - 2 : image] == ["--entrypoint", "python3"]
    words = " ".join(arguments[:image])
    for expected in (
        f"--volume {at}/models:{at}/models", "--volume /scratch:/scratch", "--env KEY=a b",
        "--env SUBMITIT_LOCAL_JOB_ID", "--env RANK", "--rm", f"--workdir {at}/work",
        *{
            "docker": ("--gpus all", f"--user {os.getuid()}:{os.getgid()}"),
            "podman": ("--device nvidia.com/gpu=all", "--user 0"),
        }[runtime],
    ):  # fmt: skip
        assert expected in words, words


def test_images(at: Path) -> None:
    (at / "work" / "here.sif").write_bytes(b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\0")
    here = checked_image(ContainerSettings(image="here.sif"))
    assert here.image == str(at / "work" / "here.sif")
    for image in ("docker://python:3.11", "library://x/y"):
        assert checked_image(ContainerSettings(image=image)).image == image
    assert checked_image(ContainerSettings(image="name:1", runtime="docker")).image == "name:1"
    with pytest.raises(InputError, match="container image gone.sif: no such file"):
        checked_image(ContainerSettings(image="gone.sif"))
    for content in (b"", b"hello", b"PK\3\4"):
        (at / "work" / "other.sif").write_bytes(content)
        with pytest.raises(InputError, match="container image other.sif: not an image"):
            checked_image(ContainerSettings(image="other.sif"))


def test_folders_that_cannot_be_bound(at: Path) -> None:
    with pytest.raises(InputError, match="':' or ','"):
        python_command(
            ContainerSettings(image="a"), "python3", [at / "a:b"], gpus=False, environment={}
        )


def test_the_inside_is_told_the_digest(at: Path) -> None:
    """Of a file by its bytes; of a name where it says, or docker does."""
    (at / "work" / "here.sif").write_bytes(b"hsqs image")
    container = checked_image(ContainerSettings(image="here.sif"))
    command = python_command(container, "python3", [], gpus=False, environment={})
    _, environment = started_as(command, at)
    digest = f"sha256:{hashlib.sha256(b'hsqs image').hexdigest()}"
    assert environment["APPTAINERENV_PHASE2HPC_IMAGE_DIGEST"] == digest
    named = ContainerSettings(image="name@sha256:12", runtime="docker")
    assert image_digest(named) == "sha256:12"
    assert image_digest(ContainerSettings(image="/images")) is None


@pytest.mark.parametrize("said", ["registry/name@sha256:12", "sha256:12", "12"])
def test_digest_by_docker(said: str, at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (at / "docker").write_text(f'#!/bin/sh\n[ "$5" = known-{said} ] && echo {said}\n')
    (at / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{at}:/usr/bin:/bin")
    known = ContainerSettings(image=f"known-{said}", runtime="docker")
    assert image_digest(known) == "sha256:12"
    assert image_digest(known.model_copy(update={"image": "unknown"})) is None
