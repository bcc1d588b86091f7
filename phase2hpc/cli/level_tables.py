"""Text tables of algorithms, levels and settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phase2hpc.config.algorithms import ALGORITHMS, Algorithm
from phase2hpc.config.run_config import build_config
from phase2hpc.config.settings import RuntimeSettings, TrainingSettings
from phase2hpc.utils import tables
from phase2hpc.utils.time_format import format_duration

_TRAINING = ("epochs", "batch_size", "lr", "max_samples")


def level_table(algorithms: Mapping[str, Algorithm] = ALGORITHMS) -> str:
    """Every algorithm and level: training settings, preset, properties, resources, folder."""
    header = ("algorithm", "level", *_TRAINING, "preset", "model", "properties", "time", "runs in")
    rows = []
    for algorithm in algorithms.values():
        for name, level in algorithm.levels.items():
            config = build_config(algorithm.name, name, ["band_gap"])
            values = [_text(getattr(config.training, key)) for key in _TRAINING]
            shape = ", ".join(
                f"{key} {_text(value)}" for key, value in algorithm.presets[level.preset].items()
            )
            hours = format_duration(3600 * level.resources.hours)
            folder = algorithm.family(name)
            row = [algorithm.name, name, *values, level.preset, shape, level.properties]
            rows.append([*row, hours, folder])
    return tables.aligned(header, rows, left=len(header))


def settings_table(algorithms: Mapping[str, Algorithm] = ALGORITHMS) -> str:
    """Every setting that ``--set`` takes: its value at each level, and its meaning.

    Levels with the same value are named together: ``std pro max: 0.2``.
    """
    rows = []
    for setting in setting_records(algorithms):
        at: dict[str, list[str]] = {}
        for level, value in setting["values"].items():
            at.setdefault(_text(value), []).append(level)
        (first, *others) = at
        shown = "; ".join(f"{' '.join(levels)}: {value}" for value, levels in at.items())
        rows.append(
            [
                setting["name"],
                " ".join(setting["algorithms"]) or "all",
                shown if others else first,
                setting["meaning"],
            ]
        )
    return tables.aligned(("setting", "algorithm", "value", "meaning"), rows, left=4)


def level_records(algorithms: Mapping[str, Algorithm] = ALGORITHMS) -> list[dict[str, Any]]:
    """Every algorithm and level with all settings in force, for JSON."""
    return [
        {
            "algorithm": algorithm.name,
            "level": name,
            "preset": level.preset,
            "properties": level.properties,
            "hours": level.resources.hours,
            "folder": algorithm.family(name),
            "settings": _in_force(algorithm, name),
        }
        for algorithm in algorithms.values()
        for name, level in algorithm.levels.items()
    ]


def setting_records(algorithms: Mapping[str, Algorithm] = ALGORITHMS) -> list[dict[str, Any]]:
    """Every setting with its value at each level and its meaning, for JSON.

    A setting of an algorithm, or whose value differs between algorithms, has one record for each.
    """
    found: list[dict[str, Any]] = []
    shared: dict[str, list[dict[str, Any]]] = {}
    for algorithm in algorithms.values():
        in_force = {name: _in_force(algorithm, name) for name in algorithm.levels}
        for settings in (algorithm.settings, TrainingSettings, RuntimeSettings):
            for key, field in settings.model_fields.items():
                record: dict[str, Any] = {
                    "name": key,
                    "algorithms": [algorithm.name],
                    "values": {name: values[key] for name, values in in_force.items()},
                    "meaning": field.description or "",
                }
                (found if settings is algorithm.settings else shared.setdefault(key, [])).append(
                    record
                )
    for records in shared.values():
        one = records[0]
        if all(record["values"] == one["values"] for record in records):
            found.append({**one, "algorithms": []})
        else:
            found += records
    return found


def _in_force(algorithm: Algorithm, level: str) -> dict[str, Any]:
    """Values of all settings at a level, by name."""
    config = build_config(algorithm.name, level, ["band_gap"])
    groups = (config.model, config.training, config.runtime)
    return {key: value for group in groups for key, value in group.model_dump(mode="json").items()}


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, (list, tuple)):
        return ",".join(str(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
