"""``submit --tune N --space FILE``: refused, submitted, and a search here for real."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paused import PausePoint

from phase2hpc.runs.run_directory import RunDirectory

YAML = "lr: {low: 1e-3, high: 1e-1, log: true}\nbatch_size: [4, 8]\n"
TOML = 'lr = {low = 1e-3, high = 1e-1, log = true}\n"batch-size" = [4, 8]\n'
FEW = ("--epochs", "1", "--max-samples", "16", "--set", "hidden=8", "--set", "head_hidden=8",
       "--set", "out_features=16", "--properties", "band_gap")  # fmt: skip
FAMILY = Path("models/multitask_cgcnn_lite")

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def site(tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch, slurm_commands: Any) -> Path:
    """A working directory with a store, profiles and spaces; sbatch says yes."""
    folder = tmp_path / "at"
    folder.mkdir()
    monkeypatch.chdir(folder)
    shutil.copy(tiny.store, "tiny.h5")
    slurm_commands(sbatch=("900\n", "", 0), scontrol=("", "", 0), squeue=("", "", 0),
                   scancel=("", "", 0), sinfo=("", "", 0))  # fmt: skip
    Path("site.yaml").write_text("gpus: 0\nmax_hours: 24\n")
    Path("here.yaml").write_text("executor: local\n")
    Path("s.yaml").write_text(YAML)
    Path("s.toml").write_text(TOML)
    return folder


@pytest.fixture
def submit(site: Path, command: Command) -> Command:
    def run(*arguments: object) -> tuple[int, str, str]:
        return command(
            "submit", "--algorithm", "cgcnn", "--level", "lite", "--profile", "site.yaml",
            "--store", "tiny.h5", *FEW, *arguments,
        )  # fmt: skip

    return run


@pytest.mark.parametrize("space", ["s.yaml", "s.toml"])
def test_what_is_submitted(space: str, submit: Command, command: Command) -> None:
    pytest.importorskip("optuna")
    code, out, err = submit("--tune", "3%2", "--space", space, "--run-id", "mine")
    assert code == 0, err
    assert "array 900 of 3 jobs" in out and "900_2: run mine-t2 (trial=2)" in out
    assert "phase2hpc status mine\n" in out and "phase2hpc cancel mine" in out
    script = (FAMILY / "array_mine" / "900_submission.sh").read_text()
    assert "--array=0-2%2\n" in script and " optuna" in script
    assert "phase2hpc[tune]" in script
    stored = json.loads((FAMILY / "array_mine" / "space.json").read_text())
    assert stored["choices"]["batch_size"] == ["4", "8"] and stored["overrides"]["hidden"] == "8"
    manifest = RunDirectory(FAMILY / "run_mine-t1").read_manifest()
    assert manifest.trial is not None and (manifest.trial.number, manifest.trial.settings) == (
        1,
        {},
    )
    assert (manifest.ensemble, manifest.ensemble_size, manifest.job_ids) == ("mine", 3, ["900_1"])
    assert command("status", "mine")[0] == 0


def test_a_dry_run_shows_the_space(submit: Command, site: Path) -> None:
    before = sorted(site.rglob("*"))
    code, out, err = submit("--tune", 2, "--space", "s.yaml", "--dry-run")
    assert code == 0, err
    assert "#   lr: numbers from 0.001 to 0.1, log\n#   batch_size: 4 | 8\n" in out
    assert sorted(site.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tune", 2), "--tune and --space: a search needs"),
        (("--space", "s.yaml"), "--tune and --space: a search needs"),
        (("--tune", 0, "--space", "s.yaml"), "--tune 0: give the number of trials"),
        (("--tune", "2-4", "--space", "s.yaml"), "--tune 2-4: give the number of trials"),
        (("--tune", "2%x", "--space", "s.yaml"), "after % give how many run at once"),
        (("--tune", 2, "--space", "s.yaml", "--seeds", "0-1"), "leave out --seeds and --sweep"),
        (("--tune", 2, "--space", "s.yaml", "--sweep", "lr=1,2"), "leave out --seeds and --sweep"),
        (("--tune", 2, "--space", "s.yaml", "--resume"), "leave out --tune and --space"),
        (("--tune", 2, "--space", "s.yaml", "--lr", 1), "s.yaml: lr: --lr is given too"),
        (("--tune", 2, "--space", "none.yaml"), "none.yaml: cannot be read (No such file"),
        (("--tune", 2, "--space", "bad.yaml"), "bad.yaml, line 2: "),
        (("--tune", 2, "--space", "bad.toml"), "bad.toml: not TOML"),
        (("--tune", 2, "--space", "list.yaml"), "list.yaml: not a space of settings"),
        (("--tune", 2, "--space", "high.yaml"), "high.yaml: setting 'lr' = 3"),
        (("--tune", 2, "--space", "word.yaml"), "word.yaml: setting 'batch_size' = '4.5'"),
        (("--tune", 2, "--space", "key.yaml"), "key.yaml: unknown setting 'lrr'"),
    ],
)
def test_refused_before_anything_is_queued(
    arguments: tuple[object, ...], words: str, submit: Command, site: Path, slurm_commands: Any
) -> None:
    for name, text in {
        "bad.yaml": "lr: [1\nx: 2: 3\n", "bad.toml": "lr = [1\n", "list.yaml": "- lr\n",
        "high.yaml": "lr: {low: 1, high: 3}\n", "word.yaml": "batch_size: [4, 4.5]\n",
        "key.yaml": "lrr: [1, 2]\n",
    }.items():  # fmt: skip
        Path(name).write_text(text)
    before = sorted(site.rglob("*"))
    code, out, err = submit(*arguments)
    assert (code, out) == (2, "") and words in err.splitlines()[-1] and "Traceback" not in err
    assert sorted(site.rglob("*")) == before
    assert not [call for call in slurm_commands() if call.startswith("sbatch")]


def test_without_optuna(submit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs would have the same Python; a container, or another one, may have it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = submit("--tune", 2, "--space", "s.yaml")
    assert code == 2 and not Path("models").exists()
    assert err.splitlines()[-1].endswith("pip install 'phase2hpc[tune]'")
    Path("site.yaml").write_text("gpus: 0\nmax_hours: 24\npython: /opt/python\n")
    assert submit("--tune", 2, "--space", "s.yaml")[0] == 0


def test_optuna_is_imported_only_if_asked() -> None:
    program = "import sys, phase2hpc.training.runner; print('optuna' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_a_search_here_from_submission_to_result(
    site: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Stopped in the middle of its first run, which goes on with the settings that it has."""
    pytest.importorskip("optuna")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    pause = PausePoint(site / "paused", "phase2hpc.training.trainer:Trainer.optimise", 1)
    process = subprocess.Popen(
        [sys.executable, "-m", "phase2hpc.cli.main", "submit", "--algorithm", "cgcnn", "--level",
         "lite", "--profile", "here.yaml", "--store", "tiny.h5", *FEW, "--run-id", "mine",
         "--tune", "2", "--space", "s.yaml"],
        text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | pause.environment, start_new_session=True,
    )  # fmt: skip
    pause.wait(process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 75, err
    first, second = (RunDirectory(FAMILY / f"run_mine-t{k}") for k in range(2))
    chosen = first.read_manifest().trial
    assert chosen is not None and chosen.settings.keys() == {"lr", "batch_size"}
    assert second.read_manifest().trial.settings == {}
    code, out, err = command("train", "--algorithm", "cgcnn", "--level", "lite", "--resume",
                             "--run-id", "mine")  # fmt: skip
    assert code == 0, err
    manifests = [run.read_manifest() for run in (first, second)]
    assert [m.state for m in manifests] == ["finished", "finished"]
    assert manifests[0].trial == chosen and manifests[1].trial.settings
    assert first.read_config().training.lr == chosen.settings["lr"]
    from phase2hpc.training.tuning import study

    trials = study._open(FAMILY / "array_mine", 0).get_trials()
    assert {t.user_attrs["run"]: t.value for t in trials} == {
        m.run_id: m.best_score for m in manifests
    }
    best = min(manifests, key=lambda m: m.best_score)
    code, out, _ = command("status", "mine")
    assert code == 0 and f"best so far (2 of 2 runs finished): {best.run_id}, score" in out
    assert best.ensemble_member in out
    code, out, _ = command("runs", "compare", "mine")
    assert code == 0 and "mine-t0" in out and "mine-t1" in out
    second.update_manifest(state="stopped")
    code, out, _ = command("runs", "compare", "mine")
    assert code == 0 and "mine-t1" not in out
    assert "left out, since not finished: mine-t1" in caplog.text
    code, out, _ = command("status", "mine")
    assert "best so far (1 of 2 runs finished): mine-t0" in out


def test_a_sweep_of_algorithms_here(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of both algorithms, from submission to result."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    little = [word for word in FEW if word != "hidden=8"]
    little[little.index("--set")] = "--batch-size"
    little.insert(little.index("--batch-size") + 1, "8")
    done = subprocess.run(
        [sys.executable, "-m", "phase2hpc.cli.main", "submit", "--level", "lite", "--profile",
         "here.yaml", "--store", "tiny.h5", *little, "--run-id", "mine", "--sweep",
         "algorithm=cgcnn,e3nn", "--sweep", "lr=log:1e-3..1e-2:2"],
        text=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for family, algorithm in (("multitask_cgcnn_lite", "cgcnn"), ("multitask_lite_e3nn", "e3nn")):
        for rate in ("0.001", "0.01"):
            run = RunDirectory(Path("models") / family / f"run_mine-{algorithm}-lr{rate}")
            manifest, config = run.read_manifest(), run.read_config()
            assert (manifest.state, manifest.ensemble) == ("finished", f"mine-{algorithm}")
            assert (config.algorithm, config.training.lr) == (algorithm, float(rate))
            assert run.metrics_json.exists()
