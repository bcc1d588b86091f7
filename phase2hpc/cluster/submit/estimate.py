"""Estimate of a run's wall time and memory, from the store and measured speeds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from phase2hpc.cluster.submit.store_size import StoreSize
from phase2hpc.config.algorithm_registry import algorithm_named
from phase2hpc.config.algorithms import ALGORITHMS
from phase2hpc.config.level_settings import preset_of
from phase2hpc.config.run_config import RunConfig
from phase2hpc.runs.registry import registry

REFERENCE_MACHINE = "one thread of an AMD EPYC with AVX-512"
REFERENCE_GPU = "an H100"
# Evaluation takes a third of the time of training, and val is an eighth of the training split.
EVALUATION_FACTOR = 1.05
# Nodes differ, and jobs share them.
MARGIN = 1.5
START_MINUTES = 10
# A process with torch and the tensors of a step; with CUDA, also its context.
PROCESS_GB, CUDA_GB = 2.0, 4.0


@dataclass(frozen=True)
class Estimate:
    """Remaining epochs, training crystals, crystals per second, and the store."""

    epochs: int
    training: int
    rate: float
    rate_from: str
    size: StoreSize
    cuda: bool

    def hours(self, processes: int) -> float:
        """Wall time with margin, rounded up to a quarter of an hour."""
        seconds = self.epochs * self.training / (self.rate * processes) * EVALUATION_FACTOR * MARGIN
        return math.ceil((seconds / 60 + START_MINUTES) / 15) / 4

    def time_note(self, processes: int) -> str:
        """Derivation of ``hours``."""
        several = f" x {processes} processes" if processes > 1 else ""
        return (
            f"{self.epochs:,} epochs x {self.training:,} crystals ({self.size.source}) at "
            f"{self.rate:,.0f} crystals/s{several} ({self.rate_from}), x {MARGIN:g} as "
            f"margin, {START_MINUTES} min to start"
        )

    def memory_gb(self, tasks: int) -> float:
        """Memory (GiB) of a node with this many processes."""
        one = (CUDA_GB if self.cuda else PROCESS_GB) + self.size.memory / 2**30
        return tasks * one * MARGIN

    def memory_note(self, tasks: int) -> str:
        return f"estimated need {self.memory_gb(tasks):.1f} GiB"


def longest(
    configs: Iterable[RunConfig], models_dir: Path, size: StoreSize, *, cuda: bool, done: int
) -> Estimate:
    """The estimate of the run that takes longest. done: as for ``estimate``."""
    found = {}  # one configuration of each model, batch size and length of training
    for config in configs:
        training = config.training
        key = (training.batch_size, training.epochs, training.max_samples)
        found[config.model.model_dump_json(), *key] = config
    estimates = (
        estimate(config, preset_of(config), models_dir, size, cuda=cuda, done=done)
        for config in found.values()
    )
    return max(estimates, key=lambda one: one.hours(1))


def estimate(
    config: RunConfig, preset: str, models_dir: Path, size: StoreSize, *, cuda: bool, done: int = 0
) -> Estimate:
    """done: completed epochs."""
    training = min(size.training, config.training.max_samples or size.training)
    rate, source = measured_rate(config, models_dir, cuda=cuda) or _reference(
        config, preset, cuda=cuda
    )
    left = max(1, config.training.epochs - done)
    return Estimate(left, training, rate, source, size, cuda)


def measured_rate(config: RunConfig, models_dir: Path, *, cuda: bool) -> tuple[float, str] | None:
    """Crystals per second per process in the newest run with the same model and device type."""
    kind = "cuda" if cuda else "cpu"
    for summary in reversed(registry(models_dir)):
        manifest = summary.manifest
        if manifest is None or (manifest.device or "").partition(":")[0] != kind:
            continue
        try:
            other = summary.run.read_config()
            history = json.loads(summary.run.history.read_text(encoding="utf-8"))
            rates = [float(epoch["crystals_per_second"]) for epoch in history]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        same = (other.algorithm, other.model, other.training.batch_size) == (
            config.algorithm, config.model, config.training.batch_size,
        )  # fmt: skip
        if same and rates and min(rates) > 0:
            import statistics  # with decimal and fractions: slow, and seldom needed

            rate = statistics.median(rates) / manifest.processes
            return rate, f"measured in run {summary.run.id}"
    return None


def _reference(config: RunConfig, preset: str, *, cuda: bool) -> tuple[float, str]:
    algorithm = algorithm_named(config.algorithm)
    if cuda and preset in algorithm.gpu_speed:
        note = f"reference, {config.algorithm} {preset}: {REFERENCE_GPU}"
        return algorithm.gpu_speed[preset], note
    known = algorithm.speed.get(preset)
    if known is None:
        slowest = min(min(algorithm.speed.values()) for algorithm in ALGORITHMS.values())
        return slowest, "no reference speed: that of the slowest built-in model"
    note = f"reference, {config.algorithm} {preset}: {REFERENCE_MACHINE}"
    return known, note + (", not measured on a GPU" if cuda else "")
