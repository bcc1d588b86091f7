"""Whether this machine, its Slurm and a folder can do what phase2hpc wants of them."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from phase2hpc import __version__
from phase2hpc.cluster.doctor.check import Check, fail, ok, warn
from phase2hpc.cluster.doctor.filesystem import folder_checks
from phase2hpc.cluster.doctor.node import node_checks
from phase2hpc.cluster.doctor.slurm import slurm_checks
from phase2hpc.cluster.profiles.profile import Profile
from phase2hpc.errors import InputError
from phase2hpc.utils.gpus import advice_for_invisible_gpus, gpu_count

TORCH_TIMEOUT_SECONDS = 90.0
RUNTIME_TIMEOUT_SECONDS = 10.0
RUNTIMES = ("apptainer", "singularity", "docker", "podman")
# The commands that an install serves; those of an extra stand on the one before.
_SERVES = {
    "": "submit, status, logs, cancel, runs, levels",
    "data": "prepare, store",
    "train": "train, predict, export",
}
# In a process of its own: importing torch takes seconds, and a broken driver can hang it.
_ASK_TORCH = """
import json, torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
devices = [torch.cuda.get_device_properties(index) for index in range(count)]
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda,
    "devices": [f"{d.name}, {d.total_memory / 2**30:.0f} GiB" for d in devices]}))
"""


def doctor(profile: Profile | None, folder: Path, on_node: bool = False) -> list[Check]:
    """Every check; ``folder`` is where runs go, and need not exist yet.

    Nothing is left behind, and nothing submitted but, with ``on_node``, a job of a moment. Raises
    InputError where that is asked for without a profile for Slurm.
    """
    if on_node and (profile is None or profile.executor == "local"):
        raise InputError("--on-node: name a profile for Slurm by --profile")
    checks = [_python(), *package_checks(), *torch_checks()]
    checks += container_checks(profile)
    checks += folder_checks(folder)
    if profile is None or profile.executor == "slurm":
        checks += slurm_checks(profile)
    if on_node and profile is not None:
        checks += node_checks(profile, folder)
    return checks


def _python() -> Check:
    found = f"{platform.python_version()} at {sys.executable}; phase2hpc {__version__}"
    return ok("python", found)


def package_checks() -> list[Check]:
    """One check for the base install and each extra that commands need: what is missing or old."""
    wanted = _requirements()
    checks = []
    for extra, commands in _SERVES.items():
        name = f"packages [{extra}]" if extra else "packages"
        missing, old, present = [], [], []
        for package, least in wanted.get(extra, []):
            try:
                version = metadata.version(package)
            except metadata.PackageNotFoundError:
                missing.append(package)
                continue
            present.append(f"{package} {version}")
            if _numbers(version) < _numbers(least):
                old.append(f"{package} {version} (needs {least})")
        install = f"pip install 'phase2hpc{f'[{extra}]' if extra else ''}'"
        if old:
            checks.append(fail(name, f"too old: {', '.join(old)}", f"{install} --upgrade"))
        elif missing and not extra:
            checks.append(fail(name, f"missing: {', '.join(missing)}", install))
        elif missing:
            advice = f"needed for {commands} (on a login node that only submits it may stay so): "
            checks.append(warn(name, f"missing: {', '.join(missing)}", advice + install))
        else:
            checks.append(ok(name, f"{commands}: {', '.join(present)}"))
    return checks


def _requirements() -> dict[str, list[tuple[str, str]]]:
    """(package, least version) by extra ('' for the base), from the installed metadata."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in metadata.requires("phase2hpc") or []:
        requirement, _, marker = line.partition(";")
        match = re.match(r"([A-Za-z0-9._-]+)\s*(?:>=\s*([0-9.]+))?", requirement)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", marker)
        if match and match[1] != "phase2hpc":
            found.setdefault(extra[1] if extra else "", []).append((match[1], match[2] or "0"))
    # An extra that stands on another lists that one's packages too.
    found["train"] = [one for one in found.get("train", []) if one not in found.get("data", [])]
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def torch_checks() -> list[Check]:
    """torch, CUDA and the GPUs of this machine; nothing where torch is not installed."""
    try:
        metadata.version("torch")
    except metadata.PackageNotFoundError:
        return []
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ASK_TORCH],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TORCH_TIMEOUT_SECONDS,
            check=False,
        )
        about = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
    except subprocess.TimeoutExpired:
        return [
            warn(
                "torch",
                f"not imported within {TORCH_TIMEOUT_SECONDS:g} s",
                "a slow file system or a hanging GPU driver: try python -c 'import torch' by hand",
            )
        ]
    if about is None:
        words = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return [fail("torch", f"cannot be imported: {words}", "install phase2hpc[train] again")]
    build = f"for CUDA {about['cuda']}" if about["cuda"] else "for CPU"
    checks = [ok("torch", f"{about['version']}, built {build}")]
    if about["devices"]:
        checks.append(ok("GPUs", "; ".join(about["devices"])))
    elif not gpu_count():
        checks.append(ok("GPUs", "none on this machine (as on most login nodes)"))
    elif about["cuda"]:
        advice = advice_for_invisible_gpus(about["cuda"])
        checks.append(fail("GPUs", "there are some, but torch cannot use them", advice))
    else:
        advice = advice_for_invisible_gpus(None)
        checks.append(warn("GPUs", "there are some, but this torch is for CPU only", advice))
    return checks


def container_checks(profile: Profile | None) -> list[Check]:
    """The container runtimes of this machine, and whether the profile's is one of them."""
    found = {runtime: text for runtime in RUNTIMES if (text := _runtime_version(runtime))}
    container = profile.container if profile else None
    listed = ", ".join(found.values())
    if container is None:
        return [ok("container", listed or "no runtime here (needed only to run in a container)")]
    checks = []
    if container.runtime in found:
        checks.append(ok("container", listed))
    elif profile is not None and any("module" in line for line in profile.setup):
        advice = "fine if a module of 'setup' brings it on the node"
        checks.append(warn("container", f"no {container.runtime} on this machine", advice))
    else:
        advice = (
            f"have {container.runtime} installed, load its module in 'setup', or name another "
            f"runtime in the profile ({listed or 'none is here'})"
        )
        checks.append(fail("container", f"no {container.runtime} on this machine", advice))
    return [*checks, *_image_check(container.runtime, container.image)]


def _image_check(runtime: str, image: str) -> list[Check]:
    if runtime in ("docker", "podman") or "://" in image:
        return []
    path = Path(image)
    if not path.exists():
        advice = "build it (apptainer.def is the recipe), or give its path in the profile"
        return [fail("image", f"{image}: not there", advice)]
    size = f", {path.stat().st_size / 2**30:.1f} GiB" if path.is_file() else ", a sandbox"
    return [ok("image", f"{path.resolve()}{size}")]


def _runtime_version(runtime: str) -> str | None:
    if shutil.which(runtime) is None:
        return None
    try:
        done = subprocess.run(
            [runtime, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=RUNTIME_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"\d+(\.\d+)+", done.stdout)
    return f"{runtime} {version[0]}" if done.returncode == 0 and version else None
