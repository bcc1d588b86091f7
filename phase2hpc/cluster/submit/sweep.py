"""Members of an ensemble from ``--seeds`` and ``--sweep``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from phase2hpc.errors import InputError
from phase2hpc.training.request import OWN_FLAGS
from phase2hpc.training.seeds import MAX_MEMBERS, parse_seeds, seed_label, seed_suffix


@dataclass(frozen=True)
class Member:
    """Seed (None: the request's) and settings of a member."""

    seed: int | None = None
    overrides: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Such as ``lr=0.001,seed=2``; empty for a single run."""
        parts = [f"{key}={value}" for key, value in self.overrides.items()]
        return ",".join(parts + ([seed_label(self.seed)] if self.seed is not None else []))

    @property
    def suffix(self) -> str:
        """Suffix of its run id, such as ``-lr1e-3-s2``."""
        parts = [
            re.sub(r"[^A-Za-z0-9.-]+", ".", f"{key.replace('_', '')}{value}")
            for key, value in self.overrides.items()
        ]
        suffix = "" if self.seed is None else seed_suffix(self.seed)
        return "".join(f"-{part}" for part in parts) + suffix


def members(seeds: str | None, sweeps: Sequence[str]) -> list[Member]:
    """The product of all sweeps and seeds, seeds varying fastest; a single default member without
    either. Raises InputError."""
    numbers: list[int | None] = list(parse_seeds(seeds)) if seeds is not None else [None]
    swept = [_parse_sweep(sweep) for sweep in sweeps]
    keys = [key for key, _ in swept]
    for key in keys:
        if keys.count(key) > 1:
            raise InputError(f"--sweep {key}: given twice: give its values as a comma list")
    found = [
        Member(seed, dict(zip(keys, values, strict=True)))
        for values in itertools.product(*(values for _, values in swept))
        for seed in numbers
    ]
    if len(found) > MAX_MEMBERS:
        raise InputError(f"--seeds and --sweep make {len(found)} runs, {MAX_MEMBERS} at most")
    return found


def _parse_sweep(text: str) -> tuple[str, list[str]]:
    key, equals, values = text.partition("=")
    key = key.strip().replace("-", "_")
    listed = [value.strip() for value in values.split(",")]
    if not equals or not key or not all(listed):
        raise InputError(f"--sweep '{text}': give it as key=value,value")
    if key == "seed":
        raise InputError("--sweep seed: give seeds by --seeds")
    if key in OWN_FLAGS:
        raise InputError(f"--sweep {key}: only settings can be swept")
    if len(set(listed)) < len(listed):
        raise InputError(f"--sweep '{text}': the same value twice")
    return key, listed
