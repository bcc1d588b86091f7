"""Runs that are submitted to a virtual cluster as a user submits them, and tests of them that run
beside each other, since they wait most of the time."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtual_cluster import ENDED, VirtualCluster

from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.run_directory import RunDirectory, family_folder

PHASE2HPC = Path(sys.executable).with_name("phase2hpc")
SLOWLY = Path(__file__).with_name("slowly")
EPOCHS, STEPS_AN_EPOCH = 10, 15
# All that is drawn at random, averaged or learned beside the weights is on.
SETTINGS = {
    "epochs": EPOCHS, "batch-size": 4, "max-samples": 60, "lr": 0.01, "threads": 1,
    "set": "patience=none",
}  # fmt: skip
SMALL = {
    "cgcnn": ("hidden=16", "head_dropout=0.2", "task_weights=learned"),
    "e3nn": ("channels=6,4", "hidden=8", "head_dropout=0.2", "task_weights=learned"),
}

Body = Callable[["Site"], None]


def at_once(body: Body) -> Callable[..., None]:
    """A test whose body runs beside those of the others of its module, which has a fixture
    ``site``."""

    def test(bodies: dict[str, Any]) -> None:
        bodies[body.__name__].result()

    test.__doc__ = body.__doc__
    test.body = body  # type: ignore[attr-defined]
    return test


@dataclass
class Job:
    """A submitted run, or an array's element."""

    cluster: VirtualCluster
    id: str
    run: RunDirectory
    said: str

    @property
    def manifest(self) -> Manifest:
        return self.run.read_manifest()

    @property
    def log(self) -> str:
        """Both streams of the tasks and the batch script, of all lives."""
        return "".join(path.read_text() for path in self.logs())

    def logs(self, rank: int | str = "*", stream: str = "*") -> list[Path]:
        """The files of one task, or of one stream."""
        if not self.run.manifest.exists():
            return []
        folder = (self.run.path / self.manifest.job_folder).resolve()
        return sorted(folder.glob(f"{self.id}_{rank}_log.{stream}"))

    def wait_for_epoch(self, epoch: int) -> None:
        def done() -> bool:
            if self.cluster.state(self.id) in ENDED:
                raise AssertionError(f"too early an end\n{self.cluster.report(self.id)}")
            history = self.run.history
            return history.exists() and len(json.loads(history.read_text())) >= epoch

        self.cluster.wait_until(done, f"epoch {epoch} of {self.run.id} is done", 200, self.id)

    def finished(self, *, restarts: int | None) -> RunDirectory:
        """The run, once its job ended well after so many restarts (None: any number)."""
        self.cluster.wait_for(self.id, "COMPLETED", timeout=400, restarts=restarts)
        assert self.manifest.state == "finished" and self.manifest.job_ids[-1] == self.id
        assert "Traceback" not in self.log
        return self.run


class Site:
    """Submits runs as a user does, and knows how they end undisturbed."""

    def __init__(
        self,
        slurm: VirtualCluster,
        tiny: Any,
        folder: Path,
        slurm_that_warns: VirtualCluster | None = None,
    ) -> None:
        self.slurm, self.slurm_that_warns, self.tiny = slurm, slurm_that_warns, tiny
        self.folder = folder
        self.models = folder / "models"
        self._references = threading.Lock()
        self._of_thread = threading.local()

    def run(self, body: Body) -> None:
        """What the body's jobs wrote goes with its failure."""
        self._of_thread.jobs = []
        try:
            body(self)
        except BaseException as error:
            for job in self._of_thread.jobs:
                error.add_note(f"log of job {job.id}, run {job.run.id}:\n{job.log[-3000:]}")
            raise

    def phase2hpc(
        self, cluster: VirtualCluster, *words: object, launcher: tuple[object, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """The command as a user types it; launcher: what stands in front of it."""
        return subprocess.run(
            [*map(str, launcher), PHASE2HPC, *map(str, words)], stdin=subprocess.DEVNULL,
            capture_output=True, text=True, cwd=self.folder, timeout=180,
            env=cluster.environment | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def words(
        self, algorithm: str, store: Path | None = None, epochs: int | None = None
    ) -> list[str]:
        """What ``train`` and ``submit`` are asked for."""
        flags = {"algorithm": algorithm, "level": "lite", "store": store or self.tiny.store}
        flags |= SETTINGS | ({"epochs": epochs} if epochs else {})
        words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
        return words + [word for setting in SMALL[algorithm] for word in ("--set", setting)]

    def the_run(self, name: str, algorithm: str = "cgcnn") -> RunDirectory:
        return RunDirectory(self.models / family_folder(algorithm, "lite") / f"run_{name}")

    def profile(self, name: str, partition: str, **environment: object) -> Path:
        """A site's profile whose jobs train slowly."""
        file = self.folder / f"{name}.yaml"
        lines = [f"partition: {partition}", "cpus: 1", "memory_gb: 1", "environment:"]
        path = os.pathsep.join([str(SLOWLY), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
        variables = {"PYTHONPATH": path.rstrip(os.pathsep), "OMP_NUM_THREADS": 1} | environment
        lines += [f'  {key}: "{value}"' for key, value in variables.items()]
        file.write_text("\n".join(lines) + "\n")
        return file

    def submit(
        self, name: str, *words: object, cluster: VirtualCluster | None = None,
        partition: str = "main", algorithm: str = "cgcnn", store: Path | None = None,
        epochs: int | None = None, resume: bool = False, **environment: object,
    ) -> Job:  # fmt: skip
        cluster = cluster or self.slurm
        profile = self.profile(name, partition, **{"STEP_SECONDS": 0.3, **environment})
        what = ["--algorithm", algorithm, "--level", "lite", "--resume"]
        done = self.phase2hpc(
            cluster, "submit", *(what if resume else self.words(algorithm, store, epochs)),
            "--profile", profile, "--models-dir", self.models, "--run-id", name, *words,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return self.job(name, done.stdout, cluster, algorithm)

    def job(self, name: str, said: str, cluster: VirtualCluster, algorithm: str = "cgcnn") -> Job:
        """The job of which ``submit`` has told."""
        found = re.findall(r"^(?:job|array) (\d+) ", said, re.M)
        job = Job(cluster, found[-1], self.the_run(name, algorithm), said)
        self._of_thread.jobs.append(job)
        return job

    def train(self, name: str, *words: object, launcher: tuple[object, ...] = ()) -> str:
        """What ``train`` says of a run in this site's models."""
        done = self.phase2hpc(
            self.slurm, "train", *words, "--models-dir", self.models, "--run-id", name,
            launcher=launcher,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def undisturbed(self, algorithm: str = "cgcnn", seed: int = 0) -> RunDirectory:
        """The same run by ``train``."""
        with self._references:
            return self._undisturbed(algorithm, seed)

    @functools.cache  # noqa: B019
    def _undisturbed(self, algorithm: str, seed: int) -> RunDirectory:
        name = f"undisturbed-{seed}"
        self.train(name, *self.words(algorithm), "--seed", seed)
        return self.the_run(name, algorithm)
