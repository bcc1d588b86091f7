"""``cancel`` of runs, elements and what Slurm does not answer for."""

from submitted_jobs import in_queue, lease_elsewhere


def test_cancel_asks(make, slurm, command, tmp_path):
    run = make("one", "running")
    slurm(in_queue(run, "RUNNING"))
    lease_elsewhere(run, 5, epoch=3)
    code, out, err = command("cancel", "one", "--models-dir", tmp_path)
    assert code == 2 and "give --yes" in err
    assert out.splitlines()[2].split()[:4] == ["7", "RUNNING", "one", "3/9"]
    assert "scancel" not in " ".join(slurm.calls())
    code, out, _ = command("cancel", "one", "--yes", "--models-dir", tmp_path)
    assert code == 0 and slurm.calls()[-1] == "scancel 7"
    assert "resume: phase2hpc submit --resume --run-id one" in out


def test_cancel_elements(make, slurm, command, tmp_path):
    runs = [make(f"many-s{k}", "submitted", job=f"7_{k}", array=True, ensemble="many")
            for k in range(3)]  # fmt: skip
    array = (runs[0].path / "../array_many").resolve()
    states = ("RUNNING", "PENDING", "COMPLETED")
    slurm("".join(in_queue(None, s, f"7_{k}", folder=array) for k, s in enumerate(states)))
    for name, expected in (
        ("7_1", "7_1"),
        ("7", "7_0 7_1"),
        ("many", "7_0 7_1"),
        ("many-s0", "7_0"),
    ):
        code, out, _ = command("cancel", name, "--yes", "--models-dir", tmp_path)
        assert (code, slurm.calls()[-1]) == (0, f"scancel {expected}")
    code, out, _ = command("cancel", "7_2", "--yes", "--models-dir", tmp_path)
    assert code == 0 and len(out.splitlines()) == 1 and "no job to cancel, it is interrupted" in out


def test_cancel_where_slurm_is_away(make, slurm, command, tmp_path):
    make("one", "running")
    slurm(("", "slurm_load_jobs error: Unable to contact slurm controller\n", 1))
    code, _, err = command("cancel", "one", "--yes", "--models-dir", tmp_path)
    assert code == 1 and "nothing is cancelled: squeue: slurm_load_jobs error" in err
