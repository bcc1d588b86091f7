"""Signals and time limits set a flag and do nothing else."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from phase2hpc.errors import StopReason
from phase2hpc.training.stop_request import SIGNALS, StopCause, StopRequest


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0)  # Handlers run between two bytecodes of the main thread.


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_sets_the_flag_only(number: signal.Signals) -> None:
    with StopRequest() as stop:
        assert not stop and stop.cause is None and stop.message is None
        send(number)
        assert stop and stop.cause == (StopReason.SIGNAL, number.name)


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopRequest():
        assert all(signal.getsignal(number) not in before for number in SIGNALS)
    assert [signal.getsignal(number) for number in SIGNALS] == before
    with pytest.raises(RuntimeError), StopRequest():
        raise RuntimeError
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_second_interrupt_does_not_wait() -> None:
    with StopRequest() as stop:
        send(signal.SIGTERM)
        send(signal.SIGINT)
        assert stop
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_repeated_requests_of_a_scheduler_only_set_the_flag() -> None:
    with StopRequest() as stop:
        for _ in range(3):
            send(signal.SIGUSR2)
            send(signal.SIGTERM)
        assert stop


def test_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("phase2hpc.training.stop_request.time.monotonic", lambda: now[0])
    stop = StopRequest(max_hours=0.5)
    assert not stop
    now[0] += 1799
    assert not stop
    now[0] += 2
    assert stop and stop.cause == StopCause(StopReason.MAX_HOURS, "--max-hours reached (0:30:00)")
    assert not StopRequest()


@pytest.mark.parametrize(
    ("own", "job", "seconds", "reason"),
    [
        (1.0, 2.0, 3601, StopReason.MAX_HOURS),
        (2.0, 1.0, 3601, StopReason.JOB_TIME_LIMIT),
        (None, 1.0, 3601, StopReason.JOB_TIME_LIMIT),
        (1.0, None, 3601, StopReason.MAX_HOURS),
        (2.0, 1.0, 3599, None),
    ],
)
def test_the_jobs_limit_and_the_users(own, job, seconds, reason, monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr("phase2hpc.training.stop_request.time.monotonic", lambda: now[0])
    stop = StopRequest()
    stop.limit(own, job)
    now[0] += seconds
    assert bool(stop) == (reason is not None)
    assert (stop.cause and stop.cause.reason) == reason


def test_signal_is_the_reason_where_both_apply() -> None:
    with StopRequest(max_hours=1e-9) as stop:
        send(signal.SIGTERM)
        time.sleep(0.001)
        assert stop and stop.message == "SIGTERM"


def test_outside_the_main_thread_the_time_limit_still_holds() -> None:
    seen: list[bool] = []

    def work() -> None:
        with StopRequest(max_hours=1e-9) as stop:
            time.sleep(0.001)
            seen.append(bool(stop))

    before = [signal.getsignal(number) for number in SIGNALS]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]
    assert [signal.getsignal(number) for number in SIGNALS] == before
