"""Submission to a stand-in for sbatch: what is written before a job can begin, and what is left
behind when Slurm refuses."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phase2hpc.cluster.submit.resume_command import resume_command
from phase2hpc.cluster.submit.submission import unshared_reason
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.run_directory import RunDirectory, create_run

REFUSED = "sbatch: error: Batch job submission failed: Invalid qos specification\n"

Submit = Callable[..., tuple[int, str, str]]


@pytest.fixture
def submit(
    tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch, command: Any, slurm_commands: Any
) -> Submit:
    """``submit("--seeds", "0-1", ...)`` with cgcnn lite on the tiny store, sbatch saying yes."""
    (tmp_path / "at").mkdir()
    monkeypatch.chdir(tmp_path / "at")
    shutil.copy(tiny.store, "tiny.h5")
    slurm_commands(sbatch=("900\n", "", 0), scontrol=("", "", 0), squeue=("", "", 0),
                   scancel=("", "", 0))  # fmt: skip
    Path("site.yaml").write_text("gpus: 0\nmax_hours: 24\n")

    def run(*arguments: object) -> tuple[int, str, str]:
        return command(
            "submit", "--algorithm", "cgcnn", "--level", "lite", "--profile", "site.yaml",
            "--store", "tiny.h5", *arguments,
        )  # fmt: skip

    return run


def the_run(name: str) -> RunDirectory:
    return RunDirectory(Path("models/multitask_cgcnn_lite") / f"run_{name}")


def test_what_is_printed_and_written(submit: Submit, tiny: Any) -> None:
    code, out, err = submit("--run-id", "mine", "--epochs", 3, "--properties", "band_gap")
    assert code == 0, err
    for words in (
        "job 900 submitted (profile site.yaml)", "run mine in models/",
        "time 0:15:00 (3 epochs x 110 crystals (from the store)",
        "phase2hpc status mine", "phase2hpc logs mine -f", "phase2hpc cancel mine",
    ):  # fmt: skip
        assert words in out, out
    run = the_run("mine")
    manifest, config = run.read_manifest(), run.read_config()
    assert (manifest.state, manifest.job_ids, manifest.job_folder) == ("submitted", ["900"], "job")
    assert (manifest.store_hash, manifest.ensemble) == (None, None)
    assert (config.training.epochs, config.properties) == (3, ("band_gap",))
    assert config.runtime.store == Path("tiny.h5").resolve()
    assert (run.path / "job" / "900_submitted.pkl").is_file()


def test_an_ensemble(submit: Submit) -> None:
    code, out, err = submit("--run-id", "all", "--seeds", "0,4", "--models-dir", "there")
    assert code == 0, err
    assert "array 900 of 2 jobs" in out and "900_1: run all-s4 (seed=4)" in out
    assert "status all-s0 --models-dir there" in out
    family = Path("there/multitask_cgcnn_lite")
    for element, seed in enumerate((0, 4)):
        run = RunDirectory(family / f"run_all-s{seed}")
        manifest = run.read_manifest()
        assert (manifest.ensemble, manifest.ensemble_member, manifest.ensemble_size) == (
            "all", f"seed={seed}", 2,
        )  # fmt: skip
        assert (manifest.seed, manifest.job_ids) == (seed, [f"900_{element}"])
        assert (run.path / str(manifest.job_folder)).resolve() == family.resolve() / "array_all"
        assert (family / "array_all" / f"900_{element}_submitted.pkl").is_file()


@pytest.mark.parametrize(
    "arguments",
    [["--run-id", "x"], ["--seeds", "0-2"], ["--store", "new.h5", "--prepare", "x.jsonl"]],
)
def test_a_refused_submission_leaves_nothing_behind(
    arguments: list[str], submit: Submit, slurm_commands: Any
) -> None:
    slurm_commands(sbatch=("", REFUSED, 1))
    before = sorted(Path().rglob("*"))
    code, out, err = submit(*arguments)
    line = err.splitlines()[-1]
    assert (code, out) == (2, "") and "Traceback" not in err
    assert line == "phase2hpc: sbatch refuses the job: " + REFUSED.partition("error: ")[2].strip()
    assert sorted(Path().rglob("*")) == before


def test_what_was_there_before_a_refused_submission_stays(
    submit: Submit, slurm_commands: Any
) -> None:
    assert submit("--run-id", "kept")[0] == 0
    slurm_commands(sbatch=("", REFUSED, 1))
    assert submit("--run-id", "other")[0] == 2
    assert the_run("kept").manifest.is_file() and not the_run("other").path.exists()


@pytest.mark.parametrize("arguments", [[], ["--store", "new.h5", "--prepare", "x.jsonl"]])
def test_the_run_of_a_job_without_an_id_is_kept(
    arguments: list[str], submit: Submit, slurm_commands: Any, command: Any
) -> None:
    slurm_commands(sbatch=("welcome\n", "", 0))
    code, _, err = submit("--run-id", "mine", *arguments)
    assert code == 1 and "a job may be queued all the same" in err.splitlines()[-1]
    run = the_run("mine")
    assert run.read_config() and not [c for c in slurm_commands() if c.startswith("scancel")]
    # Its owner has not exited yet: this process.
    run.update_manifest(pid=1, process_start="another boot")
    code, out, _ = command("status", "mine")
    assert code == 0 and "phase2hpc submit --resume --run-id mine" in out
    assert run.read_manifest().job_ids == []


@pytest.mark.parametrize(
    "arguments",
    [["--store", "new.h5", "--prepare", "x.jsonl"],
     ["--sweep", "algorithm=cgcnn,e3nn", "--seeds", "0-1"]],
)  # fmt: skip
def test_if_the_second_of_two_jobs_is_refused_the_first_is_cancelled(
    arguments: list[str], submit: Submit, slurm_commands: Any, tmp_path: Path
) -> None:
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(
        f"#!/bin/sh\necho sbatch >> {tmp_path}/calls\n"
        f"[ $(/bin/grep -c '^sbatch' {tmp_path}/calls) = 1 ] && echo 55 && exit 0\n"
        f"/bin/cat >&2 <<'END'\n{REFUSED}END\nexit 1\n"
    )
    code, _, err = submit(*arguments)
    assert code == 2 and "Invalid qos" in err
    assert "scancel 55" in slurm_commands() and not Path("models").exists()


def test_an_array_of_each_algorithm(submit: Submit, slurm_commands: Any, tmp_path: Path) -> None:
    swept = ("--sweep", "algorithm=cgcnn,e3nn", "--run-id", "mine", "--seeds", "0-1%1")
    code, out, err = submit(*swept, "--store", "new.h5", "--prepare", "x.jsonl")
    assert code == 0, err
    assert out.count("array 900 of 2 jobs") == 2 and out.count("job 900 prepares") == 1
    assert len([call for call in slurm_commands() if call.startswith("sbatch")]) == 3
    for family, name in (("multitask_cgcnn_lite", "cgcnn"), ("multitask_lite_e3nn", "e3nn")):
        run = RunDirectory(Path("models") / family / f"run_mine-{name}-s1")
        manifest = run.read_manifest()
        assert (manifest.algorithm, manifest.ensemble, manifest.job_ids) == (
            name, f"mine-{name}", ["900_1"],
        )  # fmt: skip
        text = (run.path.parent / f"array_mine-{name}" / "900_submission.sh").read_text()
        assert "--array=0-1%1\n" in text and "--dependency=afterok:900\n" in text


def test_an_array_larger_than_those_of_the_cluster(submit: Submit, slurm_commands: Any) -> None:
    slurm_commands(scontrol=("MaxArraySize            = 4\n", "", 0))
    assert submit("--seeds", "0-3", "--dry-run")[0] == 0
    code, _, err = submit("--seeds", "0-4")
    assert code == 2 and err.splitlines()[-1] == (
        "phase2hpc: an array of 5 jobs: this cluster has arrays of 4 at most (MaxArraySize): "
        "submit it in parts"
    )


def test_a_missing_store(submit: Submit) -> None:
    code, out, err = submit("--store", "new.h5", "--prepare", "x.jsonl", "--run-id", "mine")
    assert code == 0, err
    assert f"job 900 prepares {Path('new.h5').resolve()} first" in out
    script = (the_run("mine").path / "job" / "900_submission.sh").read_text()
    assert "#SBATCH --dependency=afterok:900\n" in script


def test_after_a_run(submit: Submit, slurm_commands: Any) -> None:
    submit("--run-id", "first")
    waiting = "|".join(["900", "PENDING", "0", "0", "0:00", "1:00", "N/A", "", "None", ""])
    slurm_commands(squeue=(waiting + "\n", "", 0))
    code, out, err = submit("--run-id", "second", "--after", "first")
    assert code == 0 and "after 900" in out, err
    script = (the_run("second").path / "job" / "900_submission.sh").read_text()
    assert "#SBATCH --dependency=afterok:900\n" in script


# ---- resume ------------------------------------------------------------------------------------


@pytest.fixture
def unfinished(submit: Submit) -> RunDirectory:
    assert submit("--run-id", "mine", "--epochs", 4)[0] == 0
    run = the_run("mine")
    run.update_manifest(state="stopped", epoch=3, step=30)
    return run


def test_a_new_job_for_an_unfinished_run(
    submit: Submit, unfinished: RunDirectory, slurm_commands: Any
) -> None:
    slurm_commands(sbatch=("901\n", "", 0))
    before = unfinished.config.read_bytes()
    code, out, err = submit("--resume", "--epochs", 6)
    assert code == 0 and "job 901 submitted" in out and "3 epochs x" in out, err
    manifest = unfinished.read_manifest()
    assert (manifest.state, manifest.job_ids, manifest.step) == ("submitted", ["900", "901"], 30)
    # What is asked for travels with the job: only what trains the run says what it is.
    assert unfinished.config.read_bytes() == before
    from submitit.core.utils import DelayedSubmission

    call = DelayedSubmission.load(unfinished.path / "job" / "901_submitted.pkl")
    assert call.args[0] == str(unfinished.path.resolve()) and '"epochs": 6' in call.args[3]


def test_resume_is_refused(submit: Submit, unfinished: RunDirectory, slurm_commands: Any) -> None:
    code, _, err = submit("--resume", "--lr", "0.5")
    assert code == 2 and "started with other settings" in err
    slurm_commands(sbatch=("", REFUSED, 1))
    before = unfinished.manifest.read_bytes()
    assert submit("--resume")[0] == 2
    assert unfinished.manifest.read_bytes() == before and unfinished.config.is_file()


def test_the_command_that_goes_on_asks_for_the_same_job(
    submit: Submit, slurm_commands: Any, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any folder, and its store is prepared where it is still not there."""
    Path("an image.sif").write_bytes(b"hsqs")
    asked = ("--container", "an image.sif", "--time", "1:30:00", "--memory", "1.5", "--nodes", 2,
             "--partition", "long", "--job-name", "mine", "--sbatch", "nice=5",
             "--store", "new.h5", "--prepare", "tiny.h5",
             "--models-dir", Path("models").resolve())  # fmt: skip
    assert submit("--run-id", "mine", *asked)[0] == 0
    run = RunDirectory(the_run("mine").path.resolve())
    words = shlex.split(resume_command(run, run.read_manifest()))
    for flag, value in (
        ("--profile", Path("site.yaml").resolve()), ("--container", Path("an image.sif").resolve()),
        ("--partition", "long"), ("--job-name", "mine"),
        ("--time", "1:30:00"), ("--memory", "1.5"), ("--nodes", 2), ("--sbatch", "nice=5"),
        ("--prepare", Path("tiny.h5").resolve()),
    ):  # fmt: skip
        assert words[words.index(flag) + 1] == str(value)
    scripts = [path.read_text() for path in run.path.glob("job/*.sh")]
    store = Path("new.h5").resolve()
    slurm_commands(sbatch=("901\n", "", 0))
    monkeypatch.chdir("/")
    code, out, err = command(*words[1:])
    assert code == 0 and f"job 901 prepares {store} first" in out, err
    again = (run.path / "job" / "901_submission.sh").read_text()
    assert "an image.sif" in again and "an image.sif" in scripts[0]
    for line in ("--time=90\n", "--nodes=2\n", "--nice=5\n", "--mem=1536M\n", "--partition=long\n"):
        assert f"#SBATCH {line}" in again and f"#SBATCH {line}" in scripts[0], again
    store.touch()
    assert "--prepare" not in resume_command(run, run.read_manifest())


# ---- shared storage ----------------------------------------------------------------------------


def test_folders_that_other_machines_do_not_see() -> None:
    assert "temporary files" in str(unshared_reason(Path("/tmp/models"))) or "tmpfs" in str(
        unshared_reason(Path("/tmp/models"))
    )
    assert "/dev/shm" in str(unshared_reason(Path("/dev/shm/models")))
    assert unshared_reason(Path("/usr/share/models")) is None or "overlay" in str(
        unshared_reason(Path("/usr/share/models"))
    )


def test_a_manifest_of_a_submitted_run_is_read_by_the_registry(tmp_path: Path) -> None:
    from phase2hpc.cluster.monitor.scheduler import SlurmScheduler
    from phase2hpc.config.run_config import build_config
    from phase2hpc.runs.listing import list_text
    from phase2hpc.runs.registry import registry
    from phase2hpc.runs.run_table import run_records
    from phase2hpc.runs.state import run_statuses

    run = create_run(tmp_path, "multitask_cgcnn_lite", "x")
    manifest = Manifest.for_run(run, build_config("cgcnn", "lite", ["band_gap"]), tmp_path, None)
    manifest.state = "submitted"
    run.write_manifest(manifest)
    records = run_records(run_statuses(registry(tmp_path), SlurmScheduler()))
    assert " pending " in list_text(records, None)
