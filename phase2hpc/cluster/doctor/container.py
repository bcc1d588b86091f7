"""Checks of container runtimes and of the profile's image."""

from __future__ import annotations

import re
from pathlib import Path

from phase2hpc.cluster.doctor.check import Check, fail, ok, warn
from phase2hpc.cluster.profiles.profile import Profile
from phase2hpc.utils.absolute_path import absolute_path
from phase2hpc.utils.command import output_of

RUNTIME_TIMEOUT_SECONDS = 10.0
RUNTIMES = ("apptainer", "singularity", "docker", "podman")


def container_checks(profile: Profile | None) -> list[Check]:
    """The container runtimes of this machine, the profile's among them."""
    found = {runtime: text for runtime in RUNTIMES if (text := _runtime_version(runtime))}
    container = profile.container if profile else None
    listed = ", ".join(found.values())
    if container is None:
        return [ok("container", listed or "no runtime (needed only for containers)")]
    checks = []
    if container.runtime in found:
        checks.append(ok("container", listed))
    elif profile is not None and any("module" in line for line in profile.setup):
        advice = "no problem if a module in 'setup' provides it on the node"
        checks.append(warn("container", f"no {container.runtime} on this machine", advice))
    else:
        advice = (
            f"install {container.runtime}, load its module in 'setup', or name another "
            f"runtime in the profile ({listed or 'none here'})"
        )
        checks.append(fail("container", f"no {container.runtime} on this machine", advice))
    return [*checks, *_image_check(container.runtime, container.image)]


def _image_check(runtime: str, image: str) -> list[Check]:
    if runtime in ("docker", "podman") or "://" in image:
        return []
    path = Path(image)
    if not path.exists():
        advice = "build it (apptainer.def is the recipe), or give its path in the profile"
        return [fail("image", f"{image}: no such file", advice)]
    size = f", {path.stat().st_size / 2**30:.1f} GiB" if path.is_file() else ", a sandbox"
    return [ok("image", f"{absolute_path(path)}{size}")]


def _runtime_version(runtime: str) -> str | None:
    answer = output_of([runtime, "--version"], RUNTIME_TIMEOUT_SECONDS)
    version = re.search(r"\d+(\.\d+)+", answer or "")
    return f"{runtime} {version[0]}" if version else None
