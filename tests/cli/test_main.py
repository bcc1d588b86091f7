"""The command line: what it prints, its errors in one line, its exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from phase2hpc.config.algorithms import ALGORITHMS, LEVEL_NAMES
from phase2hpc.runs.registry import registry
from phase2hpc.utils.package_files import shared_path

EXAMPLE = shared_path("data/examples/HfN-rocksalt.cif")


def in_a_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip


# ---- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--algorithm", "e3n"], "unknown algorithm 'e3n': did you mean 'e3nn'?"),
        (["--level", "litte"], "unknown level 'litte': did you mean 'lite'?"),
        (["--level", "litte", "--resume"], "unknown level 'litte': did you mean 'lite'?"),
        (["--properties", "bandgap"], "unknown property 'bandgap'"),
        (["--properties", ","], "--properties is empty"),
        (["--properties", "band_gap", "--all-properties"], "give only one of them"),
        (["--preset", "smal"], "unknown preset 'smal': did you mean 'small'?"),
        (["--set", "batchsize=3"], "unknown setting 'batchsize': did you mean 'batch_size'?"),
        (["--set", "lr"], "--set 'lr': write it as key=value"),
        (["--set", "lr=fast"], "setting 'lr' = 'fast'"),
        (["--set", "store=x.h5"], "--set store: use --store"),
        (["--lr", "-1"], "setting 'lr' = -1.0"),
        (["--lr", "nan"], "setting 'lr'"),
        (["--epochs", "0"], "setting 'epochs' = 0"),
        (["--epochs", "many"], "--epochs"),
        (["--batch-size", "0"], "setting 'batch_size'"),
        (["--max-samples", "0"], "setting 'max_samples'"),
        (["--max-hours", "0"], "setting 'max_hours'"),
        (["--threads", "0"], "setting 'threads'"),
        (["--seed", "-1"], "setting 'seed'"),
        (["--device", "tpu"], "setting 'device' = 'tpu'"),
        (["--run-id", "a/b"], "run id 'a/b'"),
        (["--init-from", "nobody"], "no run 'nobody'"),
        (["--resume"], "--resume: no run in"),
        (["--nonsense"], "--nonsense"),
        (["surplus"], "surplus"),
    ],
)
def test_errors_of_train(arguments, words, command, tiny, tmp_path) -> None:
    models = tmp_path / "models"
    code, _, err = command("train", "--level", "lite", "--store", tiny.store,
                           "--models-dir", models, *arguments)  # fmt: skip
    assert code == 2 and err.count("\n") == 1 and words in err, err
    assert err.startswith("phase2hpc: ")
    assert not models.exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gone.h5", None, "gone.h5"),
        ("text.h5", b"not a store\n" * 100, "text.h5"),
        ("empty.h5", b"", "empty.h5"),
        ("folder.h5", "folder", "folder.h5"),
        ("cut.h5", "cut", "cut.h5"),
        ("other.h5", "other", "other.h5"),
    ],
)
def test_stores_that_are_none(name, content, words, command, tiny, tmp_path) -> None:
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content == "cut":
        data = tiny.store.read_bytes()
        path.write_bytes(data[: len(data) // 2])
    elif content == "other":
        import h5py

        with h5py.File(path, "w") as file:
            file["numbers"] = [1, 2, 3]
    elif content is not None:
        path.write_bytes(content)
    for arguments in (
        ("train", "--level", "lite", "--models-dir", tmp_path / "models", "--store", path),
        ("store", "info", path),
    ):
        code, _, err = command(*arguments)
        assert code == 2 and err.count("\n") == 1 and words in err, err
    assert not (tmp_path / "models").exists()


def test_a_models_folder_that_cannot_be(command, tiny, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    for models in (tmp_path / "file", Path("/proc/models")):
        code, _, err = command("train", "--algorithm", "cgcnn", "--level", "lite",
                               "--store", tiny.store, "--models-dir", models)  # fmt: skip
        assert code == 2 and err.count("\n") == 1 and str(models) in err, err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prepare", "{tmp}/gone.cif"], "gone.cif"),
        (["prepare", "--cutoff", "-1"], "cutoff"),
        (["prepare", "--max-neighbors", "-1"], "neighbors"),
        (["runs", "show", "nobody", "--models-dir", "{tmp}"], "no run 'nobody'"),
        (["runs", "show", "{tmp}"], "not a run directory"),
        (["nonsense"], "nonsense"),
        (["levels", "--nonsense"], "--nonsense"),
    ],
)
def test_errors_of_other_commands(arguments, words, command, tmp_path) -> None:
    code, _, err = command(*(a.format(tmp=tmp_path) for a in arguments))
    assert code == 2 and err.count("\n") == 1 and words in err, err


def test_errors_of_a_process() -> None:
    """What a shell sees: no traceback, the exit code, from ``python -m`` as well."""
    ended = in_a_process(
        "-m", "phase2hpc.cli.main", "train", "--level", "nonsense", "--store", "x.h5"
    )
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.count("\n") == 1 and "Traceback" not in ended.stderr


def test_what_nobody_expects_keeps_its_traceback(command, monkeypatch, tmp_path) -> None:
    """A bug must not be dressed up as the user's mistake."""
    monkeypatch.setattr("phase2hpc.runs.registry.registry", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command("runs", "list", "--models-dir", tmp_path)


def test_interrupted(command, monkeypatch) -> None:
    def interrupt(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr("phase2hpc.runs.registry.registry", interrupt)
    assert command("runs", "list") == (130, "", "phase2hpc: interrupted\n")


# ---- output ----------------------------------------------------------------------------------


def test_help_is_light(command) -> None:
    """``--help`` on a login node imports nothing heavy, nor do the commands that need nothing."""
    heavy = {"torch", "numpy", "pymatgen", "h5py", "ase", "gemmi", "e3nn", "torch_geometric"}
    program = (
        "import sys\n"
        "from phase2hpc.cli.main import main\n"
        "sys.argv = ['phase2hpc', *{arguments!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as ended:\n    assert not ended.code, ended.code\n"
        "print(sorted({heavy!r} & set(sys.modules)), file=sys.stderr)\n"
    )
    for arguments in (
        ["--help"],
        ["train", "--help"],
        ["submit", "--help"],
        ["levels"],
        ["runs", "list"],
    ):
        ended = in_a_process("-c", program.format(arguments=arguments, heavy=heavy))
        assert ended.returncode == 0 and ended.stderr.splitlines()[-1] == "[]", ended.stderr
    assert command("--help")[0] == 0
    code, out, _ = command("--version")
    assert code == 0 and out.startswith("phase2hpc ")


def test_help_needs_neither_settings_nor_submission() -> None:
    """They take half of its time."""
    program = "import sys, phase2hpc.cli.main; print({'pydantic', 'submitit'} & set(sys.modules))"
    assert in_a_process("-c", program).stdout.strip() == "set()"


def test_flags_of_the_manual(command) -> None:
    """The operation manual's names stay as they are."""
    train, predict = (command(name, "--help")[1] for name in ("train", "predict"))
    for flag in ("algorithm", "level", "all-properties", "resume", "epochs", "lr", "preset",
                 "max-samples"):  # fmt: skip
        assert f"--{flag}" in train
    for flag in ("cif", "dir", "output"):
        assert f"--{flag}" in predict


def test_levels(command) -> None:
    code, out, _ = command("levels")
    assert code == 0
    rows = [line.split() for line in out.splitlines()[2:]]
    assert [tuple(row[:2]) for row in rows] == [(a, n) for a in ALGORITHMS for n in LEVEL_NAMES]
    table = {tuple(row[:2]): row[2:7] for row in rows}
    assert table["e3nn", "std"] == ["100", "16", "0.001", "none", "medium"]
    assert table["e3nn", "smoke"] == ["5", "8", "0.002", "800", "medium"]
    assert table["cgcnn", "max"] == ["500", "160", "0.0007", "none", "large"]
    code, out, _ = command("levels", "--settings")
    assert code == 0
    from phase2hpc.config.settings import RuntimeSettings, TrainingSettings

    for settings in (TrainingSettings, RuntimeSettings, *(a.settings for a in ALGORITHMS.values())):
        for key, field in settings.model_fields.items():
            assert any(key in line and field.description in line for line in out.splitlines()), key


def test_runs_list_and_show(trained, command) -> None:
    run = trained["e3nn"]
    models = run.path.parents[1]
    code, out, _ = command("runs", "list", "--models-dir", models)
    assert code == 0
    lines = [line.split() for line in out.splitlines()[2:]]
    assert {tuple(line[:4]) for line in lines[:2]} == {
        (name, name, "lite", "finished") for name in ("e3nn", "cgcnn")
    }
    code, out, _ = command("runs", "show", "e3nn", "--models-dir", models)
    assert code == 0 and str(run.path) in out and "finished" in out
    code, out, _ = command("runs", "show", run.path, "--handoff")
    metrics = json.loads(run.metrics_json.read_text())
    for words in ("**algorithm**: e3nn", "**level**: lite", "**all properties**: yes",
                  f"**run path**: {run.path}"):  # fmt: skip
        assert f"- [x] {words}" in out, out
    for name in metrics["test"]:
        for split in ("val", "test"):
            (line,) = [x for x in out.splitlines() if x.startswith(f"| {name} |") and split in x]
            assert line.split("|")[-2].strip() == str(metrics[split][name]["n"])


def test_train_prints_its_tables_and_where_the_results_are(command, tiny, tmp_path) -> None:
    code, out, err = command(
        "train", "--algorithm", "cgcnn", "--level", "lite", "--store", tiny.store,
        "--models-dir", tmp_path, "--epochs", 1, "--max-samples", 20, "--run-id", "mine",
        "--properties", "band_gap,ehull",
    )  # fmt: skip
    assert code == 0 and "Traceback" not in err
    for words in ("epoch 1/1", "val: 20 crystals", "test: 20 crystals", "constant MAE", "MAE ± SE"):
        assert words in out
    assert out.splitlines()[-1] == f"results: {tmp_path / 'multitask_cgcnn_lite' / 'run_mine'}"
    names = {path.name for path in (tmp_path / "multitask_cgcnn_lite" / "run_mine").iterdir()}
    assert names >= {"config.json", "manifest.json", "checkpoint.pt", "best.pt", "history.json",
                     "metrics.json", "metrics.csv", "predictions_val.csv", "predictions_test.csv",
                     "tensorboard"}  # fmt: skip
    assert not any(name.endswith(".partial") for name in names)


def test_without_a_store_the_sample_is_prepared_once(command, tiny, tmp_path, monkeypatch) -> None:
    """Where the cache is told to be; a second run finds it there."""
    monkeypatch.setenv("PHASE2HPC_CACHE", str(tmp_path / "cache"))
    # The real sample takes half a minute.
    monkeypatch.setattr("phase2hpc.training.runner.sample_source", lambda: tiny.source)
    arguments = ("train", "--algorithm", "cgcnn", "--level", "lite", "--epochs", 1,
                 "--max-samples", 20, "--models-dir", tmp_path / "models")  # fmt: skip
    code, out, err = command(*arguments)
    assert code == 0 and "preparing the shipped sample" in out and "kept 150" in out, err
    store = tmp_path / "cache" / "jarvis_dft3d_15k.h5"
    before = store.stat().st_mtime_ns
    code, out, err = command(*arguments)
    assert code == 0 and "preparing" not in out and store.stat().st_mtime_ns == before, err


def test_a_missing_extra_is_named(command, monkeypatch) -> None:
    """As on a login node, whose install has no numpy."""
    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.delitem(sys.modules, "phase2hpc.data.store.info", raising=False)
    code, out, err = command("store", "info", "any.h5")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "needs h5py" in err and "pip install 'phase2hpc[data]'" in err


def test_what_is_given_twice_or_elsewhere(command, trained, tmp_path) -> None:
    for arguments, words in (
        (("--epochs", "2", "--set", "epochs=3"), "--epochs and --set epochs"),
        (("--set", "seed=1"), "use --seed"),
        (("--resume", "--init-from", "x"), "leave out --init-from"),
    ):
        code, _, err = command("train", "--level", "lite", "--models-dir", tmp_path, *arguments)
        assert code == 2 and words in err and err.count("\n") == 1
    run = trained["cgcnn"].path
    wrong = tmp_path / "out.xlsx"
    code, _, err = command("predict", "--cif", EXAMPLE, "--run", run, "--output", wrong)
    assert code == 2 and "a .csv or a .json file" in err


def test_progress_of_a_run_that_lives(train_tiny, tmp_path, monkeypatch) -> None:
    """The manifest follows the checkpoints: a run that is killed shows how far it came."""
    monkeypatch.setattr(
        "phase2hpc.training.runner.evaluate", lambda *_: (_ for _ in ()).throw(MemoryError())
    )
    with pytest.raises(MemoryError):
        train_tiny(tmp_path)
    (summary,) = registry(tmp_path)
    assert summary.manifest is not None and summary.manifest.epoch == 3
    assert summary.manifest.best_score is not None


def test_resume_from_another_folder(train_tiny, tmp_path, monkeypatch, tiny, command) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny.store, tmp_path / "own.h5")
    run = train_tiny(Path("models"), store=Path("own.h5"))
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    resume = ("train", "--algorithm", "cgcnn", "--level", "lite", "--resume")
    code, out, err = command(*resume, "--models-dir", "../models", "--epochs", "4")
    assert code == 0, err
    assert "schedule is stretched" in out
    code, _, err = command("train", "--resume", "--run-id", tmp_path / run.path)
    assert code == 2 and "is cgcnn lite, not e3nn std" in err


# ---- encodings -------------------------------------------------------------------------------

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "iso8859-2"}, {"LC_ALL": "C"}, ASCII])
def test_a_run_ends_on_a_terminal_of_any_encoding(environment, tiny, tmp_path) -> None:
    """Its tables hold a plus-minus sign."""
    models = tmp_path / ("models" if environment is ASCII else "modèles-ł±")
    ended = subprocess.run(
        [sys.executable, "-m", "phase2hpc", "train", "--algorithm", "cgcnn", "--level", "lite",
         "--store", tiny.store, "--models-dir", models, "--epochs", "1", "--max-samples", "20",
         "--properties", "band_gap"],
        capture_output=True, timeout=120, env=os.environ | environment,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ("±".encode() if environment == {"LC_ALL": "C"} else b"+-") in ended.stdout
    (summary,) = registry(models)
    assert summary.manifest is not None and summary.manifest.state == "finished"


def test_a_name_that_this_locale_cannot_read_is_refused(tmp_path) -> None:
    ended = in_a_process("-m", "phase2hpc", "runs", "list", "--models-dir", "modèles", **ASCII)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1, ended.stderr
    assert "not readable as ascii" in ended.stderr and "LC_ALL=C.UTF-8" in ended.stderr
