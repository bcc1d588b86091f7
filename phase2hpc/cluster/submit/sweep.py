"""``--seeds`` and ``--sweep``: the members of one ensemble."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from phase2hpc.errors import InputError
from phase2hpc.training.request import OWN_FLAGS

# More than this in one array is a slip of the hand, and above many sites' limit.
MAX_MEMBERS = 1000


@dataclass(frozen=True)
class Member:
    """What sets a member apart: its seed (None: the request's) and its settings."""

    seed: int | None = None
    overrides: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """As in ``lr=0.001,seed=2``; empty for the only one."""
        parts = [f"{key}={value}" for key, value in self.overrides.items()]
        return ",".join(parts + ([f"seed={self.seed}"] if self.seed is not None else []))

    @property
    def suffix(self) -> str:
        """The end of its run's id, as in ``-lr1e-3-s2``."""
        parts = [
            re.sub(r"[^A-Za-z0-9.-]+", ".", f"{key.replace('_', '')}{value}")
            for key, value in self.overrides.items()
        ]
        parts += [f"s{self.seed}"] if self.seed is not None else []
        return "".join(f"-{part}" for part in parts)


def members(seeds: str | None, sweeps: Sequence[str]) -> list[Member]:
    """The product of all sweeps and the seeds, the seeds running fastest; one plain member
    where there are none of both. Raises InputError."""
    numbers: list[int | None] = list(parse_seeds(seeds)) if seeds is not None else [None]
    swept = [_parse_sweep(sweep) for sweep in sweeps]
    keys = [key for key, _ in swept]
    for key in keys:
        if keys.count(key) > 1:
            raise InputError(f"--sweep {key}: given twice; write its values with commas")
    found = [
        Member(seed, dict(zip(keys, values, strict=True)))
        for values in itertools.product(*(values for _, values in swept))
        for seed in numbers
    ]
    if len(found) > MAX_MEMBERS:
        raise InputError(f"--seeds and --sweep make {len(found)} runs, {MAX_MEMBERS} at most")
    return found


def parse_seeds(text: str) -> list[int]:
    """``0-4``, ``1,3,7`` or ``0-2,5``. Raises InputError."""
    found: list[int] = []
    for part in (part.strip() for part in text.split(",")):
        match = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", part)
        if match is None:
            raise InputError(f"--seeds {text}: write it as 0-4 or 1,3,7")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first >= MAX_MEMBERS:
            raise InputError(f"--seeds {text}: '{part}' is no range of up to {MAX_MEMBERS} seeds")
        found += range(first, last + 1)
    if len(set(found)) < len(found):
        raise InputError(f"--seeds {text}: a seed twice")
    return found


def _parse_sweep(text: str) -> tuple[str, list[str]]:
    key, equals, values = text.partition("=")
    key = key.strip().replace("-", "_")
    listed = [value.strip() for value in values.split(",")]
    if not equals or not key or not all(listed):
        raise InputError(f"--sweep '{text}': write it as key=value,value")
    if key == "seed":
        raise InputError("--sweep seed: give the seeds by --seeds")
    if key in OWN_FLAGS:
        raise InputError(f"--sweep {key}: cannot be swept, only settings can")
    if len(set(listed)) < len(listed):
        raise InputError(f"--sweep '{text}': a value twice")
    return key, listed
