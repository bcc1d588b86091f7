"""``status --watch`` and ``logs --follow``."""

import time
from types import SimpleNamespace

from submitted_jobs import in_queue

from phase2hpc.cluster.monitor import follow as following


def test_watching_off_a_terminal_tells_changes_and_ends(
    make, slurm, command, tmp_path, monkeypatch
):
    run = make("one", "submitted")
    states = iter(("PENDING", "PENDING", "RUNNING", "FAILED"))

    def sleep(seconds):
        assert seconds >= 10
        slurm(in_queue(run, next(states)))

    monkeypatch.setattr(following, "time", SimpleNamespace(sleep=sleep, strftime=time.strftime))
    sleep(10)
    code, out, _ = command("status", "one", "--watch", "--models-dir", tmp_path)
    assert code == 0
    assert [line.split()[2].rstrip(",") for line in out.splitlines()] == [
        "pending", "starting", "interrupted",
    ]  # fmt: skip


def test_ctrl_c_ends_watching(make, slurm, command, tmp_path, monkeypatch):
    make("one", "submitted")
    slurm("")

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(following, "time", SimpleNamespace(sleep=interrupt, strftime=time.strftime))
    assert command("status", "--watch", "--models-dir", tmp_path)[0] == 0


def test_following_across_a_requeue_to_the_end(make, slurm, command, tmp_path, monkeypatch):
    run = make("one", "submitted")
    slurm(in_queue(run, "PENDING"))
    log = run.path / "job" / "7_0_log.out"
    life = [
        ("submitted", "RUNNING", "one\n"),
        ("stopped", "COMPLETING", "half"),
        ("stopped", "PENDING", " a line\n"),
        ("finished", "COMPLETED", "three\n"),
    ]
    now = 0.0

    def sleep(seconds):
        """A state lasts longer than the time between two queries."""
        nonlocal now
        now += seconds
        if life and now % (2 * following.SLURM_SECONDS) == 0:
            state, queue, text = life.pop(0)
            run.update_manifest(state=state)
            slurm(in_queue(run, queue))
            with log.open("a") as file:
                file.write(text)

    clock = SimpleNamespace(sleep=sleep, monotonic=lambda: now)
    monkeypatch.setattr(following, "time", clock)
    code, out, err = command("logs", "one", "-f", "--models-dir", tmp_path)
    assert (code, out) == (0, "one\nhalf a line\nthree\n")
    assert "is pending: job 7 PENDING" in err and "is finished" in err
    queries = [call for call in slurm.calls() if call.startswith("squeue")]
    assert len(queries) <= now / following.SLURM_SECONDS + 1
