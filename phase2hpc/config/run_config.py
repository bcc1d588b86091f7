"""What a run is: validated settings, written to its run directory and read back from there.

Three groups of settings: ``model`` and ``training`` change the result and are compared on resume;
``runtime`` (paths, device, threads, checkpoint intervals, logging) does not and may differ.
"""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError, model_validator

from phase2hpc.config.algorithms import ALGORITHMS, LEVEL_NAMES, Algorithm, Level, ModelSettings
from phase2hpc.errors import InputError
from phase2hpc.utils.error_text import first_problem


class TrainingSettings(BaseModel):
    """How a model is trained; everything here changes the result."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: int = Field(ge=1, le=100_000, description="passes over the training crystals")
    batch_size: int = Field(ge=1, le=65_536, description="crystals a step, over all processes")
    lr: float = Field(gt=0, le=1.0, description="peak learning rate")
    max_samples: int | None = Field(
        None, ge=1, description="at most so many training crystals, drawn by the seed"
    )
    weight_decay: float = Field(1e-2, ge=0, description="AdamW's, on matrices and element tables")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of all steps in which lr rises")
    clip_norm: float = Field(5.0, gt=0, description="largest norm of a step's gradient")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="decay of the averaged weights a step")
    patience: int | None = Field(
        None, ge=1, description="stop after so many epochs without a better validation score"
    )
    max_edges: int | None = Field(
        None,
        ge=1,
        description="edges computed at once; a batch of more is computed in parts whose gradients "
        "are added, which bounds memory",
    )
    huber_delta: float = Field(
        0.1, gt=0, description="scaled error at which the loss turns from square to absolute"
    )
    task_weights: Literal["learned", "equal"] = Field(
        "learned", description="weight of each property in the loss (Kendall et al. 2018)"
    )
    label_weight_power: float = Field(
        1.0,
        ge=0,
        le=1,
        description="a property weighs (its share of labelled crystals)^power: 1 each label "
        "counts alike, 0 each property",
    )
    element_baseline: bool = Field(True, description="start from a linear fit on the composition")
    precision: Literal["float32", "float64", "bf16"] = Field(
        "float32",
        description="arithmetic; bf16 trains in autocast, invariance then holds to percents only",
    )
    compile: bool = Field(
        False,
        description="torch.compile the model; resume was exact on a CPU in float32, not tried on a "
        "GPU",
    )


class RuntimeSettings(BaseModel):
    """Where and how a run executes; nothing here changes the result."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    store: Path | None = Field(None, description="graph store; None: the shipped sample's")
    models_dir: Path = Field(Path("models"), description="folder of all runs")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where tensors live")
    # One: the products of a step are small, and threads that wait for a core that another job
    # has are a hundred times slower than none.
    threads: int = Field(1, ge=1, description="CPU threads of torch")
    max_hours: float | None = Field(None, gt=0, description="stop, saved, after so many hours")
    checkpoint_minutes: float = Field(10.0, gt=0, description="save at least so often")
    checkpoint_steps: int | None = Field(None, ge=1, description="save every so many steps")
    keep_checkpoints: int = Field(2, ge=1, description="full states kept")
    keep_best: int = Field(1, ge=1, description="best weights kept, the best as best.pt")


class RunConfig(BaseModel):
    """The whole configuration of a training run."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    algorithm: str
    level: str
    properties: tuple[str, ...] = Field(min_length=1)
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

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> RunConfig:
        """Read a configuration back; ``where`` names it in the error."""
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
        """The settings that change the result, flat: what a resume must find unchanged."""
        flat: dict[str, Any] = {"algorithm": self.algorithm, "level": self.level}
        flat |= {
            "properties": list(self.properties),
            "seed": self.seed,
            "init_from": self.init_from,
        }
        for group in (self.model, self.training):
            flat |= group.model_dump(mode="json")
        return flat


def algorithm_named(name: str) -> Algorithm:
    if name not in ALGORITHMS:
        raise InputError(unknown_key("algorithm", name, ALGORITHMS))
    return ALGORITHMS[name]


def level_named(algorithm: Algorithm, name: str) -> Level:
    if name not in algorithm.levels:
        raise InputError(unknown_key("level", name, LEVEL_NAMES))
    return algorithm.levels[name]


def unknown_key(kind: str, key: str, valid: typing.Iterable[str]) -> str:
    """One line that names the nearest valid key, or all of them."""
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
    """The settings of a level with ``overrides`` (flat, by setting name; ``preset`` too) on top.

    ``fixed`` are seed and init_from. Raises InputError in one line for an unknown key or a value
    that does not fit.
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
    """``--set key=value`` flags as a dict."""
    parsed = {}
    for item in assignments:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set '{item}': write it as key=value")
        parsed[key.strip().replace("-", "_")] = value.strip()
    return parsed


def _parse(value: Any, annotation: Any) -> Any:
    """Text from the command line as what the setting holds: 'none', comma lists."""
    if not isinstance(value, str):
        return value
    optional = isinstance(annotation, types.UnionType) and type(None) in typing.get_args(annotation)
    if optional and value.lower() in ("none", ""):
        return None
    if typing.get_origin(annotation) is tuple:
        return tuple(part.strip() for part in value.split(","))
    return value
