"""Speed relative to reference implementations, measured alternately in one process: make bench.

python benchmarks/speed.py [NAME ...]     NAME: a row of the table, default: all

On shared, noisy machines both take turns. Times are CPU seconds of this process and its children;
the ratio is the median over turns, with its range.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
import torch

sys.dont_write_bytecode = True
from references import ConcatenatedModel, FullyConnectedModel  # noqa: E402

from phase2hpc.config.algorithms import ALGORITHMS  # noqa: E402
from phase2hpc.config.properties import GROUPS  # noqa: E402
from phase2hpc.config.run_config import build_config  # noqa: E402
from phase2hpc.data.dataset import StoreDataset  # noqa: E402
from phase2hpc.data.graph import build_graph  # noqa: E402
from phase2hpc.data.loader import collate, make_loader  # noqa: E402
from phase2hpc.data.prepare import prepare_store  # noqa: E402
from phase2hpc.data.store.reader import Store  # noqa: E402
from phase2hpc.data.store.verify import verify_store  # noqa: E402
from phase2hpc.models.multitask import build_model  # noqa: E402
from phase2hpc.training.trainer import Trainer  # noqa: E402
from phase2hpc.utils.package_files import default_store, sample_source  # noqa: E402

NINE = GROUPS["all9"]
# Files and lines of the rows that read: starting a process must not weigh.
CIFS = 600
LINES = 3000


@dataclass(frozen=True)
class Result:
    """Ratio of CPU times, reference to ours, turn by turn; ours in ``unit`` of the last column."""

    ratios: list[float]
    ours: float = 0.0
    unit: str = ""

    def cells(self) -> tuple[str, str]:
        ratios = f"{statistics.median(self.ratios):.3g}"
        if len(self.ratios) > 1:
            ratios += f" ({min(self.ratios):.3g} to {max(self.ratios):.3g})"
        return ratios, f"{self.ours:.3g} {self.unit}" if self.unit else ""


def cpu_seconds() -> float:
    """User and system time of this process and its ended children."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def compare(
    ours: Callable[[], object],
    reference: Callable[[], object],
    turns: int,
    *,
    count: int = 1,
    unit: str = "ms",
    warm: bool = True,
    repeats: int = 1,
) -> Result:
    """Both in turn, after one turn for warm-up. count: units of work in one call. repeats: calls
    of ours in a turn, where it is much the faster."""
    ratios, times = [], []
    for turn in range(turns + warm):
        seconds = []
        for work, calls in ((reference, 1), (ours, repeats)):
            begin = cpu_seconds()
            for _ in range(calls):
                work()
            seconds.append((cpu_seconds() - begin) / calls)
        if turn or not warm:
            ratios.append(seconds[0] / max(seconds[1], 1e-9))
            times.append(seconds[1])
    return Result(ratios, 1000.0 * statistics.median(times) / count, unit)


def some_crystals(store: Store, count: int) -> np.ndarray:
    """The same random crystals of all sizes each time."""
    return np.random.default_rng(0).permutation(store.split_indices("train"))[:count]


def graph(store: Store) -> Result:
    """structure -> graph | pymatgen `get_all_neighbors` (8 A), sort, take 12"""
    from pymatgen.core import Lattice, Structure

    arrays = store.arrays
    assert arrays is not None
    blocks = [arrays.block(int(i), int(i) + 1) for i in some_crystals(store, 100)]
    inputs = [(b.lattice[0], b.frac_coords.astype(float)) for b in blocks]
    structures = [
        Structure(Lattice(b.lattice[0]), b.atomic_number.tolist(), b.frac_coords) for b in blocks
    ]

    def reference() -> None:
        for structure in structures:
            neighbors = structure.get_all_neighbors(8.0, include_index=True)
            for atom in neighbors:
                sorted(atom, key=lambda neighbor: neighbor[1])[:12]

    def ours() -> None:
        for lattice, frac_coords in inputs:
            build_graph(lattice, frac_coords, store.graph_settings)

    return compare(ours, reference, 5, count=len(inputs), unit="ms a crystal")


def training_step(
    model: torch.nn.Module, store: Store, batch_size: int, *, fused: bool = False
) -> Callable[[], None]:
    """Forward, backward and AdamW on one batch, all nine properties.

    fused: AdamW as our trainer has it; the references have torch's default.
    """
    batch = collate(store.arrays, some_crystals(store, batch_size), NINE)
    target = batch.y.nan_to_num(0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=fused or None)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.l1_loss(model(batch), target).backward()
        optimizer.step()

    return step


def training(algorithm: str, level: str, batch_size: int, store: Store, turns: int) -> Result:
    """A training step of a level against the same shapes by the reference."""
    settings = store.graph_settings
    model = build_config(algorithm, level, NINE).model
    ours = build_model(ALGORITHMS[algorithm], model, settings, NINE)
    reference: torch.nn.Module
    if algorithm == "e3nn":
        shape = (model.channels, model.layers, 20, len(NINE))
        reference = FullyConnectedModel(*shape, **settings.to_dict())
    else:
        sizes = (model.hidden, model.layers, model.basis_size, len(NINE))
        reference = ConcatenatedModel(*sizes, **settings.to_dict())
    return compare(
        training_step(ours, store, batch_size, fused=True),
        training_step(reference, store, batch_size),
        turns,
        unit="ms a step",
        repeats=10 if algorithm == "e3nn" else 2,
    )


def e3nn_std(store: Store) -> Result:
    """e3nn std, training step, batch 16 | `o3.FullyConnectedTensorProduct`, weights per edge"""
    return training("e3nn", "std", 16, store, 3)


def e3nn_pro(store: Store) -> Result:
    """e3nn pro, training step, batch 4 | the same"""
    return training("e3nn", "pro", 4, store, 2)


def cgcnn_std(store: Store) -> Result:
    """cgcnn std, training step, batch 128 | the original's concatenated linear layer per edge"""
    return training("cgcnn", "std", 128, store, 5)


def cgcnn_pro(store: Store) -> Result:
    """cgcnn pro, training step, batch 128 | the same"""
    return training("cgcnn", "pro", 128, store, 3)


def batch(store: Store) -> Result:
    """batch of 64 crystals | torch_geometric `Batch.from_data_list`"""
    from torch_geometric.data import Batch

    chosen = some_crystals(store, 64)
    dataset = StoreDataset(store, properties=NINE)
    data = [dataset[int(i)] for i in chosen]

    def ours() -> None:
        for _ in range(20):
            collate(store.arrays, chosen, NINE)

    def reference() -> None:
        for _ in range(20):
            Batch.from_data_list(data)

    return compare(ours, reference, 9, count=20, unit="ms a batch")


def loading(store: Store) -> Result:
    """an epoch of e3nn std | the batches of that epoch alone"""
    trainer = Trainer(build_config("e3nn", "std", NINE, {"max_samples": 400}), store)
    trainer.model.train()

    def epoch() -> None:
        for one in trainer.loader:
            trainer.optimise(iter([one]), len(one.y))

    def batches() -> None:
        for _ in make_loader(store, trainer.train, batch_size=16):
            pass

    return compare(batches, epoch, 1, unit="ms an epoch of batches", warm=False)


def predict(store: Store) -> Result:
    """predict a folder of CIFs, half of them symmetric | pymatgen's parsing of them alone"""
    import pandas as pd
    from pymatgen.core import Structure

    from phase2hpc.api import load_model

    model = load_model("e3nn-std", device="cpu", threads=1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        count = write_cifs(store, Path(folder), CIFS)
        frames: list[pd.DataFrame] = []
        result = compare(
            lambda: frames.append(model.predict(folder)),
            lambda: [Structure.from_file(file) for file in Path(folder).iterdir()],
            1, count=count, unit="ms a file", warm=False,
        )  # fmt: skip
    assert len(frames[0]) == count and (frames[0].status == "ok").mean() > 0.99
    return result


def cif(store: Store) -> Result:
    """read a folder of CIFs, half of them symmetric | pymatgen's parsing of them"""
    from pymatgen.core import Structure

    from phase2hpc.data.readers.registry import read

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        count = write_cifs(store, Path(folder), CIFS)
        return compare(
            lambda: list(read(folder)),
            lambda: [Structure.from_file(file) for file in Path(folder).iterdir()],
            1, count=count, unit="ms a file", warm=False,
        )  # fmt: skip


def write_cifs(store: Store, folder: Path, count: int) -> int:
    """CIFs of random crystals, every other one with the symmetry that spglib finds."""
    from pymatgen.core import Lattice, Structure
    from pymatgen.io.cif import CifWriter

    assert store.arrays is not None
    for number, index in enumerate(some_crystals(store, count).tolist()):
        one = store.arrays.block(index, index + 1)
        structure = Structure(
            Lattice(one.lattice[0]), one.atomic_number.tolist(), one.frac_coords.astype(float)
        )
        writer = CifWriter(structure, symprec=0.1 if number % 2 else None)
        writer.write_file(folder / f"{number:05d}.cif")
    return count


def prepare(store: Store) -> Result:
    """JSON lines -> verified store | json, pymatgen `Structure` and `get_neighbor_list` (6 A)"""
    from pymatgen.core import Lattice, Structure

    with tempfile.TemporaryDirectory() as folder, gzip.open(sample_source(), "rt") as lines:
        source = Path(folder) / "some.jsonl"
        source.write_text("".join(islice(lines, LINES)))
        path = Path(folder) / "some.h5"

        def ours() -> None:
            prepare_store([source], path, workers=1, overwrite=True)
            assert verify_store(path).ok

        def reference() -> None:
            for line in source.read_text().splitlines():
                record = json.loads(line)
                Structure(
                    Lattice(record["lattice"]), record["species"], record["frac_coords"]
                ).get_neighbor_list(6.0)

        return compare(ours, reference, 3, count=LINES, unit="ms a crystal")


def start(store: Store) -> Result:
    """`phase2hpc --help` | `--help` of a typer application with two empty commands"""
    help_ = [sys.executable, "-m", "phase2hpc", "--help"]
    empty = (
        "import typer\napp = typer.Typer()\n@app.command()\ndef a(): pass\n"
        "@app.command()\ndef b(): pass\napp(['--help'])"
    )
    bare = [sys.executable, "-c", empty]

    def run(command: list[str]) -> Callable[[], object]:
        return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    return compare(run(help_), run(bare), 9, unit="ms")


MEASUREMENTS = {
    f.__name__: f
    for f in (
        graph, prepare, cif, predict, batch, loading, e3nn_std, e3nn_pro, cgcnn_std, cgcnn_pro,
        start,
    )
}  # fmt: skip


def machine() -> str:
    """Processor, cores and versions, in one line."""
    info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (info.read_text().splitlines() if info.exists() else ())
        if line.startswith("model name")
    ]
    packages = ("torch", "e3nn", "torch_geometric", "numpy", "pymatgen-core", "gemmi", "vesin")
    found = ", ".join(f"{name} {version(name)}" for name in packages)
    processor = names[0] if names else platform.processor()
    return (
        f"{processor}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}, {found}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", choices=[[], *MEASUREMENTS], default=[])
    parser.add_argument("--store", type=Path, default=default_store())
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.store.exists():
        prepare_store([sample_source()], arguments.store)
    store = Store.open(arguments.store)
    print(f"{machine()}; one thread; CPU time, ratio: median (range)\n")
    print("| name | | reference = 1 | ratio | ours |\n|---|---|---|--:|--:|")
    for name in arguments.what or MEASUREMENTS:
        measure = MEASUREMENTS[name]
        what, _, reference = " ".join((measure.__doc__ or "").split()).partition(" | ")
        ratios, ours = measure(store).cells()
        print(f"| {name} | {what} | {reference} | {ratios} | {ours} |", flush=True)


if __name__ == "__main__":
    main()
