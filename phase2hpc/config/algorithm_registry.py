"""Lookup of algorithms and levels by name, installed plug-ins included."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable

from pydantic import ValidationError

from phase2hpc.config.algorithms import ALGORITHMS, LEVEL_NAMES, Algorithm, Level, ModelSettings
from phase2hpc.config.plugins import PluginError, load_plugin, plugin_entry_points
from phase2hpc.config.settings import RuntimeSettings, TrainingSettings
from phase2hpc.errors import InputError
from phase2hpc.utils.error_text import first_problem


@functools.cache
def algorithm_named(name: str) -> Algorithm:
    """A built-in algorithm or an installed plug-in's. Raises InputError for any other name."""
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    plugin = load_plugin(name, _plugin_problem)
    if plugin is None:
        known = unknown_key("algorithm", name, [*ALGORITHMS, *plugin_entry_points()])
        raise InputError(f"{known}; a plug-in's algorithm must be installed here")
    return plugin


def algorithms() -> tuple[dict[str, Algorithm], list[str]]:
    """All algorithms by name, the built-in ones first, and a line for each unusable plug-in."""
    found, problems = dict(ALGORITHMS), []
    for name in plugin_entry_points():
        try:
            plugin = load_plugin(name, _plugin_problem)
        except PluginError as error:
            problems.append(str(error))
        else:
            assert plugin is not None
            found[name] = plugin
    return found, problems


def _plugin_problem(algorithm: Algorithm) -> str | None:
    """The first setting of a plug-in's presets and levels that is not valid."""
    own = algorithm.settings.model_fields.keys()
    others = ("preset", *TrainingSettings.model_fields, *RuntimeSettings.model_fields)
    if shared := sorted(own & set(others)):
        return f"its setting '{shared[0]}' has the name of a training or runtime setting"
    if missing := sorted(ModelSettings.model_fields.keys() - own):
        return f"its settings lack '{missing[0]}': derive them from ModelSettings"
    where = ""
    try:
        for name, preset in algorithm.presets.items():
            where = f"preset '{name}'"
            algorithm.settings.model_validate(dict(preset))
        for name, level in algorithm.levels.items():
            where = f"level '{name}'"
            TrainingSettings.model_validate(dict(level.training))
            if level.preset not in algorithm.presets:
                return f"{where}: no preset '{level.preset}'"
    except ValidationError as error:
        return f"{where}: {first_problem(error, 'setting', flat=True)}"
    return None


def level_named(algorithm: Algorithm, name: str) -> Level:
    """A level of an algorithm. Raises InputError for one that it does not have."""
    if name not in algorithm.levels:
        if name in LEVEL_NAMES:
            levels = ", ".join(algorithm.levels)
            raise InputError(f"algorithm '{algorithm.name}' has no level '{name}', only {levels}")
        raise InputError(unknown_key("level", name, algorithm.levels))
    return algorithm.levels[name]


def unknown_key(kind: str, key: str, valid: Iterable[str]) -> str:
    """An error message with the nearest valid key, or all valid keys."""
    names = list(valid)
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    if near:
        return f"unknown {kind} '{key}': did you mean '{near[0]}'?"
    if len(names) > 12:
        return f"unknown {kind} '{key}': 'phase2hpc levels --settings' lists all {len(names)}"
    return f"unknown {kind} '{key}': valid are {', '.join(names)}"
