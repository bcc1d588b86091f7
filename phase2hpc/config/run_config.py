"""Validated settings of a run, stored in its run directory as config.json.

``model`` and ``training`` settings change the result and are compared on resume; ``runtime``
settings (paths, device, threads, checkpoint intervals) do not and may differ.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError, model_validator

from phase2hpc.config.algorithm_registry import algorithm_named, level_named, unknown_key
from phase2hpc.config.algorithms import ModelSettings
from phase2hpc.config.properties import ColumnSettings, default_settings
from phase2hpc.config.settings import RuntimeSettings, TrainingSettings
from phase2hpc.errors import InputError
from phase2hpc.utils.error_text import first_problem


class RunConfig(BaseModel):
    """Configuration of a training run."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    algorithm: str
    level: str
    properties: tuple[str, ...] = Field(min_length=1)
    # Trained, but neither scored nor reported.
    auxiliary: tuple[str, ...] = ()
    # Settings of label columns that differ from the default ones.
    columns: dict[str, ColumnSettings] = {}
    # Fold of a store with folds; None: the splits of the store.
    fold: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0, le=2**63 - 1)
    init_from: str | None = None
    model: SerializeAsAny[ModelSettings]
    training: TrainingSettings
    runtime: RuntimeSettings = RuntimeSettings()

    @model_validator(mode="before")
    @classmethod
    def _settings_of_the_algorithm(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("model"), Mapping):
            algorithm = algorithm_named(str(data.get("algorithm")))
            level_named(algorithm, str(data.get("level")))
            settings = algorithm.settings
            data = {**data, "model": settings.model_validate(data["model"])}
        return data

    def column(self, name: str) -> ColumnSettings:
        """Unit, lower bound and scale of a property."""
        return self.columns.get(name, ColumnSettings()).over(default_settings(name))

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> RunConfig:
        """Parse a configuration. Raises InputError; ``where`` names the file in its message."""
        try:
            return cls.model_validate(_of_older_versions(json.loads(text)))
        except ValidationError as error:
            raise InputError(f"{where}: {first_problem(error, 'setting', flat=True)}") from None
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        except RecursionError:
            raise InputError(f"{where}: not a run configuration (nested too deeply)") from None
        except ValueError as error:
            raise InputError(f"{where}: not a run configuration ({error})") from None

    def identity(self) -> dict[str, Any]:
        """The settings that change the result, flat; a resume compares them."""
        flat: dict[str, Any] = {"algorithm": self.algorithm, "level": self.level}
        flat |= {
            "properties": list(self.properties),
            "auxiliary": list(self.auxiliary),
            "columns": {name: column.model_dump() for name, column in self.columns.items()},
            "fold": self.fold,
            "seed": self.seed,
            "init_from": self.init_from,
        }
        for group in (self.model, self.training):
            flat |= group.model_dump(mode="json")
        return flat


def _of_older_versions(loaded: object) -> object:
    """With the values that settings had before there were these settings."""
    training = loaded.get("training") if isinstance(loaded, dict) else None
    if isinstance(training, dict):
        training.setdefault("one_sided_bounds", False)
    return loaded


def build_config(
    algorithm: str,
    level: str,
    properties: typing.Sequence[str],
    overrides: Mapping[str, Any] | None = None,
    **fixed: Any,
) -> RunConfig:
    """The settings of a level, with ``overrides`` by setting name (or ``preset``).

    ``fixed``: other fields of RunConfig, such as seed and columns. Raises InputError for an
    unknown key or an invalid value.
    """
    chosen = algorithm_named(algorithm)
    row = level_named(chosen, level)
    given = dict(overrides or {})
    preset = given.pop("preset", row.preset)
    if preset not in chosen.presets:
        raise InputError(unknown_key("preset", str(preset), chosen.presets))
    groups: dict[str, type[BaseModel]] = {
        "model": chosen.settings,
        "training": TrainingSettings,
        "runtime": RuntimeSettings,
    }
    values: dict[str, dict[str, Any]] = {
        "model": dict(chosen.presets[preset]),
        "training": dict(row.training),
        "runtime": {},
    }
    for key, value in given.items():
        for name, settings in groups.items():
            if key in settings.model_fields:
                values[name][key] = _parse(value, settings.model_fields[key].annotation)
                break
        else:
            valid = [k for settings in groups.values() for k in settings.model_fields]
            raise InputError(unknown_key("setting", key, ["preset", *valid]))
    try:
        return RunConfig.model_validate(
            {
                "algorithm": algorithm,
                "level": level,
                "properties": tuple(properties),
                **fixed,
                **values,
            }
        )
    except ValidationError as error:
        raise InputError(first_problem(error, "setting", flat=True)) from None


def parse_assignments(assignments: typing.Sequence[str]) -> dict[str, str]:
    """Parse ``--set key=value`` flags. Raises InputError."""
    parsed = {}
    for item in assignments:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set '{item}': write it as key=value")
        parsed[key.strip().replace("-", "_")] = value.strip()
    return parsed


def is_list_setting(key: str, model_settings: type[BaseModel]) -> bool:
    """True for a setting that holds several values, which are given as a comma list."""
    groups = (model_settings, TrainingSettings, RuntimeSettings)
    fields = [group.model_fields[key] for group in groups if key in group.model_fields]
    return any(_is_tuple(field.annotation) for field in fields)


def number_type(key: str, model_settings: type[BaseModel]) -> type[int] | type[float] | None:
    """The type of a setting that is one number, None for any other; it may be ``none`` too."""
    for group in (model_settings, TrainingSettings, RuntimeSettings):
        if key in group.model_fields:
            annotation = group.model_fields[key].annotation
            kinds = typing.get_args(annotation) or (annotation,)
            return next((kind for kind in (int, float) if kind in kinds), None)
    return None


def _is_tuple(annotation: Any) -> bool:
    members = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else ()
    return any(typing.get_origin(kind) is tuple for kind in (annotation, *members))


def _parse(value: Any, annotation: Any) -> Any:
    """Convert text from the command line: 'none' and comma lists."""
    if not isinstance(value, str):
        return value
    optional = isinstance(annotation, types.UnionType) and type(None) in typing.get_args(annotation)
    if optional and value.lower() in ("none", ""):
        return None
    if _is_tuple(annotation) and value.lower() != "none":
        return tuple(part.strip() for part in value.split(","))
    return value
