"""Several processes that train one model: who this one is, and what they tell each other.

Every rank computes its share of each global batch; gradients, losses and flags are added up, so
all ranks take the same step and hold the same weights. Only the main rank writes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from phase2hpc.errors import InputError, Phase2Error, StoppedEarly
from phase2hpc.runs import provenance
from phase2hpc.training.distributed.rank_monitor import Failure, RankMonitor, rendezvous
from phase2hpc.utils.error_text import first_line

Result = TypeVar("Result")

# A rank that is gone is noticed at once. This is for one that hangs, and must be longer than what
# the main rank does alone: preparing a store, waiting for a lease.
HUNG = timedelta(hours=2)
# What a shell says of a command that SIGINT ended.
INTERRUPTED = 130


@dataclass(frozen=True)
class World:
    """This process among ``size``; alone, every exchange returns what it was given."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    rank_monitor: RankMonitor | None = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def all_reduce(self, tensor: Tensor) -> None:
        """The sum over all ranks, in place."""
        if self.size > 1:
            distributed.all_reduce(tensor)

    def all_reduce_gradients(self, parameters: Sequence[Tensor], others: Tensor) -> None:
        """The sum over all ranks of each parameter's gradient, and of ``others``, in place.

        One exchange of one flat tensor: the models are small, so latency is what costs.
        """
        if self.size == 1:
            return
        gradients = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        flat = torch.cat([g.reshape(-1) for g in gradients] + [others.to(gradients[0].dtype)])
        distributed.all_reduce(flat)
        parts = torch.split(flat, [*(g.numel() for g in gradients), others.numel()])
        for gradient, part in zip(gradients, parts[:-1], strict=True):
            gradient.copy_(part.view_as(gradient))
        others.copy_(parts[-1])

    def broadcast(self, tensors: Iterator[Tensor]) -> None:
        """The main rank's values everywhere, in place."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, src=0)

    def all_gather(self, value: Any) -> list[Any]:
        """Each rank's plain value, in the order of ranks, on every rank."""
        values: list[Any] = [value]
        if self.size > 1:
            values = [None] * self.size
            distributed.all_gather_object(values, value)
        return values

    def run_on_main(self, function: Callable[[], Result]) -> Result:
        """``function`` on the main rank alone; every rank has its result, or ends as it does."""
        if self.size == 1:
            return function()
        answer: list[Any] = [None]
        if self.is_main:
            answer[0] = function()
        distributed.broadcast_object_list(answer, src=0)
        result: Result = answer[0]
        return result

    @contextmanager
    def fail_on_all_ranks(self) -> Iterator[None]:
        """What is raised here ends every rank. One of them tells it, on the others it is ``told``.

        An error that only says that the others are gone becomes the reason why they are.
        """
        try:
            yield
        except BaseException as error:
            if self.rank_monitor is None or getattr(error, "already_reported", False):
                raise
            told = _together(error, self.rank_monitor)
            if told is error:
                raise
            raise told from error


def _together(error: BaseException, rank_monitor: RankMonitor) -> BaseException:
    failure = None
    if _is_of_an_exchange(error):
        failure = rank_monitor.failure_elsewhere()
    mine = failure is None
    if failure is None:
        failure = rank_monitor.fail(_exit_code(error), describe_error(error))
    if failure.rank == rank_monitor.rank:
        return error if mine else Phase2Error(failure.message)
    if isinstance(error, Phase2Error) and error.exit_code == failure.code:
        error.already_reported = True
        return error
    return _told(failure)


def _told(failure: Failure) -> Phase2Error:
    kinds = {InputError.exit_code: InputError, StoppedEarly.exit_code: StoppedEarly}
    kinds[INTERRUPTED] = StoppedEarly
    error = kinds.get(failure.code, Phase2Error)(f"rank {failure.rank}: {failure.message}")
    error.exit_code = failure.code
    error.already_reported = True
    return error


def _is_of_an_exchange(error: BaseException) -> bool:
    """gloo has no error class of its own."""
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )


def _exit_code(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return error.exit_code if isinstance(error, Phase2Error) else Phase2Error.exit_code


def describe_error(error: BaseException) -> str:
    """What other ranks and the manifest are told of an error, one line."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, Phase2Error):
        return str(error)
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"


@dataclass(frozen=True)
class LaunchEnvironment:
    """What a launcher says: this rank of how many, which of its node, where the main rank is, and
    a name that this start of this run has to itself there."""

    rank: int
    size: int
    local_rank: int
    address: str
    key: str


@contextmanager
def process_group(device: str) -> Iterator[World]:
    """The world of the launcher's environment: torchrun's, srun's, or one process alone.

    Only the main rank prints. Raises InputError where the environment makes no sense, or the
    ranks have other devices, Phase2Error where they do not meet.
    """
    place = launched_by(os.environ)
    if place is None:
        yield World()
        return
    uses_cuda = device != "cpu" and torch.cuda.is_available()
    about: dict[str, Any] = {"name": node_name(), "gpu": None}
    if uses_cuda:
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
        about["gpu"] = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    store = None
    if place.rank == 0:
        store = _tcp_store(place, 0)
        about["port"] = store.port
    rank_monitor, everyone = rendezvous(place.rank, place.size, place.address, place.key, about)
    world = World(place.rank, place.size, place.local_rank, rank_monitor)
    try:
        with world.fail_on_all_ranks(), _quiet_unless(world.is_main):
            _check_devices(everyone)
            store = store or _tcp_store(place, int(everyone[0]["port"]))
            distributed.init_process_group(
                # Objects and what else lies in the CPU's memory go by gloo.
                "cpu:gloo,cuda:nccl" if uses_cuda else "gloo",
                store=store,
                rank=world.rank,
                world_size=world.size,
                timeout=HUNG,
            )
            try:
                yield world
            finally:
                # What others wait for does not come any more: this tells them.
                distributed.destroy_process_group()
    finally:
        rank_monitor.leave()


def _tcp_store(place: LaunchEnvironment, port: int) -> Any:
    return distributed.TCPStore(  # type: ignore[attr-defined]
        "localhost" if place.rank == 0 else place.address,
        port,
        place.size,
        place.rank == 0,
        HUNG,
        wait_for_workers=False,
    )


def _check_devices(everyone: Sequence[Mapping[str, Any]]) -> None:
    first: dict[str | None, int] = {}
    for rank, about in enumerate(everyone):
        other = first.setdefault(about["gpu"], rank)
        if about["gpu"] is not None and other != rank:
            raise InputError(
                f"ranks {other} and {rank} have the same GPU (of {about['name']}): start as many "
                "processes on a node as it has GPUs, or train with --device cpu"
            )
    if len(first) > 1 and None in first:
        without = everyone[first[None]]["name"]
        raise InputError(
            f"rank {first[None]} ({without}) sees no GPU, others do: ask for GPUs on every node, "
            "or train with --device cpu"
        )


@contextmanager
def _quiet_unless(is_main: bool) -> Iterator[None]:
    """Each line once: what all ranks would say, the main one says."""
    if is_main:
        yield
        return
    ours = logging.getLogger("phase2hpc")
    level = ours.level
    ours.setLevel(logging.CRITICAL)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        ours.setLevel(level)


def launched_by(environment: Mapping[str, str]) -> LaunchEnvironment | None:
    """What torchrun or srun tells this process; None: it is alone.

    Raises InputError where that makes no sense.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        # A launcher inside a job step starts processes of its own.
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        address = environment.get("MASTER_ADDR", "127.0.0.1")
        # By these one launch on a node differs from others there, and from itself once restarted.
        variables = ("MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
    elif "SLURM_STEP_ID" in environment:
        # A batch script has SLURM_NTASKS and SLURM_PROCID too, and is one process.
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
        alone = environment.get("SLURM_STEP_NUM_NODES") == "1"
        address = "127.0.0.1" if alone else environment.get("MASTER_ADDR") or first_node(nodes)
        variables = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    else:
        return None
    rank, size, local_rank = (_number(environment, name) for name in names)
    if size == 1:
        return None
    if not 0 <= rank < size:
        raise InputError(f"{names[0]}={rank} with {names[1]}={size}: ranks count from 0")
    key = " ".join(f"{name}={environment.get(name, '')}" for name in variables)
    return LaunchEnvironment(rank, size, local_rank, address, f"{address} {key}")


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "1" if name.endswith("TASKS") else "0")
    if not text.isdecimal():
        raise InputError(f"{name}={text} is no number: start with torchrun or srun, or unset it")
    return int(text)


def first_node(nodes: str) -> str:
    """The first name of Slurm's node list: ``n[03-05,9],m1`` -> ``n03``."""
    first = re.match(r"(?:[^,\[\]]|\[[^\]]*\])+", nodes)
    if first is None:
        raise InputError(f"SLURM_STEP_NODELIST='{nodes}': no node name in it; set MASTER_ADDR")
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0])


def node_name() -> str:
    """The node's name in Slurm, where several may share one host, else the host's."""
    return os.environ.get("SLURMD_NODENAME") or provenance.host()
