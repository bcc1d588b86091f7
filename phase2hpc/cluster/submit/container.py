"""Command that starts Python inside a container.

The host's environment is passed on (Slurm's and submitit's variables identify the task), its
Python packages are not.
"""

from __future__ import annotations

import functools
import hashlib
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from phase2hpc.cluster.profiles.profile import ContainerSettings
from phase2hpc.errors import InputError
from phase2hpc.utils.absolute_path import absolute_path
from phase2hpc.utils.command import output_of
from phase2hpc.utils.container_image import DIGEST_VARIABLE

# (offset, magic number) of SIF, which starts with a launch line, of squashfs and of ext2 to ext4.
_IMAGE_MAGIC = ((32, b"SIF_MAGIC"), (0, b"hsqs"), (1080, b"\x53\xef"))
HPC_RUNTIMES = ("apptainer", "singularity")
PYTHON = "python3"
# Variables that a task needs even with a clean container environment.
TASK_VARIABLES = (
    "SLURM_", "SUBMITIT_", "CUDA_", "NVIDIA_", "NCCL_", "GLOO_", "OMP_", "PHASE2HPC_",
    "MASTER_", "RANK", "LOCAL_RANK", "WORLD_SIZE",
)  # fmt: skip
# Packages in the user's home or in the working directory must not shadow those of the image.
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
    """Shell command that starts ``python`` inside the container.

    folders: bound to their own paths, as is the working directory. environment: further variables
    inside. Raises InputError for a folder that cannot be bound.
    """
    binds = [*_binds([Path.cwd(), *folders]), *container.binds]
    nv = gpus if container.nv is None else container.nv
    if digest := image_digest(container):
        environment = {DIGEST_VARIABLE: digest, **environment}
    launch = _Launch(container, python, binds, nv, environment)
    return launch.apptainer() if container.runtime in HPC_RUNTIMES else launch.docker()


def image_exists(container: ContainerSettings) -> bool:
    """False for an image file that this machine does not have; other images are not looked for."""
    return not _is_file(container) or Path(container.image).expanduser().exists()


def _is_file(container: ContainerSettings) -> bool:
    return container.runtime in HPC_RUNTIMES and "://" not in container.image


def checked_image(container: ContainerSettings, *, required: bool = True) -> ContainerSettings:
    """The settings with an absolute image path. Raises InputError if the file is not an image, or
    is missing although it is required; URIs (``docker://...``) and names of docker or podman images
    are not checked."""
    if not _is_file(container):
        return container
    path = Path(container.image).expanduser()
    if required and not image_exists(container):
        raise InputError(
            f"container image {container.image}: no such file; build it (apptainer build), or give "
            "another by --container or in the profile"
        )
    if path.is_file() and not _is_image(path):
        raise InputError(
            f"container image {container.image}: not an image (SIF, squashfs or ext file "
            "system): build it (apptainer build), or give another"
        )
    return container.model_copy(update={"image": str(absolute_path(path))})


def _is_image(path: Path) -> bool:
    """True if a file starts like an image that the runtimes accept."""
    try:
        with path.open("rb") as file:
            head = file.read(2048)
    except OSError as error:
        raise InputError(f"container image {path}: cannot be read ({error.strerror})") from None
    return any(head[offset:].startswith(magic) for offset, magic in _IMAGE_MAGIC)


def image_digest(container: ContainerSettings) -> str | None:
    """``sha256:...`` of a .sif file's content, or docker's or podman's digest; None if unknown:
    a sandbox folder, or an image that only the nodes have."""
    _, named, digest = container.image.partition("@sha256:")
    if named:
        return f"sha256:{digest}"
    if container.runtime not in HPC_RUNTIMES:
        return _digest_from_runtime(container.runtime, container.image)
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
def _digest_from_runtime(runtime: str, image: str) -> str | None:
    # An image that was never in a registry has only an id.
    form = "{{if .RepoDigests}}{{index .RepoDigests 0}}{{else}}{{.Id}}{{end}}"
    answer = output_of([runtime, "image", "inspect", "--format", form, image], 30)
    digest = (answer or "").rpartition("sha256:")[2]
    return f"sha256:{digest}" if digest else None


def _binds(folders: Iterable[Path]) -> list[str]:
    """Each folder once, without subfolders of others, and by the links that lead to it."""
    folders = list(folders)
    resolved = sorted({folder.resolve() for folder in folders} - {Path("/")})
    kept: list[Path] = []
    for folder in resolved:
        if any(character in str(folder) for character in ":,"):
            raise InputError(
                f"{folder}: a folder with ':' or ',' in its name cannot be bound into a container"
            )
        if not any(folder.is_relative_to(other) for other in kept):
            kept.append(folder)
    linked = {absolute_path(folder): folder.resolve() for folder in folders}
    links = [f"{real}:{link}" for link, real in sorted(linked.items()) if link != real]
    return [*(str(folder) for folder in kept), *links]


@dataclass(frozen=True)
class _Launch:
    """A start of Python inside a container: what is bound, whether with GPUs, and variables."""

    container: ContainerSettings
    python: str
    binds: list[str]
    nv: bool
    environment: Mapping[str, str]

    def apptainer(self) -> str:
        # Variables with this prefix are set inside without it, also in a clean environment.
        prefix = f"{self.container.runtime.upper()}ENV_"
        variables = {**_ISOLATION, **self.environment}
        words = ["env", *(f"{prefix}{name}={value}" for name, value in variables.items())]
        words += [self.container.runtime, "exec", *(["--nv"] if self.nv else [])]
        for bind in self.binds:
            words += ["--bind", bind]
        words += ["--pwd", str(Path.cwd()), *self.container.options]
        words += [self.container.image, self.python]
        if _CLEAN.isdisjoint(self.container.options):
            return shlex.join(words)
        names = " ".join(f"${{!{start}@}}" for start in TASK_VARIABLES)
        wrapper = f'for name in {names}; do export "{prefix}$name=${{!name}}"; done; exec "$@"'
        return shlex.join(["bash", "-c", wrapper, "bash", *words])

    def docker(self) -> str:
        # Files must belong to the user who runs this, whatever the image's user: with docker a uid
        # that only the node knows, inside podman, rootless or not, 0. That user has no home: caches
        # go to /tmp.
        is_podman = self.container.runtime == "podman"
        user = "0" if is_podman else '"$(id -u):$(id -g)"'
        gpus = ["--device", "nvidia.com/gpu=all"] if is_podman else ["--gpus", "all"]
        variables = {**_ISOLATION, "HOME": "/tmp", **self.environment}
        words = [self.container.runtime, "run", "--rm", "--network", "host", "--ipc", "host"]
        words += gpus if self.nv else []
        for bind in self.binds:
            words += ["--volume", bind if ":" in bind else f"{bind}:{bind}"]
        for name, value in variables.items():
            words += ["--env", f"{name}={value}"]
        words += ["--workdir", str(Path.cwd()), *self.container.options]
        words += ["--entrypoint", self.python]
        # Only a shell on the node can expand the prefixes.
        listed = "|".join(TASK_VARIABLES)
        wrapper = (
            f"for name in $(compgen -e | grep -E '^({listed})'); do vars+=(--env \"$name\"); done; "
            f'exec {shlex.join(words[:2])} --user {user} "${{vars[@]}}" "$@"'
        )
        return shlex.join(["bash", "-c", wrapper, "bash", *words[2:], self.container.image])
