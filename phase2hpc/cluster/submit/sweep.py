"""Members of an ensemble from ``--seeds`` and ``--sweep``."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from phase2hpc.config.algorithm_registry import algorithm_named
from phase2hpc.config.run_config import is_list_setting
from phase2hpc.errors import InputError
from phase2hpc.training.request import OWN_FLAGS
from phase2hpc.training.seeds import MAX_MEMBERS, parse_seeds, seed_label, seed_suffix

PROPERTIES = "properties"
TRIAL = "trial"
# Swept by one array each, since levels of algorithms differ in resources.
ALGORITHM = "algorithm"
_SWEPT_FLAGS = (ALGORITHM, PROPERTIES)


@dataclass(frozen=True)
class Member:
    """Seed (None: the request's), properties (None: the request's) and settings of a member.

    trial: its number in a search, which chooses its settings when it starts; None: no search.
    """

    seed: int | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    properties: str | None = None
    trial: int | None = None

    @property
    def _swept(self) -> dict[str, Any]:
        named: dict[str, Any] = {} if self.trial is None else {TRIAL: self.trial}
        if self.properties is not None:
            named[PROPERTIES] = self.properties
        return {**named, **self.overrides}

    @property
    def label(self) -> str:
        """Such as ``lr=0.001,seed=2``; empty for a single run."""
        parts = [f"{key}={value}" for key, value in self._swept.items()]
        return ",".join(parts + ([seed_label(self.seed)] if self.seed is not None else []))

    @property
    def suffix(self) -> str:
        """Suffix of its run id, such as ``-lr1e-3-s2``."""
        if self.trial is not None:
            return f"-t{self.trial}"
        parts = [
            re.sub(r"[^A-Za-z0-9.-]+", ".", f"{key.replace('_', '')}{value}")
            for key, value in self._swept.items()
        ]
        suffix = "" if self.seed is None else seed_suffix(self.seed)
        return "".join(f"-{part}" for part in parts) + suffix


@dataclass(frozen=True)
class Sweep:
    """A swept setting (or flag) and its values."""

    key: str
    values: tuple[str, ...]


def members(seeds: str | None, sweeps: Sequence[Sweep]) -> list[Member]:
    """The product of all sweeps and seeds, seeds varying fastest; a single default member without
    either. Raises InputError."""
    numbers: list[int | None] = list(parse_seeds(seeds)) if seeds is not None else [None]
    found = []
    for values in itertools.product(*(sweep.values for sweep in sweeps)):
        swept = dict(zip((sweep.key for sweep in sweeps), values, strict=True))
        properties = swept.pop(PROPERTIES, None)
        found += [Member(seed, swept, properties) for seed in numbers]
        if len(found) > MAX_MEMBERS:
            count = len(numbers)
            for sweep in sweeps:
                count *= len(sweep.values)
            raise InputError(f"--seeds and --sweep make {count} runs, {MAX_MEMBERS} at most")
    (name, count), *_ = Counter(member.suffix for member in found).most_common(1)
    if count > 1:
        raise InputError(f"--sweep: {count} runs would have the name '{name.removeprefix('-')}'")
    return found


def trials(count: str) -> list[Member]:
    """The members of a search with so many trials. Raises InputError."""
    if not re.fullmatch(r"[1-9]\d{0,5}", count.strip()) or int(count) > MAX_MEMBERS:
        raise InputError(
            f"--tune {count}: give the number of trials, 1 to {MAX_MEMBERS}, as in 20 or 20%4"
        )
    return [Member(trial=number) for number in range(int(count))]


def at_once(flag: str, text: str | None) -> tuple[str | None, int | None]:
    """The flag's value without ``%N``, and how many jobs run at once. Raises InputError."""
    listed, percent, number = (text or "").partition("%")
    if not percent:
        return text, None
    if not re.fullmatch(r"[1-9]\d{0,5}", number.strip()):
        raise InputError(f"{flag} {text}: after % give how many run at once, as in {listed}%2")
    return listed, int(number)


def parse_sweeps(texts: Sequence[str], algorithm: str) -> list[Sweep]:
    """``--sweep`` flags: a comma list of values, a range, or values with commas between slashes.

    algorithm: the request's, for the types of settings. Raises InputError.
    """
    given = [_key_and_values(text) for text in texts]
    algorithms = [algorithm]
    for key, values in given:
        if [other for other, _ in given].count(key) > 1:
            raise InputError(f"--sweep {key}: given twice: give all its values in one")
        if key == ALGORITHM:
            algorithms = [name.strip() for name in values.split(",")]
    classes = [algorithm_named(name).settings for name in algorithms if name]
    found = []
    for key, values in given:
        is_list = key == PROPERTIES or any(is_list_setting(key, settings) for settings in classes)
        found.append(Sweep(key, tuple(_listed(key, values) if is_list else _values(key, values))))
    return found


def _key_and_values(text: str) -> tuple[str, str]:
    key, equals, values = text.partition("=")
    key = key.strip().replace("-", "_")
    if not equals or not key or not values.strip():
        raise InputError(f"--sweep '{text}': give it as key=value,value")
    if key == "seed":
        raise InputError("--sweep seed: give seeds by --seeds")
    if key in OWN_FLAGS and key not in _SWEPT_FLAGS:
        raise InputError(f"--sweep {key}: only settings, algorithm and properties can be swept")
    return key, values


def _listed(key: str, text: str) -> list[str]:
    """Values that are lists themselves."""
    if "," in text and "/" not in text:
        raise InputError(
            f"--sweep {key}={text}: a value of '{key}' has commas itself: separate the values by "
            "'/', as in channels=64,32/32,16"
        )
    return _distinct(key, text, [value.strip() for value in text.split("/")])


def _values(key: str, text: str) -> list[str]:
    number = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
    match = re.fullmatch(rf"\s*(?:(log|lin):)?({number})\.\.({number}):(\d{{1,6}})\s*", text)
    if match is None:
        if ".." in text or re.match(r"\s*(log|lin):", text):
            raise InputError(
                f"--sweep {key}={text}: give a range as 0.1..0.5:5 or log:1e-4..1e-2:5 (first, "
                "last and number of values)"
            )
        return _distinct(key, text, [value.strip() for value in text.split(",")])
    first, last, count = float(match[2]), float(match[3]), int(match[4])
    if not 2 <= count <= MAX_MEMBERS:
        raise InputError(f"--sweep {key}={text}: a range has 2 to {MAX_MEMBERS} values")
    logarithmic = match[1] == "log"
    if logarithmic and not (first > 0 and last > 0):
        raise InputError(f"--sweep {key}={text}: a logarithmic range has limits above 0")
    shares = [step / (count - 1) for step in range(count)]
    points = (
        [first * (last / first) ** share for share in shares]
        if logarithmic
        else [first + (last - first) * share for share in shares]
    )
    return _distinct(key, text, [f"{point:.6g}" for point in points])


def _distinct(key: str, text: str, values: list[str]) -> list[str]:
    if not all(values):
        raise InputError(f"--sweep '{key}={text}': give it as key=value,value")
    if len(set(values)) < len(values):
        raise InputError(f"--sweep '{key}={text}': the same value twice")
    return values
