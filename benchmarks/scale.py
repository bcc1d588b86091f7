"""Tables of the page Scale, computed from measured rates.

python benchmarks/scale.py      its output stands in docs/scale.md between the marks
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from phase2hpc.data.graph_arrays import EDGE_TABLE_BYTES, NODE_TABLE_BYTES, arrays_bytes

SIZES = {"76 k": 76_000, "155 k": 155_000, "4.5 M": 4_500_000, "100 M": 100_000_000}
# Of mp_47k at the default graph settings: means of a crystal, and bytes of its store on disk.
ATOMS, EDGES, ID_BYTES, DISK = 30, 469, 9, 958
LABELS = 9
# Cores of the CPU node, jobs of the array (one such node each), GPUs of the GPU node.
CORES, JOBS, GPUS = 64, 16, 8


@dataclass(frozen=True)
class Rates:
    """CPU milliseconds a crystal of ATOMS atoms, on one core; of the GPU, crystals a second."""

    # JSON lines -> store, and the part of it that one process does: reading, and writing the file.
    prepare: float
    prepare_serial: float
    verify: float
    # e3nn std: a crystal in a training step, and in inference.
    train: float
    infer: float
    # predict from CIF, without the model.
    read_cif: float
    # Measured with 12.3 atoms a crystal; a small batch hardly depends on them: rather too low.
    gpu_train: float = 5_400.0 * 12.3 / ATOMS
    gpu_infer: float = 25_000.0 * 12.3 / ATOMS


MEASURED = Rates(prepare=0.82, prepare_serial=0.2, verify=0.06, train=7.5, infer=6.0, read_cif=2.2)
EPOCHS = 100
VAL_FACTOR = 1.05


def main() -> None:
    r = MEASURED
    rows = [["", *SIZES]]

    def row(name: str, values: list[str]) -> None:
        rows.append([name, *values])

    def each(seconds_of: Callable[[int], float]) -> list[str]:
        return [duration(seconds_of(n)) for n in SIZES.values()]

    whole = arrays_bytes(1, ATOMS, EDGES, ID_BYTES, labels=LABELS, float64=False)
    tables = ATOMS * NODE_TABLE_BYTES + EDGES * EDGE_TABLE_BYTES
    row("store on disk", [size(n * DISK) for n in SIZES.values()])
    row("arrays in memory", [size(n * whole) for n in SIZES.values()])
    row("with the tables of training", [size(n * (whole + tables)) for n in SIZES.values()])
    row(
        "always in memory (pointers, labels)",
        [size(n * (25 + 4 * LABELS)) for n in SIZES.values()],
    )
    both = r.prepare + r.verify
    row("prepare and verify, 1 core", each(lambda n: n * both / 1e3))
    serial = max(r.prepare_serial, r.prepare / 8)
    row("prepare, 1 process with 8 workers", each(lambda n: n * serial / 1e3))
    row(f"prepare --shards {JOBS}, 8 workers each", each(lambda n: n * serial / JOBS / 1e3))
    train = r.train * EPOCHS * VAL_FACTOR
    row(f"train e3nn std, {EPOCHS} epochs, 1 core", each(lambda n: n * train / 1e3))
    row(f"the same, {CORES} cores (ideal)", each(lambda n: n * train / CORES / 1e3))
    row("the same, 1 H100, batch 16", each(lambda n: n * EPOCHS * VAL_FACTOR / r.gpu_train))
    file = r.read_cif + r.infer
    row("predict from CIF, 1 core", each(lambda n: n * file / 1e3))
    row(f"predict --workers {CORES}", each(lambda n: n * file / CORES / 1e3))
    row(
        f"predict --shards {JOBS} (one core each)",
        each(lambda n: n * file / JOBS / 1e3),
    )
    row(f"inference, {GPUS} H100", each(lambda n: n / r.gpu_infer / GPUS))
    for number, cells in enumerate(rows):
        print("| " + " | ".join(cells) + " |")
        if number == 0:
            print("| --- |" + " --: |" * len(SIZES))


def duration(seconds: float) -> str:
    for limit, unit, factor in ((90, "s", 1), (5400, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return (
                f"{seconds / factor:.2g} {unit}"
                if seconds / factor < 10
                else (f"{seconds / factor:.0f} {unit}")
            )
    return f"{seconds / 86400:,.0f} days"


def size(count: float) -> str:
    for limit, unit in ((1e6, "kB"), (1e9, "MB"), (1e12, "GB")):
        if count < limit:
            value = count / limit * 1e3
            return f"{value:.2g} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{count / 1e12:.2g} TB"


if __name__ == "__main__":
    main()
