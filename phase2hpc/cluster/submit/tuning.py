"""Spaces of ``submit --tune N --space FILE``: read from YAML or TOML, and checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phase2hpc.cluster.profiles.yaml_loader import read_mapping, read_small_file
from phase2hpc.config.run_config import RunConfig
from phase2hpc.errors import InputError
from phase2hpc.training.tuning.space import Space, parse_space

KIND = "space of settings"


def read_space(path: Path, algorithm: str, overrides: Mapping[str, Any]) -> Space:
    """The space in a file (``.toml``, else YAML). Raises InputError."""
    content = _read_toml(path) if path.suffix == ".toml" else read_mapping(path, KIND)
    return parse_space(content, str(path), algorithm, overrides)


def checked_space(space: Space, config: RunConfig, where: str) -> list[RunConfig]:
    """The configuration with each value and limit by itself. Raises InputError for a wrong one."""
    try:
        return list(space.configs_at_limits(config))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_small_file(path, KIND).decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not TOML ({' '.join(str(error).split())})") from None
