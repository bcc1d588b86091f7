"""The run directory, its manifest, and the registry of runs."""

import itertools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from phase2hpc.cluster.monitor.scheduler import SlurmScheduler
from phase2hpc.config.properties import GROUPS
from phase2hpc.config.run_config import build_config
from phase2hpc.errors import InputError
from phase2hpc.runs import provenance
from phase2hpc.runs.listing import handoff_text, list_text, show_text
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.registry import (
    find_run,
    newest_to_resume,
    registry,
)
from phase2hpc.runs.run_directory import (
    RunDirectory,
    check_place_of_runs,
    create_run,
    family_folder,
)
from phase2hpc.runs.run_table import run_records
from phase2hpc.runs.state import run_statuses, status_of

FAMILY = "multitask_std_e3nn"
METRICS = {"mae": 0.0512, "mae_se": 0.0021, "rmse": 0.1, "r2": 0.9, "n": 1520, "mad": 0.8}
START = datetime(2026, 1, 1, tzinfo=UTC)


def make_run(
    models: Path, run_id: str | None = None, group: str = "all9", **changes: Any
) -> RunDirectory:
    config = build_config("e3nn", "std", GROUPS[group], seed=7)
    run = create_run(models, family_folder("e3nn", "std"), run_id)
    run.write_config(config)
    run.write_manifest(Manifest.for_run(run, config, models / "store.h5", "c0ffee"))
    if changes:
        run.update_manifest(**changes)
    return run


def set_created(run: RunDirectory, order: int) -> None:
    run.update_manifest(created=START + timedelta(microseconds=order))


def test_paths_of_the_design(tmp_path: Path) -> None:
    assert family_folder("e3nn", "pro") == "multitask_pro_e3nn"
    assert family_folder("cgcnn", "lite") == "multitask_cgcnn_lite"
    run = create_run(tmp_path, FAMILY, "mine")
    assert run.path == tmp_path / FAMILY / "run_mine"
    names = {
        "config.json", "manifest.json", "checkpoint.pt", "best.pt", "history.json", "metrics.json",
        "metrics.csv", "predictions_val.csv", "predictions_test.csv", "report.html", "tensorboard",
    }  # fmt: skip
    paths = (run.config, run.manifest, run.checkpoint, run.best, run.history, run.metrics_json,
             run.metrics_csv, run.predictions_val, run.predictions_test, run.report,
             run.tensorboard)  # fmt: skip
    assert {path.name for path in paths} == names
    assert {path.parent for path in paths} == {run.path}


def test_ids_are_unique_when_many_start_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So few ids that threads collide: only the exclusive mkdir keeps them apart.
    ids = itertools.cycle(f"20260101-000000-{i // 2:06x}" for i in range(14))
    monkeypatch.setattr("phase2hpc.runs.run_directory.new_run_id", lambda: next(ids))
    with ThreadPoolExecutor(7) as pool:
        runs = list(pool.map(lambda _: create_run(tmp_path, FAMILY), range(7)))
    assert len({run.id for run in runs}) == 7


@pytest.mark.parametrize("bad", ["../x", "a/b", "", "-a", ".hidden", "a b", "x" * 101, "é", "a\n"])
def test_unfit_run_id(tmp_path: Path, bad: str) -> None:
    if bad == "":
        assert create_run(tmp_path, FAMILY, bad).path.is_dir()  # the same as none given
        return
    with pytest.raises(InputError, match="use up to 100 letters"):
        create_run(tmp_path, FAMILY, bad)
    assert not list(tmp_path.rglob("run_*"))


def test_existing_run_id_says_what_to_do(tmp_path: Path) -> None:
    create_run(tmp_path, FAMILY, "a")
    for same in ("a", "run_a"):
        with pytest.raises(InputError, match=r"--resume.*another --run-id"):
            create_run(tmp_path, FAMILY, same)


def test_models_dir_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(InputError, match="cannot create a run here"):
        create_run(tmp_path / "models", FAMILY)


def test_the_place_of_runs_is_tried_before_the_work(tmp_path):
    check_place_of_runs(tmp_path / "models", "multitask_cgcnn_lite")
    assert list(tmp_path.iterdir()) == []
    # Nobody makes a folder there, root neither.
    with pytest.raises(InputError, match="cannot create a run here"):
        check_place_of_runs(Path("/proc/models"), "multitask_cgcnn_lite")


def test_manifest_round_trip(tmp_path: Path) -> None:
    run = make_run(tmp_path, best_score=0.25, best_epoch=3, step=100, epoch=4)
    manifest = run.read_manifest()
    assert (manifest.run_id, manifest.algorithm, manifest.level) == (run.id, "e3nn", "std")
    assert manifest.properties == list(GROUPS["all9"])
    assert (manifest.seed, manifest.epochs, manifest.step) == (7, 100, 100)
    assert manifest.best_score == 0.25
    assert manifest.host == provenance.host()
    assert manifest.pid == os.getpid()
    assert manifest.versions["torch"].startswith("2.")
    assert manifest.updated > manifest.created
    assert run.read_config().seed == 7


def test_keys_of_a_newer_version_are_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.manifest.write_text(json.dumps(json.loads(run.manifest.read_text()) | {"colour": "red"}))
    run.update_manifest(step=5)
    data = json.loads(run.manifest.read_text())
    assert (data["colour"], data["step"]) == ("red", 5)
    with pytest.raises(TypeError, match="colour"):
        run.update_manifest(colour="blue")


def test_take_over_records_this_process_and_each_job_once(tmp_path: Path) -> None:
    run = make_run(tmp_path, state="stopped", pid=1, process_start="x", message="a signal")
    for job in ("17", "17", None, "18"):
        manifest = run.take_over(job)
    assert manifest.job_ids == ["17", "18"]
    assert (manifest.state, manifest.pid, manifest.message) == ("running", os.getpid(), "")


def test_a_process_that_has_exited_is_recognised() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    host, start = provenance.host(), provenance.process_start(child.pid)
    assert not provenance.process_is_gone(host, child.pid, start)
    child.kill()
    while provenance.process_start(child.pid) is not None:
        pass  # a zombie counts as exited too
    assert provenance.process_is_gone(host, child.pid, start)
    child.wait()
    assert provenance.process_is_gone(host, child.pid, start)
    assert provenance.process_is_gone(host, child.pid, None)  # without /proc
    assert not provenance.process_is_gone("elsewhere", child.pid, start)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_another_process_of_the_same_id_is_not_the_run() -> None:
    start = provenance.process_start(os.getpid())
    assert start is not None

    def gone(started: str) -> bool:
        return provenance.process_is_gone(provenance.host(), os.getpid(), started)

    boot, namespace, tick = start.split(":")
    assert not gone(start) and gone(f"{start}0")
    assert not gone(f"{boot}:{namespace}0:{tick}")  # in another container
    assert gone(f"{boot}0:{namespace}0:{tick}")  # before the last reboot


def test_git_commit_never_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provenance.git_commit() is None


BROKEN = [
    ("{", "not JSON"),
    ("[]", "no JSON object"),
    ('{"a": 1}', "'run_id'"),
    ('{"schema_version": 99}', "newer phase2hpc"),
    (None, "no manifest.json"),
    (b"\xff\xfe", "cannot be read"),
]


@pytest.mark.parametrize(("content", "reason"), BROKEN)
def test_registry_reports_what_it_cannot_read(tmp_path: Path, content: Any, reason: str) -> None:
    good = make_run(tmp_path, "good", best_score=0.1234)
    broken = create_run(tmp_path, FAMILY, "broken")
    if content is not None:
        broken.manifest.write_bytes(content if isinstance(content, bytes) else content.encode())
    summaries = registry(tmp_path)
    assert [s.run for s in summaries] == [good, broken]
    statuses = run_statuses(summaries, SlurmScheduler())
    assert [s.state for s in statuses] == ["interrupted", "unreadable"]
    problem = summaries[1].problem
    assert problem is not None and reason in problem and "broken" in problem and "\n" not in problem
    text = list_text(run_records(statuses), None)
    assert "0.123" in text and "unreadable" in text and reason in text


def test_registry_sorted_by_creation(tmp_path: Path) -> None:
    for order, name in enumerate(("c", "a", "b")):
        set_created(make_run(tmp_path, name), order)
    assert [s.run.id for s in registry(tmp_path)] == ["c", "a", "b"]
    assert registry(tmp_path / "absent") == []


def test_find_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = tmp_path / "models"
    one, two = make_run(models, "20260101-abc"), make_run(models, "20260102-abd")
    longer = make_run(models, "20260102-abd-2")
    assert find_run(models, "20260101-abc") == one
    assert find_run(models, "run_20260101-abc") == one
    assert find_run(models, "20260101") == one
    assert find_run(models, "20260102-abd") == two  # exact wins over a prefix of another
    assert find_run(models, "20260102-abd-") == longer
    assert find_run(models / FAMILY, "20260101") == one
    assert find_run(models, str(one.path)) == one
    monkeypatch.chdir(models / FAMILY)
    assert find_run(Path("elsewhere"), "run_20260101-abc").read_manifest().run_id == one.id
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"ambiguous.*20260101-abc.*20260102-abd"):
        find_run(models, "2026")
    with pytest.raises(InputError, match="did you mean '20260101-abc'"):
        find_run(models, "20260101-abx")
    with pytest.raises(InputError, match="20260102-abd, 20260102-abd-2; shipped: cgcnn-std, "):
        find_run(models, "zzz")
    with pytest.raises(InputError, match=r"ambiguous|latest"):
        find_run(models, "run_")
    with pytest.raises(InputError, match="--models-dir"):
        find_run(tmp_path / "nothing", "x")
    with pytest.raises(InputError, match="not a run directory"):
        find_run(models, str(models))


def test_newest_to_resume(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--resume: no run in"):
        newest_to_resume(tmp_path, FAMILY)
    runs = []
    for order, state in enumerate(("stopped", "failed", "finished")):
        runs.append(make_run(tmp_path, f"r{order}", state=state))
        set_created(runs[-1], order)
    create_run(tmp_path, "multitask_cgcnn_std", "other")
    create_run(tmp_path, FAMILY, "broken")
    assert newest_to_resume(tmp_path, FAMILY) == runs[1]
    runs[1].update_manifest(state="running")
    assert newest_to_resume(tmp_path, FAMILY) == runs[1]
    for run in runs[:2]:
        run.update_manifest(state="finished")
    assert newest_to_resume(tmp_path, FAMILY) == runs[2]


def test_handoff_is_the_checklist(tmp_path: Path) -> None:
    run = make_run(tmp_path / "my models", "r", state="finished", epoch=100)
    assert "no metrics yet" in handoff_text([status_of(run, SlurmScheduler())])
    assert "- [ ] **val and test MAE" in handoff_text([status_of(run, SlurmScheduler())])
    by_property = {"formation_energy": METRICS, "dielectric": METRICS | {"mae_se": None, "n": 1}}
    run.metrics_json.write_text(json.dumps({"val": by_property, "test": by_property}))
    text = handoff_text([status_of(run, SlurmScheduler())])
    for line in (
        "- [x] **algorithm**: e3nn",
        "- [x] **level**: std",
        "- [x] **all properties**: yes",
        "- [x] **store content hash**: c0ffee",
        "- [x] **seed**: 7",
        "- [x] **epochs done**: 100 of 100 (0 steps)",
        "- [x] **val and test MAE by property**",
        "| formation_energy | eV/atom | test | 0.05120 ± 0.0021 | 1520 |",
        "| dielectric | - | val | 0.05120 | 1 |",
        f"phase2hpc predict --cif FILE.cif --run '{run.path}'",
    ):
        assert line in text
    text = show_text([status_of(run, SlurmScheduler())])
    assert str(run.path) in text and "0.05120 ± 0.0021" in text


def test_handoff_of_some_properties(tmp_path: Path) -> None:
    text = handoff_text([status_of(make_run(tmp_path, "r", group="core4"), SlurmScheduler())])
    assert "**all properties**: no" in text
    assert "formation_energy, band_gap, bulk_modulus, shear_modulus (core4)" in text


def test_broken_metrics_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, "r")
    run.metrics_json.write_text("{}")
    with pytest.raises(InputError, match="not a run's metrics"):
        show_text([status_of(run, SlurmScheduler())])
