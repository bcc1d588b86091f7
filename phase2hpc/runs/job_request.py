"""Resource flags of a run's newest job, for a later job with the same request."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class JobRequest(BaseModel):
    """Flags of ``submit`` that concern the job; the run's settings are in its configuration.

    None and empty: not given. profile: a name that resolves from any folder, or an absolute path.
    memory: GiB. time: Slurm's notation. prepare: sources of the store. Unknown flags are kept.
    """

    model_config = ConfigDict(extra="allow", frozen=True, defer_build=True)

    profile: str
    container: str | None = None
    nodes: int | None = None
    gpus_per_node: int | None = None
    tasks_per_node: int | None = None
    cpus: int | None = None
    memory: float | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    job_name: str | None = None
    sbatch: list[str] = []
    prepare: list[str] = []

    def arguments(self, *, prepare: bool) -> list[str]:
        """Command-line arguments. prepare: include ``--prepare``, for a store that is missing."""
        arguments = []
        for name in type(self).model_fields:
            given: Any = getattr(self, name)
            if given is None or (name == "prepare" and not prepare):
                continue
            for value in given if isinstance(given, list) else [given]:
                shown = f"{value:.6g}" if isinstance(value, float) else str(value)
                arguments += [f"--{name.replace('_', '-')}", shown]
        return arguments
