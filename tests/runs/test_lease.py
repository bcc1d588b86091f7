"""One process trains a run: taking, renewing, losing and leaving its lease, with real processes."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from phase2hpc.errors import InputError, Phase2Error, StoppedEarly
from phase2hpc.runs import lease, provenance
from phase2hpc.runs import lease_record as holder
from phase2hpc.runs.job_id import current_job_id
from phase2hpc.runs.lease import Lease, LeaseLost
from phase2hpc.runs.lease_record import LeaseRecord, read_lease
from phase2hpc.runs.run_directory import RunDirectory

# So long that no thread renews during a test, and one that waits for its end has a Clock. With
# SHORT the thread renews every 0.2 s.
EXPIRY = 240.0
SHORT = 1.2
# Of a contender's poll.
POLL = 0.5
MORE_RACES = 20 if os.environ.get("PHASE2HPC_SLOW_TESTS") else 1

# Takes the run, says so and does what it is told, until its stdin closes. Given a node, it is as
# if it ran there.
HOLD = """
import sys
from pathlib import Path
from phase2hpc.runs import lease_record as holder
from phase2hpc.runs import provenance
from phase2hpc.runs.lease import Lease, LeaseLost
from phase2hpc.runs.run_directory import RunDirectory
path, job, node = sys.argv[1:]
if node:
    holder.machine = provenance.host = lambda: node
taken = Lease.acquire(RunDirectory(Path(path)), job or None)
taken.beat(epoch=3)
print("held", flush=True)
actions = {"renew": taken._renew, "check": taken.check, "release": taken.release}
for line in sys.stdin:
    try:
        answer = actions[line[:-1]]()
    except LeaseLost as lost:
        answer = lost
    print(answer, flush=True)
"""

# Takes the run again and again, in children of which half die holding it. One letter each: (W)on,
# (R)efused, (X) somebody else was inside, (L)ost it while nobody had a reason to take it. The time
# that counts is what a process sleeps: one that the machine gives no time takes nothing from
# another that got none either.
RACE = """
import os, random, sys, time
from pathlib import Path
from phase2hpc.runs import lease_record as holder
from phase2hpc.errors import InputError
from phase2hpc.runs.lease import Lease, LeaseLost
from phase2hpc.runs.run_directory import RunDirectory

path, me, hosts, wins = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
sys.stdout = open(os.devnull, "w")

def once(rng):
    slept = [0.0]
    def sleep(seconds):
        time.sleep(seconds)
        slept[0] += seconds
    try:
        lease = Lease.acquire(RunDirectory(path), clock=lambda: slept[0], sleep=sleep)
    except InputError:
        return "R"
    inside = path / f"inside-{me}"
    inside.mkdir()
    said = "W" if list(path.glob("inside-*")) == [inside] else "X"
    time.sleep(rng.random() * 0.004)
    try:
        lease.check()
    except LeaseLost:
        said += "L"
    inside.rmdir()
    if rng.random() < 0.5:
        lease.release()
    return said

(path / f"ready-{me}").touch()
while len(list(path.glob("ready-*"))) < 5:
    time.sleep(0.01)
attempt = 0
while wins:
    attempt += 1
    if os.fork():
        wins -= os.WEXITSTATUS(os.wait()[1])
        continue
    said = "R"
    try:
        if hosts == "many hosts":
            holder.machine = lambda: f"{me}-{attempt}"
        said = once(random.Random(f"{me}-{attempt}"))
        os.write(2, said.encode())
    except BaseException as error:
        said = repr(error)
        os.write(2, said.encode())
    os._exit(said != "R")
"""

Hold = Callable[..., subprocess.Popen[str]]


class Clock:
    """A clock that only its ``sleep`` moves; ``then`` is called after each."""

    def __init__(self, then: Callable[[], object] = bool) -> None:
        self.slept, self._then = 0.0, then

    def __call__(self) -> float:
        return 1000.0 + self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self._then()

    def acquire(self, run: RunDirectory, job_id: str | None = None) -> Lease:
        return Lease.acquire(run, job_id, clock=self, sleep=self.sleep)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHASE2HPC_LEASE_EXPIRY", str(EXPIRY))
    for name in ("ARRAY_JOB_ID", "ARRAY_TASK_ID", "JOB_ID", "RESTART_COUNT"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHASE2HPC_LEASE_EXPIRY", str(SHORT))


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    (tmp_path / "run_a").mkdir()
    return RunDirectory(tmp_path / "run_a")


@pytest.fixture
def hold(run: RunDirectory) -> Iterator[Hold]:
    """``hold(job="", node="")``: a process that has the run's lease by now."""
    started = []

    def start(job: str = "", node: str = "") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(run.path), job, node],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        process.stdout.close()


def told(process: subprocess.Popen[str], what: str) -> str:
    """What a process of ``hold`` answers to renew, check or release."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(what + "\n")
    process.stdin.flush()
    return process.stdout.readline().rstrip("\n")


def left_by(run: RunDirectory, hold: Hold, job: str = "", node: str = "") -> None:
    """A lease whose process was killed."""
    process = hold(job, node)
    process.kill()
    process.wait()


def names(run: RunDirectory) -> list[str]:
    return sorted(str(path.relative_to(run.path)) for path in run.path.rglob("*"))


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_taken_and_given_back(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    with Lease.acquire(run, "12_3") as held:
        held.check()
        record = read_lease(run)
        assert record is not None
        assert (record.job_id, record.restarts, record.pid) == ("12_3", 2, os.getpid())
        assert record.process == "this"
        assert record.owner == f"job 12_3 on node {provenance.host()} (process {os.getpid()})"
        assert 0 <= record.age < 30
        assert len(names(run)) == 2
    assert names(run) == [] and read_lease(run) is None
    with Lease.acquire(run) as other:
        held.release()  # again: not somebody else's
        other.check()
        with pytest.raises(LeaseLost):
            held.check()


def test_of_a_killed_process_it_is_taken_at_once(
    run: RunDirectory, hold: Hold, capsys: pytest.CaptureFixture[str]
) -> None:
    left_by(run, hold, job="7")
    assert read_lease(run) is not None
    (run.path / ".lease.0123").mkdir()
    (run.path / ".lease.0123" / "0123.json").write_text("left by one killed while taking it")
    clock = Clock()
    with clock.acquire(run, "8") as held:
        assert clock.slept == 0
        held.check()
        assert len(names(run)) == 2
    assert capsys.readouterr().out == ""


def test_a_living_process_of_this_machine_refuses_at_once(run: RunDirectory, hold: Hold) -> None:
    process = hold(job="12")
    clock = Clock()
    # Even to the same job: it is seen to live.
    with pytest.raises(InputError, match=rf"job 12 on node .*\(process {process.pid}\)") as refused:
        clock.acquire(run, "12")
    assert clock.slept == 0
    assert "\n" not in str(refused.value) and "scancel 12" in str(refused.value)
    assert "--run-id" in str(refused.value)


def test_the_same_job_elsewhere_is_taken_over_at_once(run: RunDirectory, hold: Hold) -> None:
    other = hold(job="12", node="n7")
    clock = Clock()
    with clock.acquire(run, "12") as held:
        assert clock.slept == 0
        assert told(other, "renew") == "False"
        held.check()


def test_one_that_renews_elsewhere_refuses(
    run: RunDirectory, hold: Hold, capsys: pytest.CaptureFixture[str]
) -> None:
    other = hold(job="12", node="n7")
    clock = Clock(then=lambda: told(other, "renew"))
    with pytest.raises(InputError, match=r"being trained by job 12 on node n7 .*scancel 12"):
        clock.acquire(run, "13")
    assert clock.slept == POLL
    said = capsys.readouterr().out
    assert said.startswith("run a is held by job 12 on node n7 (process ")
    assert said.endswith(f"waiting up to {EXPIRY:g} s for its heartbeat\n")
    assert len(names(run)) == 2


def test_one_silent_elsewhere_is_waited_for(run: RunDirectory, hold: Hold) -> None:
    left_by(run, hold, node="n7")  # without a job id: none is not the same as none
    # A holder's clock proves nothing, nor does the file's.
    os.utime(next(run.lease.iterdir()), (0, 0))
    clock = Clock()
    with clock.acquire(run) as held:
        assert EXPIRY <= clock.slept <= EXPIRY + POLL
        held.check()


def test_the_holders_own_expiry_counts(
    run: RunDirectory, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_by(run, hold, node="n7")
    monkeypatch.setenv("PHASE2HPC_LEASE_EXPIRY", "60")
    clock = Clock()
    with clock.acquire(run):
        assert EXPIRY <= clock.slept <= EXPIRY + POLL


def test_given_back_while_waited_for(run: RunDirectory, hold: Hold) -> None:
    left_by(run, hold, node="n7")
    there = next(run.lease.iterdir())
    clock = Clock(then=there.unlink)
    with clock.acquire(run):
        assert clock.slept == POLL


def test_waiting_can_be_stopped(run: RunDirectory, hold: Hold) -> None:
    left_by(run, hold, node="n7")
    before = names(run)
    asked = iter([False, True])
    with pytest.raises(StoppedEarly, match="run a"):
        Lease.acquire(run, stop=lambda: next(asked))
    assert names(run) == before


TOO_LONG = (
    b'{"token": "x", "host": "n7", "pid": 1, "expiry": 1e9, "renewed": "2026-01-01T00:00:00Z"}'
)


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"{}", b"[" * 9999, TOO_LONG, None])
def test_a_damaged_lease_is_waited_for_and_taken(run: RunDirectory, content: bytes | None) -> None:
    if content is None:
        run.lease.write_text("a file in place of the folder")
    else:
        run.lease.mkdir()
        (run.lease / "x.json").write_bytes(content)
    assert read_lease(run) is None
    clock = Clock()
    with clock.acquire(run) as held:
        assert EXPIRY <= clock.slept <= EXPIRY + POLL
        held.check()


def test_what_cannot_be_removed_is_said(run: RunDirectory) -> None:
    (run.lease / "folder").mkdir(parents=True)
    with pytest.raises(Phase2Error, match=r"lease: cannot be acquired \(.*by hand"):
        Clock().acquire(run)
    (run.lease / "folder").rename(run.lease / ".hidden")
    with pytest.raises(Phase2Error, match="not empty"):
        Clock().acquire(run)
    with pytest.raises(InputError, match="no such run directory"):
        Lease.acquire(RunDirectory(run.path / "absent"))


def test_a_suspended_holder_notices_before_it_writes(run: RunDirectory, hold: Hold) -> None:
    other = hold(job="12", node="n7")
    other.send_signal(signal.SIGSTOP)
    with Clock().acquire(run, "13") as held:
        other.send_signal(signal.SIGCONT)
        line = told(other, "check")
        assert "run 'a' is now trained by job 13 on node" in line and "--resume" in line
        assert told(other, "release") == "None"
        held.check()
        record = read_lease(run)
        assert record is not None and record.job_id == "13"


def test_check_renews_when_it_comes_late(run: RunDirectory) -> None:
    clock = Clock()
    with clock.acquire(run) as held:
        before = next(run.lease.iterdir()).read_bytes()
        for seconds, renewals in ((0, 0), (EXPIRY / 2, 0), (1, 1), (1, 1)):
            clock.sleep(seconds)
            held.check()
            record = read_lease(run)
            assert record is not None and record.renewals == renewals
        assert next(run.lease.iterdir()).read_bytes() != before


def test_beats_are_read_by_others(run: RunDirectory) -> None:
    clock = Clock()
    with clock.acquire(run) as held:
        held.beat(epoch=1, loss=float("nan"), phase="training")
        wait_for(lambda: bool((r := read_lease(run)) and r.heartbeat))
        clock.sleep(lease.SECONDS_PER_BEAT + 1)  # or it would wait for the next renewal
        held.beat(epoch=2)
        wait_for(lambda: (r := read_lease(run)) is not None and r.heartbeat["epoch"] == 2)
        record = read_lease(run)
        assert record is not None
        assert record.heartbeat == {"epoch": 2, "loss": None, "phase": "training"}
        assert record.renewals >= 2
        held.check()


def test_a_lease_removed_by_hand_is_lost_and_not_made_anew(run: RunDirectory) -> None:
    with Lease.acquire(run) as held:
        next(run.lease.iterdir()).unlink()
        run.lease.rmdir()
        with pytest.raises(LeaseLost, match="has lost its lease"):
            held.check()
        held.beat(epoch=1)
        wait_for(lambda: not held._thread.is_alive())
        assert names(run) == []


@pytest.mark.usefixtures("short")
def test_damage_to_the_own_lease_heals(run: RunDirectory) -> None:
    with Lease.acquire(run) as held:
        next(run.lease.iterdir()).write_bytes(b"")
        held.check()
        wait_for(lambda: read_lease(run) is not None)


@pytest.mark.usefixtures("short")
def test_renewing_goes_on_after_errors(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []

    def fails(*arguments: object) -> None:
        tried.append(arguments)
        raise OSError(errno.ENOSPC, "No space left on device")

    with Lease.acquire(run) as held:
        with monkeypatch.context() as patch:
            patch.setattr(lease, "_overwrite", fails)
            wait_for(lambda: len(tried) > 2)
            held.check()
        wait_for(lambda: bool((r := read_lease(run)) and r.renewals > 3))
    assert [record.getMessage().count("still trying") for record in caplog.records] == [1]


def test_nothing_is_written_after_release(run: RunDirectory) -> None:
    held = Lease.acquire(run)
    held.beat(epoch=1)
    held.release()
    held.beat(epoch=2)
    wait_for(lambda: not held._thread.is_alive())
    assert names(run) == []


def test_a_forked_child_leaves_it_alone(run: RunDirectory) -> None:
    with Lease.acquire(run) as held, held._writing:  # forked in the middle of a renewal
        child = os.fork()
        if child == 0:
            held._renewed = 0
            held.check()
            held.beat(epoch=1)
            held.release()
            os._exit(0)
        wait_for(lambda: os.waitpid(child, os.WNOHANG) == (child, 0))
        held.check()


def test_it_does_not_keep_a_process_alive(run: RunDirectory, hold: Hold) -> None:
    process = hold()
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(120) == 0
    record = read_lease(run)
    assert record is not None and record.process == "gone"


def test_of_a_process_in_another_namespace_nothing_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = LeaseRecord.of_this_process("x", None, 1)
    assert record.process == "this"
    # Another container of the same host and host name: the number there means nothing here.
    monkeypatch.setattr(holder, "machine", lambda: "another")
    assert record.process == "unseen"
    # No /proc: the host's name and the number are all there is.
    monkeypatch.setattr(holder, "machine", lambda: None)
    record = LeaseRecord.of_this_process("x", None, 1)
    assert record.process == "this"
    record.host = "n7"
    assert record.process == "unseen"


def test_job_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    assert current_job_id() is None
    monkeypatch.setenv("SLURM_JOB_ID", "15")
    assert current_job_id() == "15"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    assert current_job_id() == "12_0"


@pytest.mark.parametrize("text", ["", "much", "-1", "0", "nan", "inf", "1e9"])
def test_an_expiry_that_is_none(
    run: RunDirectory, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHASE2HPC_LEASE_EXPIRY", text)
    with pytest.raises(InputError, match=r"PHASE2HPC_LEASE_EXPIRY=.*90"):
        Lease.acquire(run)
    monkeypatch.delenv("PHASE2HPC_LEASE_EXPIRY")
    assert lease.expiry_seconds() == 90


@pytest.mark.parametrize(("hosts", "wins"), [("one host", 8), ("many hosts", 2)])
def test_of_many_takers_one_wins(run: RunDirectory, hosts: str, wins: int) -> None:
    wins *= MORE_RACES
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(run.path), str(number), hosts, str(wins)],
            env={**os.environ, "PHASE2HPC_LEASE_EXPIRY": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(5)
    ]
    try:
        said = "".join(racer.communicate(timeout=300 * MORE_RACES)[1] for racer in racers)
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()
    assert set(said) <= {"W", "R"}, said
    assert Counter(said)["W"] == 5 * wins
