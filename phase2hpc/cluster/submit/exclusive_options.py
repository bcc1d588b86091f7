"""sbatch options that exclude each other, in the profile, its ``sbatch`` field and flags."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from phase2hpc.errors import InputError

MEMORY, CORES, GPUS = "the memory", "the cores", "the GPUs"
# What is requested, and the options of which at most one may request it.
_GROUPS: dict[str, frozenset[str]] = {
    MEMORY: frozenset({"mem", "mem-per-cpu", "mem-per-gpu"}),
    CORES: frozenset({"cpus-per-task", "cpus-per-gpu"}),
    GPUS: frozenset({"gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task"}),
    "the sharing of nodes": frozenset({"exclusive", "oversubscribe"}),
    "specialized cores": frozenset({"core-spec", "thread-spec"}),
    "the tasks of a core": frozenset({"hint", "ntasks-per-core"}),
    "the threads of a core": frozenset({"hint", "threads-per-core"}),
    "the sockets": frozenset({"hint", "extra-node-info"}),
    "the nodes": frozenset({"nodelist", "nodefile"}),
    "requeue": frozenset({"requeue", "no-requeue"}),
}
# Elements of --gres that are GPUs or shares of one: Slurm gives a job one or the other.
_GPU_GRES = r"(gres[/:])?(gpu|shard|mps)\b"
_WHOLE_GPU = r"(^|,)(gres[/:])?gpu\b"
# The same by the value of options that request several things.
_BY_VALUE = (
    ("gres", GPUS, rf"(^|,){_GPU_GRES}"),
    ("tres-per-task", GPUS, rf"(^|,){_GPU_GRES}"),
    ("tres-per-task", CORES, r"(^|,)cpu\b"),
    ("tres-per-task", MEMORY, r"(^|,)mem\b"),
)


@dataclass(frozen=True)
class SbatchOption:
    """An option, its value (True: without one) and the place where it was given."""

    name: str
    value: str | bool
    origin: str

    def requests(self) -> set[str]:
        """Requests of this option that other options make too."""
        found = {what for what, names in _GROUPS.items() if self.name in names}
        return found | {
            what
            for name, what, pattern in _BY_VALUE
            if name == self.name and re.search(pattern, str(self.value))
        }

    @property
    def is_per_gpu(self) -> bool:
        """Whether it says how much of something each GPU has."""
        return self.name.endswith("-per-gpu")

    @property
    def requests_whole_gpus(self) -> bool:
        by_value = self.name in ("gres", "tres-per-task")
        return self.name in _GROUPS[GPUS] or (
            by_value and re.search(_WHOLE_GPU, str(self.value)) is not None
        )

    def without_gpus(self) -> SbatchOption | None:
        """The option for a job without GPUs; None if it concerns them alone."""
        if self.name.startswith(("gpu-", "gpus")) or self.is_per_gpu:
            return None
        if self.name not in ("gres", "tres-per-task"):
            return self
        kept = [part for part in str(self.value).split(",") if not re.match(_GPU_GRES, part)]
        return SbatchOption(self.name, ",".join(kept), self.origin) if kept else None


def further_options(
    in_profile: Mapping[str, str | bool], flags: Mapping[str, str | bool], *, gpus: bool
) -> list[SbatchOption]:
    """The options of a profile's ``sbatch`` and of ``--sbatch``, which override them.

    gpus: whether the job has GPUs; if not, options that concern them are left out. Raises
    InputError for two that exclude each other.
    """
    by_name = {
        name: SbatchOption(name, value, f"{name} in the profile's sbatch")
        for name, value in in_profile.items()
    } | {name: SbatchOption(name, value, f"--sbatch {name}") for name, value in flags.items()}
    given = [option for option in by_name.values() if option.value is not False]
    if not gpus:
        given = [kept for option in given if (kept := option.without_gpus())]
    for position, option in enumerate(given):
        for other in given[:position]:
            for what in sorted(option.requests() & other.requests()):
                raise _contradiction(what, option.origin, other.origin)
    return given


def rival(what: str, options: Iterable[SbatchOption], place: str | None) -> SbatchOption | None:
    """The option that requests ``what`` instead of a level's default.

    place: field or flag that requests it too, None for the default alone. Raises InputError if
    both do.
    """
    for option in options:
        if what in option.requests():
            if place is not None:
                raise _contradiction(what, place, option.origin)
            return option
    return None


def refuse_per_gpu_without_gpus(
    options: Iterable[SbatchOption], fields: Mapping[str, str], *, requested: bool
) -> None:
    """Raise InputError for a request per GPU in a job that requests no whole GPU.

    fields: the profile's, by name, that may be requests per GPU. requested: GPUs beside options.
    """
    options = list(options)
    if requested or any(option.requests_whole_gpus for option in options):
        return
    places = [f"{field}: {value}" for field, value in fields.items() if value.endswith("-per-gpu")]
    places += [option.origin for option in options if option.is_per_gpu]
    if places:
        raise InputError(
            f"{places[0]} needs a request of GPUs, and the profile's gpu_request is none: Slurm "
            "would refuse the job; leave one of them out"
        )


def _contradiction(what: str, place: str, other: str) -> InputError:
    advice = " (gpu_request: none leaves them to sbatch)" if what == GPUS else ""
    return InputError(f"{place} and {other} both set {what}: give one of them{advice}")
