"""Progress: a bar on a terminal, now and then a plain line in a log."""

from __future__ import annotations

import io

import pytest

from phase2hpc.utils import progress as module
from phase2hpc.utils.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock)
    return clock


def test_a_line_every_ten_seconds_off_a_terminal(clock, capsys) -> None:
    with Progress("epoch 1/3", 10_000, "crystals") as progress:
        for _ in range(40):
            clock.now += 1.0
            progress.advance(100, lambda: "loss 0.5")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and len(lines) in (3, 4)
    assert lines[1] == (
        f"epoch 1/3: {100 * (20 if len(lines) == 4 else 21):,} of 10,000 crystals, "
        "100 crystals/s, 0:01:" + ("20" if len(lines) == 4 else "19") + " left, loss 0.5"
    )


def test_nothing_for_short_work(clock, capsys) -> None:
    with Progress("preparing", None, "crystals") as progress:
        clock.now += 9.0
        progress.advance(5, lambda: pytest.fail("not drawn, so not made"))
    assert capsys.readouterr() == ("", "")


def test_an_unknown_total_has_no_time_left(clock, capsys) -> None:
    with Progress("preparing", None, "crystals") as progress:
        clock.now += 20.0
        progress.advance(2000)
    assert capsys.readouterr().err == "preparing: 2,000 crystals, 100 crystals/s\n"


def test_what_was_done_before_a_restart_is_not_this_process_speed(clock, capsys) -> None:
    with Progress("epoch", 3000, "crystals", done=1000) as progress:
        clock.now += 10.0
        progress.advance(1000)
    assert progress.per_second == 100
    assert capsys.readouterr().err == (
        "epoch: 2,000 of 3,000 crystals, 100 crystals/s, 0:00:10 left\n"
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("total", [10, None])
def test_a_bar_on_a_terminal(total, clock, monkeypatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    with Progress("training", total, "crystals") as progress:
        for _ in range(5):
            clock.now += 1.0
            progress.advance(1, lambda: "loss [red] 0.25")
    drawn = terminal.getvalue()
    assert "training" in drawn and "0.25" in drawn and "crystals/s" in drawn


def test_an_error_leaves_the_terminal_whole(clock, monkeypatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(ZeroDivisionError), Progress("training", 10, "crystals") as progress:
        progress.advance(1)
        1 / 0  # noqa: B018
    # The cursor is hidden while the bar is drawn, and shown again.
    assert terminal.getvalue().rfind("\x1b[?25h") > terminal.getvalue().rfind("\x1b[?25l")
