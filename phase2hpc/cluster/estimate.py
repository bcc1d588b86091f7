"""How long a training run will take, and how much memory: from the store and measured speeds."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from phase2hpc.config import RunConfig
from phase2hpc.levels import ALGORITHMS
from phase2hpc.registry import registry

# The shipped sample's store: crystals, those of its training split, bytes in memory.
SAMPLE_CRYSTALS, SAMPLE_TRAINING, SAMPLE_MEMORY = 15_669, 12_576, 55e6
# The same a crystal, for a store whose attributes cannot be read here.
DISK_A_CRYSTAL, MEMORY_A_CRYSTAL = 375.0, 3_500.0
TRAINING_SHARE = 0.8

REFERENCE_MACHINE = "one thread of an AMD EPYC with AVX-512"
# Training crystals a second, at the batch size of the first level with the preset. Those of medium
# are from benchmarks/RESULTS.md, the others have their ratio to it in processor time.
REFERENCE_SPEED = {
    ("e3nn", "small"): 400.0,
    ("e3nn", "medium"): 330.0,
    ("e3nn", "large"): 75.0,
    ("cgcnn", "small"): 1300.0,
    ("cgcnn", "medium"): 460.0,
    ("cgcnn", "large"): 110.0,
}
# An evaluated crystal costs a third of a trained one, and val is an eighth of the training split.
EVALUATION = 1.05
# Nodes differ, and neighbours on them too.
MARGIN = 1.5
START_MINUTES = 10
# A process with torch loaded, the tensors of a step beside it; with CUDA the context's share.
PROCESS_GB, CUDA_GB = 2.0, 4.0


@dataclass(frozen=True)
class StoreSize:
    """Crystals in all and in the training split, bytes in memory, and how that is known."""

    crystals: int
    training: int
    memory: float
    known_from: str


@dataclass(frozen=True)
class Estimate:
    """Crystals to train on (all epochs that are left), their measured rate, and the store."""

    epochs: int
    training: int
    rate: float
    rate_from: str
    size: StoreSize
    cuda: bool

    def hours(self, processes: int) -> float:
        """Wall time with margin: whole quarters of an hour."""
        seconds = self.epochs * self.training / (self.rate * processes) * EVALUATION * MARGIN
        return math.ceil((seconds / 60 + START_MINUTES) / 15) / 4

    def time_note(self, processes: int) -> str:
        """How ``hours`` came about."""
        several = f" x {processes} processes" if processes > 1 else ""
        return (
            f"{self.epochs:,} epochs x {self.training:,} crystals ({self.size.known_from}) at "
            f"{self.rate:,.0f} crystals/s{several} ({self.rate_from}), half as much again, "
            f"{START_MINUTES} min to start"
        )

    def memory_gb(self, tasks: int) -> float:
        """Of a node with so many processes."""
        one = (CUDA_GB if self.cuda else PROCESS_GB) + self.size.memory / 2**30
        return tasks * one * MARGIN

    def memory_note(self, tasks: int) -> str:
        return f"estimated need {self.memory_gb(tasks):.1f} GiB"


def estimate(
    config: RunConfig, preset: str, models_dir: Path, size: StoreSize, *, cuda: bool, done: int = 0
) -> Estimate:
    """done: epochs that are trained already."""
    training = min(size.training, config.training.max_samples or size.training)
    rate, known_from = measured_rate(config, models_dir, cuda=cuda) or _reference(
        config, preset, cuda=cuda
    )
    left = max(1, config.training.epochs - done)
    return Estimate(left, training, rate, known_from, size, cuda)


def store_size(store: Path, *, is_sample: bool) -> StoreSize | None:
    """Of a store, or of the sample's before it is prepared; None where nothing tells.

    The attributes of the file where h5py is installed, as the file's own length tells no splits.
    Raises InputError for what is no store.
    """
    if not store.exists():
        if not is_sample:
            return None
        return StoreSize(SAMPLE_CRYSTALS, SAMPLE_TRAINING, SAMPLE_MEMORY, "the shipped sample")
    try:
        from phase2hpc.data.store_layout import read_info
    except ModuleNotFoundError:
        crystals = max(1, round(store.stat().st_size / DISK_A_CRYSTAL))
        return StoreSize(
            crystals,
            math.ceil(TRAINING_SHARE * crystals),
            crystals * MEMORY_A_CRYSTAL,
            f"about, from the {store.stat().st_size / 1e6:,.1f} MB of the store",
        )
    info = read_info(store)
    training = int(info.summary.get("splits", {}).get("train", 0))
    return StoreSize(
        info.crystals, training or info.crystals, float(info.memory), "as the store says"
    )


def measured_rate(config: RunConfig, models_dir: Path, *, cuda: bool) -> tuple[float, str] | None:
    """Crystals a second of a process in the newest run with the same model and kind of device."""
    kind = "cuda" if cuda else "cpu"
    for summary in reversed(registry(models_dir)):
        manifest = summary.manifest
        if manifest is None or (manifest.device or "").partition(":")[0] != kind:
            continue
        try:
            other = summary.run.read_config()
            history = json.loads(summary.run.history.read_text())
            rates = [float(epoch["crystals_per_second"]) for epoch in history]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        same = (other.algorithm, other.model, other.training.batch_size) == (
            config.algorithm, config.model, config.training.batch_size,
        )  # fmt: skip
        if same and rates and min(rates) > 0:
            rate = statistics.median(rates) / manifest.processes
            return rate, f"measured in run {summary.run.id}"
    return None


def _reference(config: RunConfig, preset: str, *, cuda: bool) -> tuple[float, str]:
    known = REFERENCE_SPEED.get((config.algorithm, preset))
    if known is None:
        slowest = min(REFERENCE_SPEED.values())
        return slowest, "no reference for it: the slowest one's is taken"
    note = f"reference, {config.algorithm} {preset}: {REFERENCE_MACHINE}"
    return known, note + (", no GPU measured yet" if cuda else "")


def preset_of(config: RunConfig) -> str:
    """The preset whose settings the model has, else the level's."""
    algorithm = ALGORITHMS[config.algorithm]
    values = config.model.model_dump()
    for name, preset in algorithm.presets.items():
        if all(values[key] == value for key, value in preset.items()):
            return name
    return algorithm.levels[config.level].preset
