"""Correctness, exact resume, speed and accuracy on a GPU, in one call of limited time.

python benchmarks/gpu.py --store STORE.h5 --out gpu.json [--seconds 460] [--device cuda]

1. Predictions and gradients against the CPU, in float32 and float64; those of a CUDA graph
   against the eager ones.
2. A training that is stopped and resumed ends with the same bits (deterministic algorithms), eager
   and with CUDA graphs.
3. Training steps of the trainer itself by algorithm, level, batch size, precision and mode (eager,
   graphs): crystals/s, kernels a step, share of a step without a running kernel, waits for the
   device, peak memory, number of graphs.
4. e3nn std trained with the time that is left: crystals/s and val errors.

The checks of 1 and 2 take the time they need. No row of the table is begun after 60% of --seconds,
and the training ends with the epoch in which they are over. What was measured so far is in --out at
any moment. With ``--device cpu --quick`` everything runs on a small case, as the tests do.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before CUDA is initialised: deterministic matrix products need it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from torch import Tensor

from phase2hpc.config.properties import GROUPS
from phase2hpc.config.run_config import build_config
from phase2hpc.data.crystal_data import CrystalData
from phase2hpc.data.loader import collate, to_device
from phase2hpc.data.store.reader import Store
from phase2hpc.inference.batched import infer
from phase2hpc.training.metrics import metrics_by_property, score
from phase2hpc.training.trainer import Trainer
from phase2hpc.training.trainer_state import load_state_dict, state_dict

NINE = GROUPS["all9"]
ALGORITHMS = ("e3nn", "cgcnn")
CASES = (("e3nn", "std"), ("cgcnn", "std"), ("e3nn", "pro"))
PRECISIONS = ("fp32", "tf32", "bf16")
MODES = ("eager", "graphs")
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
CHECKS = ("correctness", "graphs_against_eager", "exact_resume")
# Share of the time after which no row of the table is begun.
END_OF_TABLE = 0.6


def trainer_of(
    store: Store,
    arguments: argparse.Namespace,
    algorithm: str,
    level: str,
    mode: str = "eager",
    **settings: Any,
) -> Trainer:
    runtime = {"device": arguments.device}
    if arguments.quick:
        settings = {"max_samples": 64, "epochs": 2, **settings}
    config = build_config(algorithm, level, NINE, {**settings, **runtime})
    trainer = Trainer(config, store)
    if arguments.device == "cpu":
        # What a GPU does, on the CPU.
        trainer.loader.keep_on(trainer.device)
        trainer.steps_between_syncs = 4
    if mode == "graphs":
        # On the CPU: the same padded batches, without a graph.
        trainer.graphed = trainer.graphed_passes()
    trainer.model.train()
    return trainer


def batches_of(trainer: Trainer) -> Iterator[list[CrystalData]]:
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
        worst = max(differences)
        rows.append(
            {"algorithm": algorithm, "precision": precision, "prediction": differences[0],
             "gradient": max(differences[1:]), "passed": worst < TOLERANCE[precision]}
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
        batch = to_device(
            collate(store.arrays, trainer.train[:8], dtype=trainer.dtype), trainer.device
        )
        graphed, found = trainer.graphed_passes(), []
        # The second replay is the one that counts: the first follows the capture.
        for passes in (trainer._passes, graphed, graphed):
            for parameter in trainer.parameters:
                parameter.grad = None
            sums = passes(batch, trainer.targets[batch.index], 8).clone()
            gradients = (p.grad.clone() for p in trainer.parameters if p.grad is not None)
            found.append([sums, *gradients])
        worst = max(
            float((a - b).abs().max() / a.abs().max().clamp_min(1e-3))
            for replay in found[1:]
            for a, b in zip(found[0], replay, strict=True)
        )
        rows.append(
            {"algorithm": algorithm, "precision": precision, "difference": worst,
             "graphs": graphed.captured, "passed": worst < 10 * TOLERANCE[precision]}
        )  # fmt: skip
    return rows


def exact_resume(store: Store, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Six steps at once, and three with a resume before the other three."""
    rows = []
    torch.use_deterministic_algorithms(True)
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
    trainer = trainer_of(
        store, arguments, algorithm, level, mode,
        batch_size=size, precision="bf16" if precision == "bf16" else "float32",
    )  # fmt: skip
    device, steps = trainer.device, 4 if arguments.quick else 48
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    batches = batches_of(trainer)

    def step() -> Tensor:
        good = trainer.optimise(iter(next(batches)), size)
        if trainer.step % trainer.steps_between_syncs == 0:
            list(trainer.outcomes())
        return good

    begin = time.perf_counter()
    # Most shapes of batches are met, and their graphs captured, before anything is timed.
    for _ in range(3 if trainer.graphed is None else steps):
        step()
    synchronise(device)
    warm_up = time.perf_counter() - begin
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        for _ in range(steps):
            step()
        synchronise(device)
        seconds.append((time.perf_counter() - begin) / steps)
    median = statistics.median(seconds)
    row = {"algorithm": algorithm, "level": level, "batch": size, "precision": precision,
           "mode": mode, "crystals_per_second": size / median, "ms": 1e3 * median,
           "ms_range": [1e3 * min(seconds), 1e3 * max(seconds)], "warm_up_s": warm_up}  # fmt: skip
    if device.type == "cuda":
        row["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    if trainer.graphed is not None:
        row["graphs"] = trainer.graphed.captured
    return row | launches(step, device)


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
    trainer = trainer_of(store, arguments, "e3nn", "std", epochs=epochs)
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


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--seconds", type=float, default=460.0, help="of everything together")
    parser.add_argument("--batch-sizes", default="16,64,256")
    parser.add_argument("--quick", action="store_true", help="a small case of everything")
    arguments = parser.parse_args(argv)
    begin = time.monotonic()
    # Threads that compete for cores with other work slow each other down a hundredfold.
    torch.set_num_threads(1)
    store = Store.open(arguments.store)
    card = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    result: dict[str, Any] = {"card": card, "torch": torch.__version__, "table": []}

    def write(line: object) -> None:
        print(line, flush=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")

    write(f"{card}, torch {torch.__version__}, {len(store)} crystals")
    for name, part in (
        ("correctness", correctness),
        ("graphs_against_eager", graphs_against_eager),
        ("exact_resume", exact_resume),
    ):
        result[name] = part(store, arguments)
        write(f"{name}: {json.dumps(result[name])}")
    sizes = [int(size) for size in arguments.batch_sizes.split(",")]
    for case in itertools.product(CASES, PRECISIONS, sizes, MODES):
        (algorithm, level), precision, size, mode = case
        if time.monotonic() - begin > END_OF_TABLE * arguments.seconds:
            write(f"no time left for the table from {case}")
            break
        try:
            row = throughput(store, arguments, (algorithm, level, size, precision, mode))
        except torch.OutOfMemoryError as error:
            row = {"algorithm": algorithm, "level": level, "batch": size, "precision": precision,
                   "mode": mode, "error": str(error).splitlines()[0]}  # fmt: skip
            torch.cuda.empty_cache()
        result["table"].append(row)
        write(
            " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items())
        )
    torch.set_float32_matmul_precision("highest")
    result["training"] = training(store, arguments, begin + arguments.seconds)
    last = result["training"]["history"][-1]
    write(f"e3nn std: {result['training']['crystals_per_second']:.0f} crystals/s, last {last}")
    passed = [row["passed"] for part in CHECKS for row in result[part]]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
