"""Requirements of the installed distribution, by extra."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DISTRIBUTION = "phase2hpc"
# Each includes those before it; "" is the base install.
EXTRAS = ("", "data", "train")


@dataclass(frozen=True)
class Problem:
    """A requirement that this environment does not meet; ``installed`` is None where it is
    missing."""

    requirement: Requirement
    installed: str | None

    def __str__(self) -> str:
        name = self.requirement.name
        if self.installed is None:
            return name
        return f"{name} {self.installed} (needs {self.requirement.specifier})"


@cache
def requirements(extra: str = "") -> tuple[Requirement, ...]:
    """The requirements that an extra adds to the ones before it in EXTRAS; empty where
    phase2hpc runs from a checkout that is not installed."""
    try:
        listed = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        return ()
    before = EXTRAS[: EXTRAS.index(extra)]
    known = {found.name for other in before for found in requirements(other)}
    return tuple(
        found
        for found in listed
        if found.name not in {*known, DISTRIBUTION}
        and (found.marker is None or found.marker.evaluate({"extra": extra}))
    )


def required_packages(extra: str) -> list[str]:
    """Names of all packages that an install with this extra has."""
    needed = EXTRAS[: EXTRAS.index(extra) + 1]
    return [found.name for other in needed for found in requirements(other)]


def installed_version(package: str) -> str | None:
    """The installed version of a package; None where it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def problems(extra: str) -> list[Problem]:
    """What an extra adds and this environment lacks or has too old."""
    found = [Problem(needed, installed_version(needed.name)) for needed in requirements(extra)]
    return [
        problem
        for problem in found
        if problem.installed is None
        or not problem.requirement.specifier.contains(problem.installed, prereleases=True)
    ]


def extra_of_module(module: str) -> str | None:
    """The extra that brings a missing top-level module; None for one that is no requirement."""
    name = canonicalize_name(module)
    for extra in EXTRAS:
        if any(canonicalize_name(found.name) == name for found in requirements(extra)):
            return extra
    return None
