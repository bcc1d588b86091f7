"""Required packages by extra, as pyproject.toml lists them."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING

from phase2hpc.utils.package_files import is_checkout, shared_path

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "phase2hpc"
# Each adds to those before it; "" is the base install.
EXTRAS = ("", "data", "train", "tune")
# Modules that do not have their distribution's name.
_MODULES = {"pyyaml": "yaml"}


@cache
def requirements(extra: str = "") -> tuple[Requirement, ...]:
    """Requirements of the base install, or those that an extra adds to the extras before it."""
    # Imported here: commands that only need the versions are quick without it.
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    before = {r.name for e in EXTRAS[: EXTRAS.index(extra)] for r in requirements(e)}
    found = []
    for line in _required():
        requirement = Requirement(line)
        requirement.name = canonicalize_name(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        # An extra that includes another repeats that one's packages, or names phase2hpc[other].
        if applies and requirement.name not in {*before, DISTRIBUTION}:
            found.append(requirement)
    return tuple(found)


def _required() -> list[str]:
    # The metadata of an editable install is as old as its last `pip install`.
    if not is_checkout():
        return metadata.requires(DISTRIBUTION) or []
    import tomllib

    project = tomllib.loads(shared_path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"].items()
    return [
        *project["dependencies"],
        *(f"{line}; extra == '{extra}'" for extra, lines in optional for line in lines),
    ]


def module_of(requirement: Requirement) -> str:
    """The name to import of a required package."""
    return _MODULES.get(requirement.name, requirement.name.replace("-", "_"))


def modules(extra: str) -> list[str]:
    """Names to import of all packages that an installation with this extra has."""
    extras = EXTRAS[: EXTRAS.index(extra) + 1]
    return [module_of(r) for each in extras for r in requirements(each)]


def extra_with(module: str) -> str | None:
    """The extra that installs a top-level module, "" for the base; None for a foreign module."""
    return next((e for e in EXTRAS if module in map(module_of, requirements(e))), None)


@contextmanager
def missing_extra_errors(what: str) -> Iterator[None]:
    """A ModuleNotFoundError for a package of an extra says what needs it and how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if not (extra := extra_with(module)):
            raise
        raise ModuleNotFoundError(
            f"{what} needs {module}, which is not installed here: pip install 'phase2hpc[{extra}]'",
            name=error.name,
        ) from error


def installed_versions() -> dict[str, str]:
    """Versions of Python, of phase2hpc and of its requirements that are installed."""
    versions = {"python": platform.python_version()}
    for name in (DISTRIBUTION, *(r.name for extra in EXTRAS for r in requirements(extra))):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
