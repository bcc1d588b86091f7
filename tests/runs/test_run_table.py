"""``runs list``: filters, order and the table to share."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phase2hpc.config.run_config import build_config
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.run_directory import RunDirectory, create_run

Command = Callable[..., tuple[int, str, str]]


def finished(models: Path, name: str, mae: dict[str, float], **overrides: Any) -> RunDirectory:
    config = build_config("cgcnn", "std", list(mae), overrides)
    run = create_run(models, "multitask_cgcnn_std", name)
    run.write_config(config)
    manifest = Manifest.for_run(run, config, models / "a-store-of-a-long-name.h5", "c0ffee")
    manifest.state, manifest.best_score, manifest.epoch = "finished", mae["band_gap"] / 2, 200
    run.write_manifest(manifest)
    table = {key: {"mae": value, "mae_se": 0.1, "n": 5} for key, value in mae.items()}
    run.metrics_json.write_text(json.dumps({"val": table, "test": table}))
    return run


@pytest.fixture
def models(tmp_path: Path) -> Path:
    finished(tmp_path, "a", {"band_gap": 0.5, "ehull": 0.2})
    finished(tmp_path, "b", {"band_gap": 0.3}, lr=0.5, preset="small")
    c = finished(tmp_path, "c", {"band_gap": 0.4})
    c.metrics_json.unlink()
    c.update_manifest(state="stopped", best_score=None, epoch=3)
    return tmp_path


def listed(command: Command, models: Path, *arguments: str) -> list[str]:
    code, out, err = command("runs", "list", "--models-dir", models, "--json", *arguments)
    assert (code, err) == (0, "")
    return [record["run"] for record in json.loads(out)]


def test_text(models: Path, command: Command) -> None:
    code, out, _ = command("runs", "list", "--models-dir", models)
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["run", "model", "state", "score", "test", "MAE", "store"]
    assert lines[2] == ["a", "cgcnn", "std", "finished", "0.250", "0.500", "a-store-of-a.."]
    assert lines[4] == ["c", "cgcnn", "std", "stopped", "3/200", "-", "-", "a-store-of-a.."]
    assert "test MAE: of band_gap" in out and max(map(len, out.splitlines())) <= 80
    code, out, _ = command("runs", "list", "--models-dir", models, "--property", "ehull")
    assert "0.200" in out and "test MAE: of ehull" in out
    code, _, err = command("runs", "list", "--models-dir", models, "--property", "mass")
    assert code == 2 and "only of band_gap, ehull" in err


def test_filter_and_sort(models: Path, command: Command) -> None:
    assert listed(command, models) == ["a", "b", "c"]
    assert listed(command, models, "--sort", "mae_band_gap") == ["b", "a", "c"]
    assert listed(command, models, "--sort", "best_score", "--reverse") == ["a", "b", "c"]
    assert listed(command, models, "--filter", "properties=EHULL") == ["a"]
    assert listed(command, models, "--filter", "state!=finished") == ["c"]
    assert listed(command, models, "--filter", "run=[ab]", "--filter", "best_score<0.2") == ["b"]
    assert listed(command, models, "--filter", "overrides=*lr=0.5*") == ["b"]
    code, out, _ = command("runs", "list", "--models-dir", models, "--filter", "run=z")
    assert code == 0 and "that meet --filter" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sort", "best_scor"], "did you mean 'best_score'"),
        (["--filter", "zzz=1"], "no column 'zzz'"),
        (["--filter", "finished"], "write it as"),
        (["--filter", "epoch<many"], "is not a number"),
        (["--csv", "{models}/multitask_cgcnn_std/run_a/config.json/x.csv"], "cannot be written"),
    ],
)
def test_what_cannot_be(arguments: list[str], words: str, models: Path, command: Command) -> None:
    given = [argument.format(models=models) for argument in arguments]
    code, _, err = command("runs", "list", "--models-dir", models, *given)
    assert code == 2 and words in err and err.count("\n") == 1


def test_csv(models: Path, command: Command) -> None:
    target = models / "runs.csv"
    code, out, _ = command("runs", "list", "--models-dir", models, "--csv", target)
    assert code == 0 and out == f"3 runs: {target}\n"
    with target.open() as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert rows["a"]["properties"] == "band_gap,ehull" and rows["a"]["test_mae_ehull"] == "0.2"
    assert rows["b"]["overrides"] == "preset=small lr=0.5" and rows["b"]["test_mae_ehull"] == ""
    assert rows["c"]["test_n_band_gap"] == "" and rows["c"]["store_hash"] == "c0ffee"
    # To be shared: it names no folder of this machine.
    assert str(models) not in target.read_text()


def test_broken_files_are_named_and_the_others_listed(models: Path, command: Command) -> None:
    (models / "multitask_cgcnn_std" / "run_a" / "metrics.json").write_text("{}")
    (models / "multitask_cgcnn_std" / "run_b" / "config.json").write_text("[")
    code, out, err = command("runs", "list", "--models-dir", models)
    assert (code, err) == (0, "") and out.count("cannot be read") == 2
    assert listed(command, models) == ["a", "b", "c"]


def test_work_for_each_run_is_small_and_the_same_for_many(tmp_path: Path, command: Command) -> None:
    """A thousand runs are listed in a second: counted in files and calls, since seconds vary."""
    one = finished(tmp_path, "one", {"band_gap": 0.5, "ehull": 0.2})
    opened: list[str] = []
    counting = [False]

    def on_event(event: str, arguments: tuple[Any, ...]) -> None:
        if counting[0] and event == "open" and str(arguments[0]).startswith(str(tmp_path)):
            opened.append(str(arguments[0]))

    sys.addaudithook(on_event)  # it stays, but counts no more
    calls, names = [0], iter(range(120))

    def on_call(frame: object, event: str, _: object) -> None:
        calls[0] += event in ("call", "c_call")

    def work(runs: int) -> tuple[int, int]:
        for _ in range(runs):
            shutil.copytree(one.path, one.path.with_name(f"run_{next(names)}"))
        opened.clear()
        calls[0], counting[0] = 0, True
        sys.setprofile(on_call)
        try:
            assert command("runs", "list", "--models-dir", tmp_path)[0] == 0
        finally:
            sys.setprofile(None)
            counting[0] = False
        return len(opened), calls[0]

    work(0)  # imports
    (files, few), (more_files, many), (_, most) = work(19), work(20), work(80)
    assert (files, more_files) == (20 * 3, 40 * 3)  # config, manifest, metrics
    assert (many - few) / 20 < 1000
    assert (most - many) / 80 < 1.1 * (many - few) / 20
