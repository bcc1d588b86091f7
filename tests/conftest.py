"""What tests share: a small real store, made once a session, and short training runs on it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from phase2hpc.resources import CACHE_VARIABLE
from phase2hpc.runs import RunDirectory

SAMPLE = Path(__file__).parents[1] / "data" / "jarvis_dft3d_15k.jsonl.gz"
TINY_SPLITS = {"train": 110, "val": 20, "test": 20}
MOST_ATOMS = 10
# All that is drawn at random, averaged or learned beside the weights is on, so that a restart
# that forgets any of it shows.
LITTLE: dict[str, dict[str, Any]] = {
    "e3nn": {
        "channels": (6, 4), "layers": 2, "embedding_size": 8, "hidden": 8, "out_features": 16,
        "head_hidden": 8, "dropout": 0.1, "head_dropout": 0.1, "task_weights": "learned",
        "max_samples": 40, "batch_size": 8, "epochs": 3, "lr": 1e-2,
    },
    "cgcnn": {
        "hidden": 16, "layers": 2, "out_features": 16, "head_hidden": 8, "dropout": 0.1,
        "head_dropout": 0.1, "task_weights": "learned",
        "max_samples": 40, "batch_size": 8, "epochs": 3, "lr": 1e-2,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Tiny:
    """About 150 crystals of the sample: their records, the source file and the store."""

    records: list[dict[str, Any]]
    source: Path
    store: Path

    def of_split(self, split: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["split"] == split]


@pytest.fixture(scope="session", autouse=True)
def no_trace_in_the_users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Bits depend on the number of threads, and tests are small."""
    try:
        import torch
    except ModuleNotFoundError:
        return
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Small crystals of the sample in their own splits, half with labels of the rarest property,
    and a user's own column ``mass`` on some."""
    from phase2hpc.data.prepare import prepare

    folder = tmp_path_factory.mktemp("tiny")
    records = _choose()
    source = folder / "tiny.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    store = folder / "tiny.h5"
    prepare([source], store, workers=1)
    return Tiny(records, source, store)


def _choose() -> list[dict[str, Any]]:
    chosen: list[dict[str, Any]] = []
    wanted = {(s, rare): n // 2 for s, n in TINY_SPLITS.items() for rare in (True, False)}
    with gzip.open(SAMPLE, "rt") as lines:
        for line in lines:
            record = json.loads(line)
            kind = (record["split"], "dfpt_piezo_max_dij" in record["properties"])
            if len(record["species"]) > MOST_ATOMS or not wanted[kind]:
                continue
            wanted[kind] -= 1
            if len(chosen) % 3:
                record["properties"]["mass"] = 2.0 * len(record["species"]) + 1.0
            chosen.append(record)
            if not any(wanted.values()):
                break
    return chosen


TrainTiny = Callable[..., RunDirectory]


@pytest.fixture(scope="session")
def train_tiny(tiny: Tiny) -> TrainTiny:
    """``train_tiny(models_dir, algorithm="cgcnn", properties="core4", **overrides)`` trains at
    lite with the settings of LITTLE."""

    def run(
        models_dir: Path,
        algorithm: str = "cgcnn",
        *,
        store: Path | None = None,
        properties: str | None = "core4",
        resume: bool = False,
        run_id: str | None = "one",
        init_from: RunDirectory | None = None,
        seed: int | None = None,
        **overrides: Any,
    ) -> RunDirectory:
        from phase2hpc.training.session import TrainRequest, train

        return train(
            TrainRequest(
                algorithm,
                "lite",
                models_dir,
                store=store or tiny.store,
                properties=properties,
                resume=resume,
                run_id=run_id,
                init_from=init_from,
                seed=seed,
                overrides={**({} if resume else LITTLE[algorithm]), **overrides},
            )
        )

    return run


@pytest.fixture(scope="session")
def trained(
    train_tiny: TrainTiny, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, RunDirectory]:
    """A finished run of each algorithm, all nine properties, in one models folder."""
    models = tmp_path_factory.mktemp("models")
    return {
        algorithm: train_tiny(models, algorithm, properties="all9", run_id=algorithm)
        for algorithm in LITTLE
    }


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """``command("runs", "list", ...)`` -> (exit code, stdout, stderr) of the real ``main``."""
    from phase2hpc.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["phase2hpc", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    yield run
