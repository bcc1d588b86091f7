"""Space of the settings that a search chooses from: lists of values and ranges.

Whether a range is of whole numbers follows from its setting. Imports neither torch nor Optuna, for
use on login nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from phase2hpc.config.algorithm_registry import algorithm_named, unknown_key
from phase2hpc.config.run_config import RunConfig, build_config, is_list_setting, number_type
from phase2hpc.config.settings import RuntimeSettings, TrainingSettings
from phase2hpc.errors import InputError
from phase2hpc.training.request import OWN_FLAGS

PRESET = "preset"
_RANGE_KEYS = ("low", "high", "log", "step")
MAX_VALUES = 100

Value = int | float | str


class Range(BaseModel):
    """Numbers from low to high, both included. step: None for a continuous range."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    @property
    def is_integer(self) -> bool:
        return isinstance(self.low, int)

    def __str__(self) -> str:
        how = ["log"] if self.log else []
        how += [f"step {self.step:g}"] if self.step is not None else []
        kind = "whole numbers" if self.is_integer else "numbers"
        return ", ".join([f"{kind} from {self.low:g} to {self.high:g}", *how])


class Space(BaseModel):
    """Settings to choose: a range, or values as ``--set`` takes them.

    overrides: settings that all runs share, over those of the level.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    choices: dict[str, Range | tuple[str, ...]]
    overrides: dict[str, Any] = {}

    def lines(self) -> list[str]:
        """Each setting with what it is chosen from."""
        return [
            f"{key}: {chosen if isinstance(chosen, Range) else ' | '.join(chosen)}"
            for key, chosen in self.choices.items()
        ]

    def config_with(self, config: RunConfig, values: Mapping[str, Value]) -> RunConfig:
        """The configuration with chosen values. Raises InputError for values that do not fit."""
        base, chosen = (
            build_config(config.algorithm, config.level, config.properties, settings)
            for settings in (dict(self.overrides), {**self.overrides, **values})
        )
        # Given when the search was resumed.
        later = {
            name: value
            for name, value in config.training
            if value != getattr(base.training, name) and name not in values
        }
        training = chosen.training.model_copy(update=later)
        return config.model_copy(update={"model": chosen.model, "training": training})

    def configs_at_limits(self, config: RunConfig) -> Iterator[RunConfig]:
        """The configuration with each single value and limit of a range.

        Raises InputError as ``config_with``.
        """
        for key, chosen in self.choices.items():
            values = (chosen.low, chosen.high) if isinstance(chosen, Range) else chosen
            for value in values:
                yield self.config_with(config, {key: value})


def parse_space(
    content: Mapping[str, Any], where: str, algorithm: str, overrides: Mapping[str, Any]
) -> Space:
    """A space from a file's content; values are checked by ``configs_at_limits``.

    where: the file's name in messages. overrides: the request's settings. Raises InputError.
    """
    model = algorithm_named(algorithm).settings
    valid = [PRESET, *model.model_fields, *TrainingSettings.model_fields]
    choices: dict[str, Range | tuple[str, ...]] = {}
    for name, given in content.items():
        key = str(name).strip().replace("-", "_")
        if key in OWN_FLAGS or key in RuntimeSettings.model_fields:
            raise InputError(f"{where}: {key}: only settings of the model and the training")
        if key not in valid:
            raise InputError(f"{where}: {unknown_key('setting', key, valid)}")
        if key in overrides:
            raise InputError(f"{where}: {key}: --{key.replace('_', '-')} is given too")
        if key in choices:
            raise InputError(f"{where}: {key}: given twice")
        if isinstance(given, Mapping):
            choices[key] = _range(f"{where}: {key}", given, number_type(key, model))
        elif isinstance(given, Sequence) and not isinstance(given, str):
            choices[key] = _values(f"{where}: {key}", given, is_list_setting(key, model))
        else:
            raise InputError(
                f"{where}: {key}: give a list of values, or a range as {{low: 1, high: 2}}"
            )
    if not choices:
        raise InputError(f"{where}: no setting to choose")
    return Space(choices=choices, overrides=dict(overrides))


def _values(where: str, given: Sequence[Any], of_lists: bool) -> tuple[str, ...]:
    values = []
    for value in given:
        parts = value if of_lists and isinstance(value, (list, tuple)) else [value]
        if any(isinstance(part, (list, tuple, Mapping)) for part in parts):
            raise InputError(f"{where}: a value is a list or a mapping, which it does not take")
        values.append(",".join(_text(part) for part in parts))
    if not 2 <= len(values) <= MAX_VALUES:
        raise InputError(f"{where}: {len(values)} values: give 2 to {MAX_VALUES}")
    if len(set(values)) < len(values):
        raise InputError(f"{where}: the same value twice")
    return tuple(values)


def _text(value: Any) -> str:
    """A value as ``--set`` takes it."""
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value).strip()


def _range(where: str, given: Mapping[str, Any], kind: type[int] | type[float] | None) -> Range:
    if kind is None:
        raise InputError(f"{where}: takes no numbers: give a list of values")
    for key in given:
        if key not in _RANGE_KEYS:
            raise InputError(f"{where}: {unknown_key('key', str(key), _RANGE_KEYS)}")
    if missing := [key for key in ("low", "high") if key not in given]:
        raise InputError(f"{where}: a range needs low and high: {missing[0]} is missing")
    numbers = {
        key: _number(f"{where}: {key}", given[key], kind)
        for key in ("low", "high", "step")
        if key in given
    }
    log = _text(given.get("log", False)).lower()
    if log not in ("true", "false"):
        raise InputError(f"{where}: log: give true or false")
    found = Range.model_validate({**numbers, "log": log == "true"})
    if not found.low < found.high:
        raise InputError(f"{where}: low must be below high")
    if found.log and found.low <= 0:
        raise InputError(f"{where}: a logarithmic range has limits above 0")
    if found.log and found.step is not None:
        raise InputError(f"{where}: log and step: give one of them")
    if found.step is not None and not 0 < found.step <= found.high - found.low:
        raise InputError(f"{where}: step must be above 0 and at most high - low")
    return found


def _number(where: str, value: Any, kind: type[int] | type[float]) -> int | float:
    try:
        number = float("" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: {value!r} is not a number")
    if kind is int and not number.is_integer():
        raise InputError(f"{where}: {value!r} is not a whole number, as the setting is")
    return kind(number)
