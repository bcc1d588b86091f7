"""Submitted runs, what Slurm says of their jobs, and what `status` tells of them."""

import pytest
from submitted_jobs import FAMILY, GONE

from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.run_directory import create_run


@pytest.fixture
def make(tmp_path):
    """``make(id, state, job="7", array=False, **manifest)``: a submitted run and its job's
    folder."""

    def run(run_id, state, job="7", array=False, **said):
        made = create_run(tmp_path, FAMILY, run_id)
        ids = [job] if job else []
        folder = None if not job else "../array_many" if array else "job"
        made.write_manifest(
            Manifest(run_id=run_id, algorithm="cgcnn", level="lite", properties=["band_gap"],
                     epochs=9, seed=0, state=state, job_ids=ids, job_folder=folder, **said)
        )  # fmt: skip
        if folder:
            (made.path / folder).mkdir(exist_ok=True)
            (made.path / folder / f"{job.partition('_')[0]}_submission.sh").touch()
        return made

    return run


@pytest.fixture
def slurm(slurm_commands):
    """``slurm(queue, accounting=None)`` sets what squeue and sacct print; without accounting
    there is no sacct. It returns the calls so far."""

    def put(queue=GONE, accounting=None):
        answers = {"sbatch": ("", "", 0), "scancel": ("", "", 0)}
        answers["squeue"] = queue if isinstance(queue, tuple) else (queue, "", 0)
        if accounting is not None:
            answers["sacct"] = accounting if isinstance(accounting, tuple) else (accounting, "", 0)
        return slurm_commands(**answers)

    put.calls = slurm_commands
    return put


@pytest.fixture
def stands(command, tmp_path):
    """``stands(name)`` -> (state, what is said about it, the whole text)."""

    def look(name):
        code, out, err = command("status", name, "--models-dir", tmp_path)
        assert (code, err) == (0, "")
        lines = out.splitlines()
        state = next(line for line in lines if line.startswith("state")).split()[1]
        return state, lines[lines.index(f"{'state':<{lines[0].index(name)}}{state}") + 1], out

    return look
