"""Tables of the levels and of all settings."""

from __future__ import annotations

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from phase2hpc.config.algorithms import ALGORITHMS
from phase2hpc.config.run_config import RuntimeSettings, TrainingSettings, build_config
from phase2hpc.utils import tables

_TRAINING = ("epochs", "batch_size", "lr", "max_samples")


def level_table() -> str:
    """One row per level: training settings, preset, properties, hours and folder."""
    header = ("algorithm", "level", *_TRAINING, "preset", "model", "properties", "hours", "runs in")
    rows = []
    for algorithm in ALGORITHMS.values():
        for name, level in algorithm.levels.items():
            config = build_config(algorithm.name, name, ["band_gap"])
            values = [_text(getattr(config.training, key)) for key in _TRAINING]
            shape = ", ".join(
                f"{key} {_text(value)}" for key, value in algorithm.presets[level.preset].items()
            )
            hours = f"{level.resources.hours:g}"
            folder = algorithm.folder.format(level=name)
            rows.append(
                [
                    algorithm.name,
                    name,
                    *values,
                    level.preset,
                    shape,
                    level.properties,
                    hours,
                    folder,
                ]
            )
    return tables.aligned(header, rows, left=len(header))


def settings_table() -> str:
    """One row per setting of ``--set``: default and meaning."""
    groups: list[tuple[str, type[BaseModel]]] = [
        (f"model, {algorithm.name}", algorithm.settings) for algorithm in ALGORITHMS.values()
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
