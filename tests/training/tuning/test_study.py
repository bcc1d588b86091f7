"""The study that the runs of a search share: Optuna and its journal for real, without training."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from phase2hpc.config.run_config import RunConfig, build_config
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.runs.ensemble import array_folder, find_ensemble
from phase2hpc.runs.manifest import Manifest, Trial
from phase2hpc.runs.run_directory import RunDirectory, create_run
from phase2hpc.training.tuning import study
from phase2hpc.training.tuning.space import parse_space
from phase2hpc.training.tuning.study import JOURNAL_FILE, choose_settings, tell_score, write_space

optuna = pytest.importorskip("optuna")
CONTENT = {
    "lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "layers": {"low": 1, "high": 4},
    "batch_size": [4, 8, 16],
}
BASE = build_config("cgcnn", "lite", ["band_gap"], {"epochs": 2}, seed=3)


class Search:
    """A submitted search of some runs."""

    def __init__(self, models: Path, count: int) -> None:
        self.runs = []
        for number in range(count):
            run = create_run(models, "multitask_cgcnn_lite", f"s-t{number}")
            manifest = Manifest.for_run(run, BASE, models / "x.h5", None)
            manifest.state, manifest.ensemble = "submitted", "s"
            manifest.ensemble_size, manifest.trial = count, Trial(number=number)
            run.write_config(BASE)
            run.write_manifest(manifest)
            self.runs.append(run)
        self.folder = array_folder(self.runs[0], "s")
        write_space(self.folder, parse_space(CONTENT, "s.yaml", "cgcnn", {"epochs": 2}))

    def choose(self, number: int) -> RunConfig:
        run = self.runs[number]
        return choose_settings(run, run.read_config())

    def finish(self, number: int, score: float) -> None:
        self.runs[number].update_manifest(state="finished", best_score=score, best_epoch=1)

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        return study._open(self.folder, 0).get_trials()


@pytest.fixture
def search(tmp_path: Path) -> Search:
    return Search(tmp_path / "models", 4)


def test_a_run_takes_its_settings_and_tells_its_score(search: Search) -> None:
    config, run = search.choose(0), search.runs[0]
    manifest = run.read_manifest()
    assert manifest.trial is not None and manifest.trial.settings.keys() == CONTENT.keys()
    assert run.read_config() == config
    assert config.training.lr == manifest.trial.settings["lr"] != BASE.training.lr
    assert (config.training.epochs, config.seed) == (2, 3)
    assert f"batch_size={config.training.batch_size}" in str(manifest.ensemble_member)
    tell_score(run)  # not finished
    assert [trial.state.name for trial in search.trials()] == ["RUNNING"]
    search.finish(0, 0.5)
    tell_score(run)
    tell_score(run)
    (trial,) = search.trials()
    assert (trial.state.name, trial.value, trial.user_attrs) == ("COMPLETE", 0.5, {"run": run.id})


def test_after_a_requeue_it_goes_on_with_the_same(search: Search) -> None:
    config = search.choose(1)
    assert search.choose(1) == config and len(search.trials()) == 1
    # Its process died after the study knew of it, before the run did.
    search.runs[1].write_config(BASE)
    search.runs[1].update_manifest(trial=Trial(number=1))
    assert search.choose(1) == config and len(search.trials()) == 1


def test_a_score_that_its_run_could_not_tell_is_told_by_the_next(search: Search) -> None:
    search.choose(0)
    search.finish(0, 0.7)
    search.choose(1)
    assert [trial.value for trial in search.trials()] == [0.7, None]


def test_a_lost_study_is_made_again_from_the_runs(search: Search) -> None:
    for number in (0, 1):
        search.choose(number)
        search.finish(number, 0.5 + number)
        tell_score(search.runs[number])
    before = {trial.user_attrs["run"]: (trial.params, trial.value) for trial in search.trials()}
    journal = search.folder / JOURNAL_FILE
    journal.write_text("{damaged\n{}\n")
    with pytest.raises(Phase2Error, match="no settings from this study") as refused:
        search.choose(2)
    assert "without this file" in str(refused.value) and "\n" not in str(refused.value)
    journal.unlink()
    search.choose(2)
    after = {trial.user_attrs["run"]: (trial.params, trial.value) for trial in search.trials()}
    assert {name: after[name] for name in before} == before and len(after) == 3


def test_a_search_is_repeatable_and_its_runs_differ(search: Search, tmp_path: Path) -> None:
    first = [search.choose(number).training.lr for number in range(4)]
    assert len(set(first)) == 4
    other = Search(tmp_path / "again", 4)
    assert [other.choose(number).training.lr for number in range(4)] == first


def test_processes_that_begin_at_once_share_the_study(search: Search) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from phase2hpc.runs.run_directory import RunDirectory\n"
        "from phase2hpc.training.tuning.study import choose_settings\n"
        "run = RunDirectory(Path(sys.argv[1])); choose_settings(run, run.read_config())"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(run.path)]) for run in search.runs
    ]
    assert [process.wait(120) for process in started] == [0] * 4
    assert {trial.user_attrs["run"] for trial in search.trials()} == {r.id for r in search.runs}


def test_a_score_that_cannot_be_told_is_a_warning(
    search: Search, caplog: pytest.LogCaptureFixture
) -> None:
    search.choose(0)
    search.finish(0, 0.5)
    (search.folder / "space.json").write_text("{}")
    with caplog.at_level(logging.WARNING):
        tell_score(search.runs[0])
    assert "the score of run s-t0 is not in its study" in caplog.text


def test_without_optuna(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'phase2hpc\[tune\]'$"):
        search.choose(0)


def test_other_runs_need_no_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    run = create_run(tmp_path, "multitask_cgcnn_lite", "x")
    run.write_manifest(Manifest.for_run(run, BASE, tmp_path, None))
    assert choose_settings(run, BASE) is BASE
    tell_score(run)


def test_a_search_is_no_ensemble_even_of_equal_runs(search: Search) -> None:
    found = find_ensemble(search.runs[0].path.parent, "s")
    assert found is not None and found.is_sweep
    assert isinstance(found.members[0], RunDirectory)
