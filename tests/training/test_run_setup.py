"""A run killed before its manifest was written is started again by the same request."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from phase2hpc.errors import InputError
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.training.run_setup import never_started

FAMILY = "multitask_cgcnn_lite"


def left_by_a_killed_maker(models: Path, *names: str) -> RunDirectory:
    run = RunDirectory(models / FAMILY / "run_one")
    run.path.mkdir(parents=True)
    for name in names:
        (run.path / name).write_text("{}")
    return run


@pytest.mark.parametrize("names", [(), ("config.json", ".manifest.json.host.0123456789ab.partial")])
def test_it_begins_anew_under_its_own_id(names, train_tiny, tmp_path) -> None:
    run = left_by_a_killed_maker(tmp_path, *names)
    assert never_started(run)
    with pytest.raises(
        InputError, match="stopped before its manifest was written.*leave out --resume"
    ):
        train_tiny(tmp_path, resume=True)
    assert train_tiny(tmp_path, epochs=1) == run
    assert run.read_manifest().state == "finished" and run.read_config().training.epochs == 1
    assert not never_started(run)


@pytest.mark.parametrize("name", ["manifest.json", "checkpoint.pt", "best.pt", "notes.txt"])
def test_what_holds_anything_more_is_left_alone(name, train_tiny, tmp_path) -> None:
    run = left_by_a_killed_maker(tmp_path, "config.json", name)
    with pytest.raises(InputError, match="exists already.*--resume"):
        train_tiny(tmp_path, epochs=1)
    assert sorted(path.name for path in run.path.iterdir()) == sorted(["config.json", name])


def test_the_first_of_two_that_found_it_empty_has_it(train_tiny, tmp_path, monkeypatch) -> None:
    """The other has begun, and ended, between this one's look and its lease."""
    run = left_by_a_killed_maker(tmp_path)
    from phase2hpc.training import runner as session

    original = session.new_directory

    def while_another_begins(*arguments):
        found = original(*arguments)
        run.manifest.write_text(json.dumps({"of": "another"}))
        return found

    monkeypatch.setattr(session, "new_directory", while_another_begins)
    with pytest.raises(InputError, match="another process has started this run"):
        train_tiny(tmp_path, epochs=1)
    assert json.loads(run.manifest.read_text()) == {"of": "another"}
    assert not run.config.exists() and not run.lease.exists()
