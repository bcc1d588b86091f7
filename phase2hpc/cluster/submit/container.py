"""The command in front of python that makes a job run inside a container.

The host's environment reaches the inside (Slurm's and submitit's variables say which task of
which job this is), its python packages do not.
"""

from __future__ import annotations

import functools
import hashlib
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from phase2hpc.cluster.profiles.profile import ContainerSettings
from phase2hpc.errors import InputError
from phase2hpc.utils.container_image import DIGEST_VARIABLE

# Where each begins: SIF after its launch line, squashfs, ext2 to 4.
_IMAGE_MARKS = ((32, b"SIF_MAGIC"), (0, b"hsqs"), (1080, b"\x53\xef"))
OF_CLUSTERS = ("apptainer", "singularity")
PYTHON = "python3"
# What a task must be told even where the container's environment is a clean one.
TASK_VARIABLES = (
    "SLURM_", "SUBMITIT_", "CUDA_", "NVIDIA_", "NCCL_", "GLOO_", "OMP_", "PHASE2HPC_",
    "MASTER_", "RANK", "LOCAL_RANK", "WORLD_SIZE",
)  # fmt: skip
# Neither packages of the user's home nor a checkout in the working directory shadow the image's.
_ISOLATION = {"PYTHONNOUSERSITE": "1", "PYTHONSAFEPATH": "1"}
_CLEAN = {"--cleanenv", "-e", "--containall", "-C"}


def python_command(
    container: ContainerSettings,
    python: str,
    folders: Iterable[Path],
    *,
    gpus: bool,
    environment: Mapping[str, str],
) -> str:
    """A shell command that starts ``python`` inside the container.

    folders: what a job reads and writes; they are seen inside under their own paths, the working
    directory with them. environment: further variables inside. Raises InputError for a folder
    that cannot be named in a bind.
    """
    binds = [*_binds([Path.cwd(), *folders]), *container.binds]
    nv = gpus if container.nv is None else container.nv
    if digest := image_digest(container):
        environment = {DIGEST_VARIABLE: digest, **environment}
    if container.runtime in OF_CLUSTERS:
        return _apptainer(container, python, binds, nv, environment)
    return _docker(container, python, binds, nv, environment)


def checked_image(container: ContainerSettings) -> ContainerSettings:
    """The same with an absolute path. Raises InputError where the image is not there, or a file
    that is none; an address (``docker://...``) and what docker or podman know by name are left
    alone."""
    if container.runtime not in OF_CLUSTERS or "://" in container.image:
        return container
    path = Path(container.image).expanduser()
    if not path.exists():
        raise InputError(
            f"container image {container.image}: not there; build it (apptainer build), or name "
            "it by --container or in the profile"
        )
    if path.is_file() and not _is_image(path):
        raise InputError(
            f"container image {container.image}: a file of another kind (no SIF, squashfs or ext "
            "file system): build it (apptainer build), or name another"
        )
    return container.model_copy(update={"image": str(path.resolve())})


def _is_image(path: Path) -> bool:
    """By the marks of the kinds of file that the runtimes take."""
    try:
        with path.open("rb") as file:
            head = file.read(2048)
    except OSError as error:
        raise InputError(f"container image {path}: cannot be read ({error.strerror})") from None
    return any(head[at:].startswith(mark) for at, mark in _IMAGE_MARKS)


def image_digest(container: ContainerSettings) -> str | None:
    """``sha256:...`` of a .sif file's bytes, or what docker and podman call an image's digest;
    None where this machine does not know: a sandbox folder, an image that only the nodes have."""
    _, named, digest = container.image.partition("@sha256:")
    if named:
        return f"sha256:{digest}"
    if container.runtime not in OF_CLUSTERS:
        return _digest_known_to(container.runtime, container.image)
    path = Path(container.image)
    if not path.is_file():
        return None
    status = path.stat()
    try:
        return _digest_of_file(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise InputError(f"container image {path}: cannot be read ({error.strerror})") from None


@functools.cache
def _digest_of_file(path: Path, mtime: int, size: int) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


@functools.cache
def _digest_known_to(runtime: str, image: str) -> str | None:
    # An image that was never in a registry may have no digest but its id.
    form = "{{if .RepoDigests}}{{index .RepoDigests 0}}{{else}}{{.Id}}{{end}}"
    try:
        answer = subprocess.run(
            [runtime, "image", "inspect", "--format", form, image],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    digest = answer.stdout.strip().rpartition("sha256:")[2]
    return f"sha256:{digest}" if answer.returncode == 0 and digest else None


def _binds(folders: Iterable[Path]) -> list[str]:
    """Each folder once, none that lies in another."""
    resolved = sorted({folder.resolve() for folder in folders} - {Path("/")})
    kept: list[Path] = []
    for folder in resolved:
        if any(character in str(folder) for character in ":,"):
            raise InputError(
                f"{folder}: a container cannot see a folder with ':' or ',' in its name"
            )
        if not any(folder.is_relative_to(other) for other in kept):
            kept.append(folder)
    return [str(folder) for folder in kept]


def _apptainer(
    container: ContainerSettings,
    python: str,
    binds: list[str],
    nv: bool,
    environment: Mapping[str, str],
) -> str:
    # Variables with this prefix reach the inside under the rest of their name, also where the
    # container's environment is a clean one.
    prefix = f"{container.runtime.upper()}ENV_"
    variables = {**_ISOLATION, **environment}
    words = ["env", *(f"{prefix}{name}={value}" for name, value in variables.items())]
    words += [container.runtime, "exec", *(["--nv"] if nv else [])]
    for bind in binds:
        words += ["--bind", bind]
    words += ["--pwd", str(Path.cwd()), *container.options, container.image, python]
    if _CLEAN.isdisjoint(container.options):
        return shlex.join(words)
    names = " ".join(f"${{!{start}@}}" for start in TASK_VARIABLES)
    passing = f'for name in {names}; do export "{prefix}$name=${{!name}}"; done; exec "$@"'
    return shlex.join(["bash", "-c", passing, "bash", *words])


def _docker(
    container: ContainerSettings,
    python: str,
    binds: list[str],
    nv: bool,
    environment: Mapping[str, str],
) -> str:
    # Files shall belong to the one who runs this, whatever the image's user: a number that only the
    # node knows, or inside podman, with root and without, 0. That user has no home inside: caches
    # go to /tmp.
    is_podman = container.runtime == "podman"
    user = "0" if is_podman else '"$(id -u):$(id -g)"'
    gpus = ["--device", "nvidia.com/gpu=all"] if is_podman else ["--gpus", "all"]
    variables = {**_ISOLATION, "HOME": "/tmp", **environment}
    words = [container.runtime, "run", "--rm", "--network", "host", "--ipc", "host"]
    words += gpus if nv else []
    for bind in binds:
        words += ["--volume", bind if ":" in bind else f"{bind}:{bind}"]
    for name, value in variables.items():
        words += ["--env", f"{name}={value}"]
    words += ["--workdir", str(Path.cwd()), *container.options, "--entrypoint", python]
    # The names that a prefix stands for only a shell knows.
    listed = "|".join(TASK_VARIABLES)
    passing = (
        f"for name in $(compgen -e | grep -E '^({listed})'); do given+=(--env \"$name\"); done; "
        f'exec {shlex.join(words[:2])} --user {user} "${{given[@]}}" "$@"'
    )
    return shlex.join(["bash", "-c", passing, "bash", *words[2:], container.image])
