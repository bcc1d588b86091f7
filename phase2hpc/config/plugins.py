"""Algorithms of installed packages, found through the entry-point group ``phase2hpc.algorithms``.

An entry point has the algorithm's name and refers to an ``Algorithm``:

    [project.entry-points."phase2hpc.algorithms"]
    schnet = "phase2hpc_schnet:SCHNET"

A package is imported only when its algorithm is requested or all are listed, and a broken package
does not affect others.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata

from phase2hpc.config.algorithms import ALGORITHMS, LEVEL_NAMES, Algorithm
from phase2hpc.errors import InputError
from phase2hpc.utils.error_text import first_line
from phase2hpc.utils.text import one_line

GROUP = "phase2hpc.algorithms"
# A check of an algorithm's settings: the problem in one line, or None.
Check = Callable[[Algorithm], str | None]

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class PluginError(InputError):
    """An installed plug-in cannot be used; the message names its distribution."""


@functools.cache
def plugin_entry_points() -> dict[str, list[metadata.EntryPoint]]:
    """Entry points of the group by name; several where distributions claim one name."""
    found: dict[str, list[metadata.EntryPoint]] = {}
    for point in metadata.entry_points(group=GROUP):
        found.setdefault(point.name, []).append(point)
    return dict(sorted(found.items()))


def load_plugin(name: str, check: Check) -> Algorithm | None:
    """The algorithm that a plug-in registers under ``name``, None where there is no such plug-in.

    Raises:
        PluginError: the plug-in cannot be loaded, or what it registers is not a valid algorithm.
    """
    points = plugin_entry_points().get(name)
    if points is None:
        return None
    providers = " and ".join(map(_distribution, points))
    label = f"algorithm '{one_line(name)}' of {providers}"
    if name in ALGORITHMS:
        raise PluginError(f"{label}: the name is built in and cannot be replaced")
    if len(points) > 1:
        raise PluginError(f"{label}: registered more than once, uninstall all but one")
    try:
        algorithm = points[0].load()
        problem = _problem(name, algorithm) or check(algorithm)
    # Importing a package runs arbitrary code.
    except (Exception, SystemExit) as error:
        detail = f"{type(error).__name__}: {first_line(error)}"[:200]
        raise PluginError(
            f"{label}: cannot be loaded from {points[0].value} ({detail}); update or uninstall it"
        ) from error
    if problem is not None:
        raise PluginError(f"{label}: {one_line(problem)}; update or uninstall it")
    assert isinstance(algorithm, Algorithm)
    return replace(algorithm, provider=providers)


def _distribution(point: metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"


def _problem(name: str, algorithm: object) -> str | None:
    """Problem of a plug-in's algorithm other than its settings, or None."""
    if not isinstance(algorithm, Algorithm):
        return f"its entry point is of type {type(algorithm).__name__}, not an Algorithm"
    if algorithm.name != name:
        return f"its entry point is named '{name}', the algorithm '{algorithm.name}'"
    if not _NAME.fullmatch(name):
        return "a name has lower-case letters, digits, '_' and '-'"
    if not algorithm.levels or not algorithm.presets:
        return "it has no level or no preset"
    if other := sorted(set(algorithm.levels) - set(LEVEL_NAMES)):
        return f"it has a level '{other[0]}'; levels are {', '.join(LEVEL_NAMES)}"
    families = {algorithm.family(level) for level in LEVEL_NAMES}
    taken = {a.family(level) for a in ALGORITHMS.values() for level in LEVEL_NAMES}
    fit = all(map(_FOLDER.fullmatch, families))
    if not fit or len(families) < len(LEVEL_NAMES) or families & taken:
        return f"folder '{algorithm.folder}' is not one folder name of its own for each level"
    return None
