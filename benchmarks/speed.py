"""Speed relative to reference implementations, measured alternately in one process.

python benchmarks/speed.py [graph|e3nn|pro|cgcnn|batch|loading|start ...]

On shared, noisy machines both take turns, and the ratio is the median over turns.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
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
from phase2hpc.models.multitask import build_model  # noqa: E402
from phase2hpc.training.trainer import Trainer  # noqa: E402
from phase2hpc.utils.package_files import default_store, sample_source  # noqa: E402

NINE = GROUPS["all9"]


def ratio(
    ours: Callable[[], object],
    reference: Callable[[], object],
    turns: int,
    *,
    repeats: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> str:
    """Speed-up of ``ours``: median and range over turns, after one for warm-up.

    repeats: of ours in a turn, where it is much the faster.
    """
    values = []
    for turn in range(turns + 1):
        seconds = []
        for work, times in ((reference, 1), (ours, repeats)):
            begin = clock()
            for _ in range(times):
                work()
            seconds.append((clock() - begin) / times)
        if turn:
            values.append(seconds[0] / seconds[1])
    return (
        f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f}, {turns} turns)"
    )


def some_crystals(store: Store, count: int) -> np.ndarray:
    """The same random crystals of all sizes each time."""
    return np.random.default_rng(0).permutation(store.split_indices("train"))[:count]


def graph(store: Store) -> str:
    """Structure -> graph, against get_all_neighbors, sort and take 12 (CGCNN's way, radius 8)."""
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

    return ratio(ours, reference, 5)


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


def e3nn(store: Store) -> str:
    """e3nn std, batch 16, against o3.FullyConnectedTensorProduct with weights per edge."""
    return _equivariant(store, "std", 16)


def pro(store: Store) -> str:
    """e3nn pro, batch 4, against the same."""
    return _equivariant(store, "pro", 4)


def _equivariant(store: Store, level: str, batch_size: int) -> str:
    settings = store.graph_settings
    config = build_config("e3nn", level, NINE)
    ours = build_model(ALGORITHMS["e3nn"], config.model, settings, NINE)
    channels, layers = config.model.channels, config.model.layers
    reference = FullyConnectedModel(channels, layers, 20, len(NINE), **settings.to_dict())
    return ratio(
        training_step(ours, store, batch_size, fused=True),
        training_step(reference, store, batch_size),
        3,
        repeats=10,
        clock=time.process_time,
    )


def cgcnn(store: Store) -> str:
    """cgcnn std, batch 128, against the concatenated linear layer of the original."""
    settings = store.graph_settings
    config = build_config("cgcnn", "std", NINE)
    ours = build_model(ALGORITHMS["cgcnn"], config.model, settings, NINE)
    model = config.model
    reference = ConcatenatedModel(
        model.hidden, model.layers, model.basis_size, len(NINE), **settings.to_dict()
    )
    return ratio(
        training_step(ours, store, 128, fused=True),
        training_step(reference, store, 128),
        5,
        repeats=2,
        clock=time.process_time,
    )


def batch(store: Store) -> str:
    """Batches of 64, against torch_geometric's Batch.from_data_list."""
    from torch_geometric.data import Batch

    chosen = some_crystals(store, 64)
    dataset = StoreDataset(store, properties=NINE)
    data = [dataset[int(i)] for i in chosen]
    return ratio(
        lambda: collate(store.arrays, chosen, NINE), lambda: Batch.from_data_list(data), 50
    )


def loading(store: Store) -> str:
    """Fraction of an epoch of e3nn std that is spent on batches."""
    trainer = Trainer(build_config("e3nn", "std", NINE, {"max_samples": 800}), store)
    trainer.model.train()
    begin = time.perf_counter()
    for batch in trainer.loader:
        trainer.optimise(iter([batch]), len(batch.y))
    epoch = time.perf_counter() - begin
    loader = make_loader(store, trainer.train, batch_size=16)
    begin = time.perf_counter()
    for _ in loader:
        pass
    return f"{(time.perf_counter() - begin) / epoch:.2%}"


def start(store: Store) -> str:
    """``phase2hpc --help``, against the --help of a typer application with one empty command."""
    help_ = [sys.executable, "-m", "phase2hpc.cli.main", "--help"]
    empty = "import typer\napp = typer.Typer()\n@app.command()\ndef run(): pass\napp(['--help'])"
    bare = [sys.executable, "-c", empty]

    def run(command: list[str]) -> Callable[[], object]:
        return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    return f"takes {ratio(run(bare), run(help_), 20)} x as long"


MEASUREMENTS = {f.__name__: f for f in (graph, e3nn, pro, cgcnn, batch, loading, start)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", choices=[[], *MEASUREMENTS], default=[])
    parser.add_argument("--store", type=Path, default=default_store())
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.store.exists():
        prepare_store([sample_source()], arguments.store)
    store = Store.open(arguments.store)
    for name in arguments.what or MEASUREMENTS:
        measure = MEASUREMENTS[name]
        title = " ".join((measure.__doc__ or "").split())
        print(f"{name:<8} {measure(store)}   {title}", flush=True)


if __name__ == "__main__":
    main()
