"""Correctness, exact resume, speed and accuracy on a GPU, in one call of limited time.

python benchmarks/gpu.py --store STORE.h5 --out gpu.json [--seconds 460] [--device cuda]

1. Predictions and gradients against the CPU, in float32 and float64; those of a CUDA graph
   against the eager ones.
2. A training that is stopped and resumed ends with the same bits (deterministic algorithms), eager
   and with CUDA graphs.
3. Inference over the train split: crystals/s.
4. Training steps of the trainer itself by algorithm, level, batch size, precision and mode (eager,
   graphs, and both with deterministic algorithms): crystals/s, kernels a step, share of a step
   without a running kernel, waits for the device, peak memory, number of graphs.
5. e3nn std trained, with graphs, with the time that is left: crystals/s and val errors.

--parts chooses among them. What raises an error has failed, and the rest goes on. The checks take
the time they need. The rows of 4 are in the order of their importance, and none is begun after
--table of --seconds; the training ends with the epoch in which they are over. What was measured so
far is in --out at any moment. With ``--device cpu --quick`` a small case of everything runs, as in
the tests.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phase2hpc.config.properties import GROUPS
from phase2hpc.config.run_config import build_config
from phase2hpc.data.crystal_data import CrystalData
from phase2hpc.data.device_arrays import PaddedBatch
from phase2hpc.data.loader import collate, to_device
from phase2hpc.data.store.reader import Store
from phase2hpc.inference.batched import infer
from phase2hpc.training.determinism import use_deterministic_algorithms
from phase2hpc.training.metrics import metrics_by_property, score
from phase2hpc.training.trainer import Trainer
from phase2hpc.training.trainer_state import load_state_dict, state_dict

NINE = GROUPS["all9"]
ALGORITHMS = ("e3nn", "cgcnn")
PARTS = ("correctness", "graphs_against_eager", "exact_resume", "inference", "table", "training")
CASES = (("e3nn", "std"), ("cgcnn", "std"), ("e3nn", "pro"))
MODES = ("eager", "graphs")
# Precision and mode of the table's rows: the first two for all batch sizes, the others for the
# middle one.
VARIANTS = (
    ("fp32", "graphs"), ("fp32", "eager"), ("tf32", "graphs"), ("bf16", "graphs"),
    ("fp32", "deterministic graphs"), ("fp32", "deterministic eager"),
)  # fmt: skip
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
# A gradient is a sum over many edges, in another order.
MORE_IN_GRADIENTS = 10


def trainer_of(
    store: Store,
    arguments: argparse.Namespace,
    algorithm: str,
    level: str,
    mode: str = "eager",
    **settings: Any,
) -> Trainer:
    runtime = {"device": arguments.device, "cuda_graphs": "off"}
    if arguments.quick:
        settings = {"max_samples": 64, "epochs": 2, **settings}
    config = build_config(algorithm, level, NINE, {**settings, **runtime})
    trainer = Trainer(config, store)
    if arguments.device == "cpu":
        # What a GPU does, on the CPU.
        trainer.loader.keep_on(trainer.device)
        trainer.steps_between_syncs = 4
    if mode.endswith("graphs"):
        # On the CPU: the same padded batches, without a graph.
        trainer.use_graphs()
    trainer.model.train()
    return trainer


def batches_of(trainer: Trainer) -> Iterator[list[CrystalData | PaddedBatch]]:
    """Batches of the trainer's loader without end, each as its parts."""
    while True:
        for parts in trainer.loader.microbatches(None):
            yield list(parts)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def correctness(store: Store, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Largest difference of predictions and gradients to the CPU, relative to the largest."""
    rows = []
    indices = store.split_indices("train")[: 8 if arguments.quick else 64]
    for algorithm, precision in itertools.product(ALGORITHMS, TOLERANCE):
        trainer = trainer_of(store, arguments, algorithm, "std", precision=precision)
        there = trainer.model.eval()
        here = copy.deepcopy(there).to("cpu")
        found = []
        for model, device in ((here, torch.device("cpu")), (there, trainer.device)):
            batch = to_device(collate(store.arrays, indices, dtype=trainer.dtype), device)
            out = model(batch)
            (out * torch.linspace(-1, 1, out.numel()).view_as(out).to(out)).sum().backward()
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            found.append([out.detach().cpu(), *(g.cpu() for g in gradients)])
        differences = [
            float((a - b).abs().max() / a.abs().max().clamp_min(1e-30))
            for a, b in zip(*found, strict=True)
        ]
        prediction, gradient = differences[0], max(differences[1:])
        limit = TOLERANCE[precision]
        rows.append(
            {"algorithm": algorithm, "precision": precision, "prediction": prediction,
             "gradient": gradient,
             "passed": prediction < limit and gradient < MORE_IN_GRADIENTS * limit}
        )  # fmt: skip
    return rows


def graphs_against_eager(store: Store, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Largest difference of losses and gradients of a batch's replay, relative to the largest."""
    rows = []
    for algorithm, precision in itertools.product(ALGORITHMS, TOLERANCE):
        trainer = trainer_of(
            store, arguments, algorithm, "std",
            precision=precision, batch_size=8, dropout=0.0, head_dropout=0.0,
        )  # fmt: skip
        trainer.use_graphs()
        [batch] = next(trainer.loader.microbatches(None))
        assert isinstance(batch, PaddedBatch) and trainer.graphed is not None
        graphed, found = trainer.graphed, []
        # The second replay is the one that counts: the first follows the capture.
        for graphs in (False, True, True):
            for parameter in trainer.parameters:
                parameter.grad = None
            sums = graphed(batch, 8) if graphs else trainer._passes(batch.unpadded(), 8)
            sums = sums.clone()
            gradients = (p.grad.clone() for p in trainer.parameters if p.grad is not None)
            found.append([sums, *gradients])
        worst = max(
            float((a - b).abs().max() / a.abs().max().clamp_min(1e-3))
            for replay in found[1:]
            for a, b in zip(found[0], replay, strict=True)
        )
        rows.append(
            {"algorithm": algorithm, "precision": precision, "difference": worst,
             "graphs": graphed.captured, "passed": worst < MORE_IN_GRADIENTS * TOLERANCE[precision]}
        )  # fmt: skip
    return rows


def exact_resume(store: Store, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Six steps at once, and three with a resume before the other three."""
    rows = []
    use_deterministic_algorithms()
    try:
        for algorithm, mode in itertools.product(ALGORITHMS, MODES):
            whole = trainer_of(store, arguments, algorithm, "std", mode)
            take_steps(whole, 3)
            saved = copy.deepcopy(state_dict(whole))
            take_steps(whole, 3)
            resumed = trainer_of(store, arguments, algorithm, "std", mode)
            take_steps(resumed, 1)
            load_state_dict(resumed, saved)
            take_steps(resumed, 3)
            pairs = zip(
                whole.averaged.module.state_dict().values(),
                resumed.averaged.module.state_dict().values(),
                strict=True,
            )
            rows.append(
                {"algorithm": algorithm, "mode": mode,
                 "passed": all(torch.equal(a, b) for a, b in pairs)}
            )  # fmt: skip
    finally:
        torch.use_deterministic_algorithms(False)
    return rows


def take_steps(trainer: Trainer, count: int) -> None:
    parts = trainer.loader.microbatches(None)
    for part in itertools.islice(parts, count):
        trainer.optimise(part, trainer.settings.batch_size)
    for _ in trainer.outcomes():
        pass


def throughput(
    store: Store, arguments: argparse.Namespace, case: tuple[Any, ...]
) -> dict[str, Any]:
    """Speed of the trainer's steps, their batches assembled in between as in training."""
    algorithm, level, size, precision, mode = case
    tf32 = precision == "tf32"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    if mode.startswith("deterministic"):
        use_deterministic_algorithms()
    else:
        torch.use_deterministic_algorithms(False)
    trainer = trainer_of(
        store, arguments, algorithm, level, mode,
        batch_size=size, precision="bf16" if precision == "bf16" else "float32",
    )  # fmt: skip
    eager = trainer.graphed is None
    device, steps = trainer.device, 4 if arguments.quick else 8 if eager else 32
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    batches = batches_of(trainer)

    def step() -> Tensor:
        good = trainer.optimise(iter(next(batches)), size)
        if trainer.step % trainer.steps_between_syncs == 0:
            list(trainer.outcomes())
        return good

    begin = time.perf_counter()
    for _ in range(3 if eager else steps):
        step()
    synchronise(device)
    warm_up = time.perf_counter() - begin
    seconds: list[float] = []
    # The captures of shapes that are met for the first time are not timed.
    for _ in range(12):
        graphs, begin = captured(trainer), time.perf_counter()
        for _ in range(steps):
            step()
        synchronise(device)
        if captured(trainer) == graphs:
            seconds.append((time.perf_counter() - begin) / steps)
        if len(seconds) == 3:
            break
    median = statistics.median(seconds)
    row = {"algorithm": algorithm, "level": level, "batch": size, "precision": precision,
           "mode": mode, "crystals_per_second": size / median, "ms": 1e3 * median,
           "ms_range": [1e3 * min(seconds), 1e3 * max(seconds)], "warm_up_s": warm_up}  # fmt: skip
    if device.type == "cuda":
        row["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    if not eager:
        row["graphs"] = captured(trainer)
    return row | launches(step, device)


def captured(trainer: Trainer) -> int:
    return 0 if trainer.graphed is None else trainer.graphed.captured


def inference(store: Store, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Crystals per second through a model, batches and symmetry included."""
    rows = []
    indices = store.split_indices("train")[: 64 if arguments.quick else None]
    for algorithm in ALGORITHMS:
        trainer = trainer_of(store, arguments, algorithm, "std")
        model = trainer.averaged.module
        seconds = []
        for _ in range(4):
            begin = time.perf_counter()
            infer(model, store, indices, device=trainer.device)
            seconds.append(time.perf_counter() - begin)
        # The first meets every shape for the first time.
        speed = len(indices) / statistics.median(seconds[1:])
        rows.append({"algorithm": algorithm, "crystals_per_second": speed, "passed": True})
    return rows


def launches(step: Any, device: torch.device) -> dict[str, Any]:
    """Operations and kernels of one step, share without a kernel, and waits for the device."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        step()
        synchronise(device)
    events = profile.events() or []
    row: dict[str, Any] = {"operations": sum(e.name.startswith("aten::") for e in events)}
    if device.type != "cuda":
        return row
    spans = sorted(
        (e.time_range.start, e.time_range.end)
        for e in events
        if e.device_type == torch.autograd.DeviceType.CUDA
    )
    busy, end = 0.0, spans[0][0] if spans else 0.0
    for start, stop in spans:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    row["kernels"] = len(spans)
    row["idle_share"] = 1 - busy / (end - spans[0][0]) if spans else None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    row["waits"] = sum("synchroniz" in str(warning.message) for warning in seen)
    return row


def training(store: Store, arguments: argparse.Namespace, deadline: float) -> dict[str, Any]:
    """e3nn std with val errors after each epoch, to its end or the deadline."""
    epochs = 1 if arguments.quick else 100
    trainer = trainer_of(store, arguments, "e3nn", "std", "graphs", epochs=epochs)
    size, history, begin = trainer.settings.batch_size, [], time.monotonic()
    for epoch in range(epochs):
        trainer.model.train()
        for parts in trainer.loader.microbatches(None):
            left = len(trainer.train) - (trainer.loader.sampler.position - 1) * size
            trainer.optimise(parts, min(size, left))
            if trainer.step % trainer.steps_between_syncs == 0:
                list(trainer.outcomes())
        list(trainer.outcomes())
        trained = time.monotonic() - begin
        outputs = infer(trainer.averaged.module, store, trainer.val, device=trainer.device)
        metrics = metrics_by_property(
            trainer.properties, outputs.physical(trainer.scaler), trainer.labels(trainer.val),
            trainer.labels(trainer.train),
        )  # fmt: skip
        mae = {name: values["mae"] for name, values in metrics.items()}
        history.append(
            {"epoch": epoch + 1, "trained_s": trained, "s": time.monotonic() - begin,
             "score": score(metrics), "mae": mae}
        )  # fmt: skip
        if time.monotonic() > deadline:
            break
    crystals = len(trainer.train) * len(history)
    return {"crystals_per_second": crystals / history[-1]["s"], "history": history}


def table(
    arguments: argparse.Namespace, sizes: list[int]
) -> Iterator[tuple[str, str, int, str, str]]:
    """Algorithm, level, batch size, precision and mode of each row."""
    for (algorithm, level), variant in itertools.product(CASES, VARIANTS):
        if arguments.without and arguments.without in variant[1]:
            continue
        if arguments.quick and variant not in VARIANTS[:3]:
            continue
        for size in sizes if variant in VARIANTS[:2] else sizes[len(sizes) // 2 :][:1]:
            yield (algorithm, level, size, *variant)


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--seconds", type=float, default=460.0, help="of everything together")
    parser.add_argument("--table", type=float, default=0.6, help="share of --seconds")
    parser.add_argument("--batch-sizes", default="16,64,256")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--without", help="leave out rows of the table in whose mode this is")
    parser.add_argument("--quick", action="store_true", help="a small case of everything")
    arguments = parser.parse_args(argv)
    begin = time.monotonic()
    # cuBLAS reads what the deterministic rows need when CUDA starts.
    use_deterministic_algorithms()
    torch.use_deterministic_algorithms(False)
    # Threads that compete for cores with other work slow each other down a hundredfold.
    torch.set_num_threads(1)
    store = Store.open(arguments.store)
    card = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    result: dict[str, Any] = {"card": card, "torch": torch.__version__, "table": []}

    def write(line: object) -> None:
        print(line, flush=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")

    write(f"{card}, torch {torch.__version__}, {len(store)} crystals")
    parts = arguments.parts.split(",")
    for part in (correctness, graphs_against_eager, exact_resume, inference):
        if part.__name__ not in parts:
            continue
        try:
            rows = part(store, arguments)
        except Exception as error:
            traceback.print_exc()
            rows = [{"error": first_line(error), "passed": False}]
        result[part.__name__] = rows
        write(f"{part.__name__}: {json.dumps(rows)}")
    sizes = [int(size) for size in arguments.batch_sizes.split(",")]
    for case in table(arguments, sizes) if "table" in parts else []:
        algorithm, level, size, precision, mode = case
        if time.monotonic() - begin > arguments.table * arguments.seconds:
            write(f"no time left for the table from {case}")
            break
        try:
            row = throughput(store, arguments, case)
        except Exception as error:
            traceback.print_exc()
            row = {"algorithm": algorithm, "level": level, "batch": size, "precision": precision,
                   "mode": mode, "error": first_line(error)}  # fmt: skip
        if arguments.device == "cuda":
            torch.cuda.empty_cache()
        result["table"].append(row)
        write(
            " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items())
        )
    torch.set_float32_matmul_precision("highest")
    torch.use_deterministic_algorithms(False)
    if "training" in parts:
        trained = training(store, arguments, begin + arguments.seconds)
        result["training"] = trained
        write(f"e3nn std: {trained['crystals_per_second']:.0f} crystals/s")
        write(f"last epoch: {trained['history'][-1]}")
    failed = [row for rows in result.values() if isinstance(rows, list) for row in rows
              if "error" in row or not row.get("passed", True)]  # fmt: skip
    write(f"{len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
