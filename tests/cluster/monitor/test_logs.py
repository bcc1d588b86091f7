"""``logs``: which files, which lines, and what is no log."""

import json
import os

import pytest
from submitted_jobs import GONE, write_log


def test_logs(make, slurm, command, tmp_path):
    def logs(*words):
        return command("logs", "one", "--models-dir", tmp_path, *words)

    slurm("")
    run = make("one", "stopped")
    code, out, err = logs()
    assert (code, out) == (0, "") and "the log is empty so far" in err
    write_log(run, "first life\nsecond life\nµ\x1b[2J\n", "7_0_log.out")
    write_log(run, "rank 1\n", "7_1_log.out")
    write_log(run, "error\n")
    assert logs()[1] == "first life\nsecond life\nµ\\x1b[2J\n"
    assert logs("-n", "2")[1] == "second life\nµ\\x1b[2J\n"
    assert logs("-n", "0")[1] == ""
    assert logs("-n", "99")[1].startswith("first")
    assert logs("--err")[1] == "error\n"
    assert logs("--rank", "1")[1] == "rank 1\n"
    code, _, err = logs("--rank", "2")
    assert code == 2 and "job 7 has logs of the ranks 0, 1" in err
    assert slurm.calls() == []


def test_logs_of_a_run_without_a_job(make, slurm, command, tmp_path):
    make("one", "finished", job=None)
    code, _, err = command("logs", "one", "--models-dir", tmp_path)
    assert code == 2 and "trained without a job, by process" in err


@pytest.mark.parametrize(
    ("key", "value"), [("job_folder", "../../.."), ("job_folder", "/etc"), ("job_ids", ["../x"])]
)
def test_a_tampered_manifest_leads_nowhere(make, slurm, command, tmp_path, key, value):
    slurm(GONE)
    run = make("one", "running")
    manifest = json.loads(run.manifest.read_text()) | {key: value}
    run.manifest.write_text(json.dumps(manifest))
    code, out, err = command("logs", "one", "--models-dir", tmp_path)
    assert (code, out) == (2, "") and str(run.path.parent) in err
    assert command("status", "one", "--models-dir", tmp_path)[0] == 0


def test_a_log_that_is_a_link_or_a_pipe_is_not_read(make, slurm, command, tmp_path):
    run = make("one", "stopped")
    (run.path / "job" / "7_0_log.out").symlink_to("/etc/passwd")
    os.mkfifo(run.path / "job" / "7_0_log.err")
    for stream in ((), ("--err",)):
        code, out, err = command("logs", "one", "--models-dir", tmp_path, *stream)
        assert (code, out) == (2, "") and "cannot be read" in err
