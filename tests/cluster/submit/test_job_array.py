"""``--shards``: here for real, one process after another; under Slurm, the scripts and what is
submitted, with a stand-in for sbatch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paused import PausePoint
from recorded_script import recorded_form
from tiny import Tiny

from phase2hpc.cluster.profiles.profile import find_profile
from phase2hpc.cluster.submit.job_array import ShardJobs, scripts
from phase2hpc.cluster.submit.sbatch_options import start_after
from phase2hpc.cluster.submit.sharded_work import predict_in_shards, prepare_in_shards
from phase2hpc.data.prepare import prepare_store
from phase2hpc.data.store.info import read_info
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils.shard_folder import ShardFolder

RECORDED = Path(__file__).parent / "recorded"
OPTIONS: dict[str, Any] = {"graph": {}, "split": None, "seed": 0, "float64": False}
SQUEUE = "squeue: error: Invalid job id specified\n"

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def site(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a source and profiles."""
    folder = tmp_path / "at"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("in.jsonl").write_text(tiny.source.read_text())
    Path("site.yaml").write_text("partition: main\nmax_hours: 2\ngpus: 1\npython: /opt/python\n")
    return folder


# ---- here --------------------------------------------------------------------------------------


def test_prepared_here(site: Path, command: Command) -> None:
    """By relative names, without a profile, and again."""
    code, out, err = command("prepare", "in.jsonl", "--store", "s.h5", "--shards", 2)
    assert code == 0, err
    alone = prepare_store(["in.jsonl"], "alone.h5", workers=1)
    assert read_info("s.h5").content_hash == alone.content_hash
    assert Path("s.h5.rejects.csv").read_text() == alone.rejects_report.read_text()
    assert "in 150   kept 150" in out
    assert not list(site.glob("s.h5.shards")) and not list(site.glob("s.h5.jobs"))
    code, out, _ = command("prepare", "in.jsonl", "--store", "s.h5", "--shards", 2)
    assert code == 0 and "s.h5 exists already" in out


def test_a_killed_shard_is_made_alone(site: Path, command: Command) -> None:
    """The first of two takes the signal; what ends it, and the second, is kept."""
    Path("killed.yaml").write_text(
        'executor: local\nsetup: [\'[ "$SUBMITIT_LOCAL_JOB_ID" = "${SUBMITIT_LOCAL_JOB_ID%_0}" ]'
        " || kill -9 $$']\n"
    )
    arguments = ("prepare", "in.jsonl", "--store", "s.h5", "--shards", 2, "--workers", 1)
    code, _, err = command(*arguments, "--profile", "killed.yaml")
    assert code == 1 and "1 of 2 failed" in err.splitlines()[-1]
    assert "repeat the command for the rest" in err and not Path("s.h5").exists()
    (part,) = site.glob("s.h5.shards/*/*.jsonl")
    assert part.name == "0001.jsonl"
    code, out, err = command(*arguments)
    assert code == 0 and "1 of 2 shards exist already" in out, err
    assert read_info("s.h5").crystals == 150 and not Path("s.h5.shards").exists()


def test_a_signal_keeps_what_is_done(site: Path) -> None:
    """It comes in the middle of the first shard."""
    pause = PausePoint(site / "paused", "phase2hpc.data.store.writer:StoreWriter.finish", 1)
    process = subprocess.Popen(
        [sys.executable, "-m", "phase2hpc.cli.main", "prepare", "in.jsonl", "--store", "s.h5",
         "--shards", "2", "--workers", "1"],
        text=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | pause.environment, start_new_session=True,
    )  # fmt: skip
    pause.wait(process)
    assert list(site.glob("s.h5.shards/*/.0000.jsonl*"))
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    last = err.splitlines()[-1]
    assert process.returncode == 75 and "repeat the command for the rest" in last, err
    assert not [path for path in site.glob("s.h5.shards/*/*") if path.name.startswith(".")]
    assert not Path("s.h5").exists()


def test_a_wrong_source_is_the_users(site: Path, command: Command) -> None:
    Path("bad.json").write_text('[{"id": "a"}, {"id"')
    code, _, err = command("prepare", "bad.json", "--store", "s.h5", "--shards", 2)
    assert code == 2 and "damaged or cut short" in err and "Traceback" not in err
    assert not Path("s.h5").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--shards", 501), "--shards 501: at most 500"),
        (("--shards", 2, "--split", "sometimes"), "unknown split rule 'sometimes'"),
        (("--shards", 2, "--cutoff", 99), "cutoff 99.0 A is outside"),
        (("--shards", 2, "--profile", "nowhere.yaml"), "profile nowhere.yaml: no such file"),
        (("--profile", "site.yaml"), "--profile: only with --shards"),
        (("--partition", "long"), "--partition: only with --shards"),
        (("--shards", 2, "--time", 1), "--time: only with --profile; without, the shards run here"),
        (("--shards", 2, "--profile", "site.yaml", "--time", "0"), "--time 0: must be more than 0"),
    ],
)
def test_wrong_requests(
    arguments: tuple[object, ...], words: str, site: Path, command: Command
) -> None:
    code, _, err = command("prepare", "in.jsonl", "--store", "s.h5", *arguments)
    assert code == 2 and words in err and err.count("\n") == 1
    assert sorted(path.name for path in site.iterdir()) == ["in.jsonl", "site.yaml"]


def test_predicted_here(site: Path, trained: Any, command: Command) -> None:
    common = ("predict", "in.jsonl", "--run", trained["cgcnn"].path, "--output")
    assert command(*common, "alone.csv")[0] == 0
    code, out, err = command(*common, "s.csv", "--shards", 2)
    assert code == 0 and "150 structures: 150 ok" in out, err
    assert Path("s.csv").read_bytes() == Path("alone.csv").read_bytes()
    assert not list(site.glob("s.csv.*"))
    assert command(*common[:-1], "--shards", 2)[0] == 2
    assert command(*common, "s.txt", "--shards", 2)[0] == 2


# ---- under Slurm -------------------------------------------------------------------------------


def test_scripts_are_as_recorded(site: Path) -> None:
    """A change of a recorded text is a change of what runs on clusters: read it, then write it
    there."""
    work = prepare_in_shards(["in.jsonl"], Path("s.h5"), OPTIONS, 3)
    array, last = scripts(work, find_profile("site.yaml"), 3, ShardJobs())
    last = start_after(last, ["ID_OF_THE_SHARDS"], even_if_failed=True)
    for name, script in (("shards", array), ("merge", last)):
        text = recorded_form(script.text(), site)
        assert text == (RECORDED / f"{name}.sbatch").read_text()
        assert subprocess.run(["/bin/bash", "-n"], input=text, text=True).returncode == 0


@pytest.mark.parametrize(("device", "gpus"), [("cpu", False), ("auto", True), ("cuda", True)])
def test_gpus_are_asked_for_to_predict(
    device: str, gpus: bool, site: Path, trained: dict[str, RunDirectory]
) -> None:
    runs = [trained["cgcnn"]]
    work = predict_in_shards(
        ["in.jsonl"], Path("p.csv"), runs, 2, plain_folder=False, device=device, threads=3
    )
    profile = find_profile("site.yaml").model_copy(update={"gpus": 4})
    array, last = scripts(work, profile, 2, ShardJobs())
    assert "--ntasks-per-node=1" in array.text()
    assert ("--gres=gpu:1" in array.text()) == gpus and "--gres" not in last.text()
    assert "--cpus-per-task=3" in array.text() and "--time=120" in array.text()
    assert "phase2hpc[train]" in array.text()


@pytest.fixture
def on_slurm(slurm_commands: Any) -> Any:
    slurm_commands(
        sbatch=("900\n", "", 0), squeue=("", SQUEUE, 1), scancel=("", "", 0), scontrol=("", "", 0),
        sinfo=("", "", 0),
    )  # fmt: skip
    return slurm_commands


PREPARE = ("prepare", "in.jsonl", "--store", "s.h5", "--shards", 3, "--profile", "site.yaml")


def test_what_is_submitted(site: Path, on_slurm: Any, command: Command) -> None:
    code, out, err = command(*PREPARE)
    assert code == 0, err
    assert "array 900 of 3 shards submitted" in out and "squeue --jobs=900,900" in out
    assert "job 900 joins them into s.h5 when all have ended" in out
    names = {path.name for path in Path("s.h5.jobs").iterdir()}
    assert names >= {f"900_{element}_submitted.pkl" for element in range(3)}
    assert "900_submitted.pkl" in names
    script = Path("s.h5.jobs/900_submission.sh").read_text()
    assert "#SBATCH --dependency=afterany:900\n" in script and "--array" not in script
    calls = [line for line in on_slurm() if line.startswith("sbatch")]
    assert len(calls) == 2
    # Still in the queue: not once more.
    line = "|".join(["900_1", "PENDING", "0", "0", "0:00", "1:00", "N/A", "", "None", ""])
    on_slurm(squeue=(line + "\n", "", 0))
    code, _, err = command(*PREPARE)
    assert code == 2 and "job 900_1 already works on s.h5" in err and "scancel 900" in err


FLAGS = ("--partition", "long", "--account", "chem", "--qos", "high", "--constraint", "avx2",
         "--reservation", "course", "--memory", "5G", "--time", "1:00:00")  # fmt: skip


def test_flags_come_over_the_profile(
    site: Path, on_slurm: Any, trained: dict[str, RunDirectory], command: Command, tmp_path: Path
) -> None:
    """Of the array and of the job that joins it, both to prepare and to predict."""
    predict = ("predict", "in.jsonl", "--run", trained["cgcnn"].path, "--device", "cpu",
               "--output", "p.csv", "--shards", 2, "--profile", "site.yaml")  # fmt: skip
    ids = tmp_path / "ids"
    (tmp_path / "bin" / "sbatch").write_text(f"#!/bin/sh\necho x >> {ids}\n/bin/grep -c x {ids}\n")
    for words, logs in ((PREPARE, "s.h5.jobs"), (predict, "p.csv.jobs")):
        code, _, err = command(*words, *FLAGS, "--job-name", "mine")
        assert code == 0, err
        texts = [path.read_text() for path in Path(logs).glob("*.sh")]
        assert len(texts) == 2
        for text in texts:
            for line in (
                "partition=long", "account=chem", "qos=high", "constraint=avx2",
                "reservation=course", "mem=5G", "time=60",
            ):  # fmt: skip
                assert f"#SBATCH --{line}\n" in text, text
            assert "--job-name=mine-" in text


def test_only_what_is_missing_is_submitted(site: Path, on_slurm: Any, command: Command) -> None:
    assert command(*PREPARE)[0] == 0
    (path,) = Path("s.h5.shards").iterdir()
    folder = ShardFolder(path.resolve(), 3)
    for shard in (0, 2):
        folder.part(shard).touch()
    code, out, err = command(*PREPARE)
    assert code == 0, err
    assert "2 of 3 shards exist already" in out and "900_0: shard 1" in out
    folder.part(1).touch()
    code, out, err = command(*PREPARE)
    assert code == 0 and "array" not in out and "squeue --jobs=900\n" in out, err
    assert "dependency" not in Path("s.h5.jobs/900_submission.sh").read_text()
    # Other settings, other shards: the old ones are cleared away.
    assert command(*PREPARE, "--split", "random")[0] == 0
    (other,) = Path("s.h5.shards").iterdir()
    assert other.name != folder.path.name


def test_submitted_from_a_login_node_without_numpy(site: Path, on_slurm: Any) -> None:
    heavy = ("numpy", "h5py", "torch", "gemmi", "vesin", "ase", "pymatgen", "e3nn")
    program = f"import sys\nsys.modules |= dict.fromkeys({heavy})\n"
    program += "from phase2hpc.cli.main import main\nmain()"

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, *map(str, PREPARE)]
        return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)

    done = run()
    assert done.returncode == 0 and "array 900 of 3 shards" in done.stdout, done.stderr
    Path("s.h5").touch()
    done = run()
    assert done.returncode == 2 and "cannot read it (no numpy)" in done.stderr


def test_refused(site: Path, on_slurm: Any, command: Command, tmp_path: Path) -> None:
    on_slurm(sbatch=("", "sbatch: error: Invalid qos\n", 1))
    before = sorted(site.rglob("*"))
    code, _, err = command(*PREPARE)
    assert code == 2 and "Invalid qos" in err and sorted(site.rglob("*")) == before
    # The second one only.
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(
        f"#!/bin/sh\necho sbatch >> {tmp_path}/second\n"
        f"[ $(/bin/grep -c sbatch {tmp_path}/second) = 1 ] && echo 55 && exit 0\n"
        "echo 'sbatch: error: Invalid qos' >&2\nexit 1\n"
    )
    code, _, err = command(*PREPARE)
    assert code == 2 and "Invalid qos" in err
    assert "scancel 55" in on_slurm() and not Path("s.h5.shards").exists()
