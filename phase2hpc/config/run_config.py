"""Validated settings of a run, stored in its run directory as config.json.

``model`` and ``training`` settings change the result and are compared on resume; ``runtime``
settings (paths, device, threads, checkpoint intervals) do not and may differ.
"""

from __future__ import annotations

import difflib
import functools
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError, model_validator

from phase2hpc.config.algorithms import ALGORITHMS, LEVEL_NAMES, Algorithm, Level, ModelSettings
from phase2hpc.config.plugins import PluginError, load_plugin, plugin_entry_points
from phase2hpc.config.properties import ColumnSettings, default_settings
from phase2hpc.errors import InputError
from phase2hpc.utils.error_text import first_problem


class TrainingSettings(BaseModel):
    """Settings of the training; all of them change the result."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: int = Field(ge=1, le=100_000, description="passes over the training crystals")
    batch_size: int = Field(ge=1, le=65_536, description="crystals per step, over all processes")
    lr: float = Field(gt=0, le=1.0, description="peak learning rate")
    max_samples: int | None = Field(
        None, ge=1, description="maximum number of training crystals, drawn by the seed"
    )
    weight_decay: float = Field(
        1e-2, ge=0, description="weight decay of AdamW, on matrices and element tables"
    )
    warmup: float = Field(0.05, ge=0, lt=1, description="fraction of all steps in which lr rises")
    clip_norm: float = Field(5.0, gt=0, description="maximum norm of the gradient")
    ema_decay: float = Field(
        0.999, ge=0, lt=1, description="decay per step of the averaged weights"
    )
    patience: int | None = Field(
        None, ge=1, description="stop after this many epochs without a better validation score"
    )
    max_edges: int | None = Field(
        None,
        ge=1,
        description="maximum edges computed at once, to bound memory: a larger batch is split into "
        "microbatches whose gradients are summed",
    )
    huber_delta: float = Field(
        0.1, gt=0, description="scaled error at which the loss changes from squared to absolute"
    )
    task_weights: Literal["learned", "equal"] = Field(
        "learned", description="weight of each property in the loss (Kendall et al. 2018)"
    )
    label_weight_power: float = Field(
        1.0,
        ge=0,
        le=1,
        description="a property is weighted by (fraction of labelled crystals)^power: with 1 all "
        "labels count equally, with 0 all properties",
    )
    element_baseline: bool = Field(True, description="start from a linear fit to the composition")
    precision: Literal["float32", "float64", "bf16"] = Field(
        "float32",
        description="floating point precision; bf16 trains in autocast, and predictions are then "
        "invariant only to a few percent",
    )
    compile: bool = Field(
        False,
        description="use torch.compile; exact resume was tested on a CPU in float32 only",
    )


class RuntimeSettings(BaseModel):
    """Settings of the execution; none of them changes the result."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    store: Path | None = Field(None, description="graph store; none: that of the shipped sample")
    models_dir: Path = Field(Path("models"), description="folder of all runs")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="device of the model")
    # One: the matrix products of a step are small, and threads that compete with another job for
    # a core slow it down a hundredfold.
    threads: int = Field(1, ge=1, description="CPU threads of torch")
    max_hours: float | None = Field(None, gt=0, description="save and stop after this many hours")
    checkpoint_minutes: float = Field(
        10.0, gt=0, description="maximum minutes between two checkpoints"
    )
    checkpoint_steps: int | None = Field(None, ge=1, description="save every this many steps")
    keep_checkpoints: int = Field(2, ge=1, description="number of checkpoints kept")
    keep_best: int = Field(1, ge=1, description="number of best weights kept, the best as best.pt")


class RunConfig(BaseModel):
    """Configuration of a training run."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    algorithm: str
    level: str
    properties: tuple[str, ...] = Field(min_length=1)
    # Trained, but neither scored nor reported.
    auxiliary: tuple[str, ...] = ()
    # Settings of label columns that differ from the default ones.
    columns: dict[str, ColumnSettings] = {}
    # Of a store with folds; None: its own splits.
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
            return cls.model_validate(json.loads(text))
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


@functools.cache
def algorithm_named(name: str) -> Algorithm:
    """A built-in algorithm or an installed plug-in's. Raises InputError for any other name."""
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    plugin = load_plugin(name, _plugin_problem)
    if plugin is None:
        known = unknown_key("algorithm", name, [*ALGORITHMS, *plugin_entry_points()])
        raise InputError(f"{known}; that of a plug-in has to be installed here")
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


def unknown_key(kind: str, key: str, valid: typing.Iterable[str]) -> str:
    """An error message with the nearest valid key, or all valid keys."""
    names = list(valid)
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    if near or len(names) > 12:
        nearest = near or difflib.get_close_matches(key, names, n=1, cutoff=0.0)
        listed = "" if near else f" ('phase2hpc levels --settings' lists all {len(names)})"
        return f"unknown {kind} '{key}': did you mean '{nearest[0]}'?{listed}"
    return f"unknown {kind} '{key}': valid are {', '.join(names)}"


def build_config(
    algorithm: str,
    level: str,
    properties: typing.Sequence[str],
    overrides: Mapping[str, Any] | None = None,
    **fixed: Any,
) -> RunConfig:
    """The settings of a level, with ``overrides`` by setting name (or ``preset``).

    ``fixed`` are the other fields of RunConfig, as seed and columns. Raises InputError for an
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


def _parse(value: Any, annotation: Any) -> Any:
    """Convert text from the command line: 'none' and comma lists."""
    if not isinstance(value, str):
        return value
    optional = isinstance(annotation, types.UnionType) and type(None) in typing.get_args(annotation)
    if optional and value.lower() in ("none", ""):
        return None
    if typing.get_origin(annotation) is tuple:
        return tuple(part.strip() for part in value.split(","))
    return value
