"""What a run's newest job was asked for, so that another one can be asked for the same."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Submission(BaseModel):
    """The flags of ``submit`` that say what job a run gets; its settings are in its configuration.

    None and empty: not given. profile: a name that is found from anywhere, or an absolute path.
    memory: GiB. time: as Slurm writes it. prepare: what its store was to be prepared from, in a
    job before. Flags that this version does not know are kept.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    profile: str
    container: str | None = None
    nodes: int | None = None
    gpus_per_node: int | None = None
    tasks_per_node: int | None = None
    cpus: int | None = None
    memory: float | None = None
    time: str | None = None
    sbatch: list[str] = []
    prepare: list[str] = []

    def words(self, *, prepare: bool) -> list[str]:
        """The command line's words. prepare: whether those of a missing store are wanted."""
        words = []
        for name in type(self).model_fields:
            given: Any = getattr(self, name)
            if given is None or (name == "prepare" and not prepare):
                continue
            for value in given if isinstance(given, list) else [given]:
                shown = f"{value:.6g}" if isinstance(value, float) else str(value)
                words += [f"--{name.replace('_', '-')}", shown]
        return words
