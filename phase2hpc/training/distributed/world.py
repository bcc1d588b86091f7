"""Collectives of the processes that train one model, and failure of all of them together.

Every rank computes its share of each global batch; gradients, losses and flags are summed, so all
ranks take the same step and hold the same weights. Only the main rank writes.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from phase2hpc.errors import InputError, Phase2Error, StoppedEarly
from phase2hpc.training.distributed.rank_monitor import Failure, RankMonitor
from phase2hpc.utils.error_text import first_line

Result = TypeVar("Result")

# Exit code of a command that SIGINT ended, in a shell.
INTERRUPTED = 130


@dataclass(frozen=True)
class World:
    """This process among ``size`` ranks; alone, every collective is the identity."""

    rank: int = 0
    size: int = 1
    rank_monitor: RankMonitor | None = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum ``tensor`` over all ranks, in place."""
        if self.size > 1:
            distributed.all_reduce(tensor)

    def all_reduce_gradients(self, parameters: Sequence[Tensor], others: Tensor) -> None:
        """Sum each parameter's gradient, and ``others``, over all ranks, in place.

        One collective of one flat tensor: the models are small, so latency dominates.
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
        """Copy the main rank's values to every rank, in place."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, src=0)

    def all_gather(self, value: Any) -> list[Any]:
        """The picklable values of all ranks, in the order of ranks, on every rank."""
        values: list[Any] = [value]
        if self.size > 1:
            values = [None] * self.size
            distributed.all_gather_object(values, value)
        return values

    def run_on_main(self, function: Callable[[], Result]) -> Result:
        """Call ``function`` on the main rank alone; every rank returns its result.

        Within ``fail_on_all_ranks`` an exception of it ends every rank.
        """
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
        """End every rank with the first exception that one of them raises here.

        One rank reports it; on the others it is ``already_reported``. An error of a collective,
        which only shows that other ranks are gone, is replaced by the reason why they are.
        """
        try:
            yield
        except BaseException as error:
            if self.rank_monitor is None or getattr(error, "already_reported", False):
                raise
            shared = _shared_failure(error, self.rank_monitor)
            if shared is error:
                raise
            raise shared from error


def _shared_failure(error: BaseException, rank_monitor: RankMonitor) -> BaseException:
    """The exception with which this rank ends: ``error``, or the one that came first elsewhere."""
    failure = rank_monitor.failure_elsewhere() if _is_collective_error(error) else None
    own = failure is None
    if failure is None:
        failure = rank_monitor.fail(_failure_of(error, rank_monitor.rank))
    if failure.rank == rank_monitor.rank:
        return error if own else Phase2Error(failure.message)
    if isinstance(error, Phase2Error) and error.exit_code == failure.code:
        error.already_reported = True
        return error
    return _reported_elsewhere(failure)


def _failure_of(error: BaseException, rank: int) -> Failure:
    reason = error.reason if isinstance(error, StoppedEarly) else None
    return Failure(rank, _exit_code(error), error_message(error), reason)


def _reported_elsewhere(failure: Failure) -> Phase2Error:
    message = f"rank {failure.rank}: {failure.message}"
    error = Phase2Error(message)
    if failure.code == InputError.exit_code:
        error = InputError(message)
    elif failure.stop_reason is not None:
        error = StoppedEarly(message, failure.stop_reason)
    elif failure.code in (StoppedEarly.exit_code, INTERRUPTED):
        error = StoppedEarly(message)
    error.exit_code = failure.code
    error.already_reported = True
    return error


def _is_collective_error(error: BaseException) -> bool:
    """True if ``error`` comes from a collective, which fails when another rank is gone.

    gloo raises plain RuntimeErrors: they are known by the module that raised them.
    """
    if isinstance(error, distributed.DistError):
        return True
    if not isinstance(error, RuntimeError) or error.__traceback__ is None:
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", "")).startswith(distributed.__name__ + ".")


def _exit_code(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return error.exit_code if isinstance(error, Phase2Error) else Phase2Error.exit_code


def error_message(error: BaseException) -> str:
    """``error`` in one line, for the other ranks and the manifest."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, Phase2Error):
        return str(error)
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"
