"""Text tables of algorithms, levels and settings."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

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
    """Every setting that ``--set`` takes: its default and its meaning."""
    groups: list[tuple[str, type[BaseModel]]] = [
        (f"model, {algorithm.name}", algorithm.settings) for algorithm in algorithms.values()
    ]
    groups += [("training", TrainingSettings), ("runtime", RuntimeSettings)]
    rows = []
    for group, settings in groups:
        for key, field in settings.model_fields.items():
            default = "by level" if field.default is PydanticUndefined else _text(field.default)
            rows.append([group, key, default, field.description or ""])
    return tables.aligned(("group", "setting", "default", "meaning"), rows, left=4)


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
