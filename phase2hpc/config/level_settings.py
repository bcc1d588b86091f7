"""Settings of a run against those of its level."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from phase2hpc.config.algorithm_registry import algorithm_named
from phase2hpc.config.algorithms import ADDED_SETTINGS
from phase2hpc.config.run_config import RunConfig, build_config


class Override(NamedTuple):
    """A setting that differs from the level's."""

    name: str
    value: Any
    default: Any


def preset_of(config: RunConfig) -> str:
    """The preset with the model's settings, else the level's."""
    algorithm = algorithm_named(config.algorithm)
    values = config.model.model_dump()
    for name, preset in algorithm.presets.items():
        if all(values[key] == value for key, value in preset.items() if key not in ADDED_SETTINGS):
            return name
    return algorithm.levels[config.level].preset


def overrides(config: RunConfig) -> list[Override]:
    """Settings that change the result and differ from the level's, the preset first."""
    preset = preset_of(config)
    usual = algorithm_named(config.algorithm).levels[config.level].preset
    before = _level_values(config.algorithm, config.level, config.properties, preset)
    found = [Override("preset", preset, usual)] if preset != usual else []
    for name, value in _result_values(config).items():
        if value != before[name]:
            found.append(Override(name, value, before[name]))
    return found


@functools.cache  # a table of runs asks for the same few levels
def _level_values(
    algorithm: str, level: str, properties: tuple[str, ...], preset: str
) -> dict[str, Any]:
    return _result_values(build_config(algorithm, level, properties, {"preset": preset}))


def _result_values(config: RunConfig) -> dict[str, Any]:
    return config.model.model_dump(mode="json") | config.training.model_dump(mode="json")
