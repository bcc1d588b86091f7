"""Coverage of intervals, sigma against error, and what was tried, for a calibrated model.

python benchmarks/uncertainty.py [RUN] [--choices] [--samples N]      RUN: default the shipped model

Prints the coverage on the test crystals of the sample, by property. With --choices also the
comparison of error models on its val crystals by cross-validation, on which the choice was made.
--samples: of each split only N crystals, drawn at random, to see quickly that it works.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr

from phase2hpc.data.sampler import draw_subset
from phase2hpc.data.store.reader import Store
from phase2hpc.inference.batched import Outputs, infer
from phase2hpc.inference.calibration import Calibration
from phase2hpc.inference.coverage import DEFAULT_COVERAGE
from phase2hpc.inference.error_model import MIN_LABELS, ErrorModel
from phase2hpc.inference.trained_model import TrainedModel
from phase2hpc.inference.uncertainty import KNOTS, TINY, ErrorEstimator
from phase2hpc.runs.registry import find_run
from phase2hpc.utils import tables
from phase2hpc.utils.package_files import default_store

Array = npt.NDArray[np.float64]
# Of last-layer Laplace, as a share of the mean eigenvalue.
RIDGE = 1e-4
# Crystals of which nine tenths are enough for a fit.
MIN_FOR_FOLDS = 2 * MIN_LABELS


def outputs_of(
    best: TrainedModel, store: Store, split: str, samples: int | None
) -> tuple[Outputs, Array]:
    """Outputs and labels (n, R) of a split, or of that many crystals of it."""
    rows = draw_subset(store.split_indices(split), samples, seed=0)
    found = infer(best.model, store, rows, device=torch.device("cpu"), dtype=best.dtype)
    return found, store.label_matrix(best.scaler.reported, rows).astype(np.float64)


def coverage_table(
    best: TrainedModel, calibration: Calibration, store: Store, samples: int | None
) -> str:
    outputs, labels = outputs_of(best, store, "test", samples)
    distance = calibration.embedding.distance(outputs.vectors)
    estimator = ErrorEstimator([best.scaler], [calibration])
    estimate = estimator.estimate([outputs], distance[None], DEFAULT_COVERAGE)
    errors = np.abs(outputs.physical(best.scaler) - labels)
    rows = []
    for p, name in enumerate(best.scaler.reported):
        known = np.isfinite(labels[:, p]) & ~outputs.zero[:, p]
        n, n_val = int(known.sum()), int(np.isfinite(calibration.targets[:, p]).sum())
        if n < MIN_LABELS:
            continue
        y, low, high = (array[known, p] for array in (labels, estimate.low, estimate.high))
        # Labels are single precision.
        inside = float(((low <= y + 1e-6) & (y - 1e-6 <= high)).mean())
        sigma, error = estimate.sigma[known, p], errors[known, p]
        within = float((error <= sigma + 1e-6).mean())
        variance = DEFAULT_COVERAGE * (1 - DEFAULT_COVERAGE)
        both = math.sqrt(variance / n + variance / n_val)
        quarters = [f"{error[q].mean():.3g}" for q in np.array_split(np.argsort(sigma), 4)]
        rows.append(
            [
                name, str(n), f"{inside:.3f}", f"{math.sqrt(variance / n):.3f}", f"{both:.3f}",
                f"{within:.2f}", f"{spearmanr(sigma, error).statistic:.2f}", ", ".join(quarters),
            ]
        )  # fmt: skip
    header = (
        "property", "n", "in 90% interval", "SE (test)", "SE (val and test)", "within sigma",
        "rank correlation", "MAE by quarter of sigma",
    )  # fmt: skip
    return tables.markdown(header, rows)


def laplace(features: Array, train: npt.NDArray[np.bool_]) -> Array:
    """Square root of f' (F'F + ridge)^-1 f: last-layer Laplace, Bigi et al., arXiv:2403.02251."""
    centred = features - features[train].mean(axis=0)
    inputs = np.column_stack([centred, np.ones(len(features))])
    gram = inputs[train].T @ inputs[train]
    gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    half = np.linalg.solve(np.linalg.cholesky(gram), inputs.T)
    variance: Array = np.sqrt(np.square(half).sum(axis=0))
    return variance


def choices_table(
    best: TrainedModel, calibration: Calibration, store: Store, samples: int | None
) -> str:
    """Error models on val: Laplace likelihood and rank correlation, each tenth by the others."""
    train, labels = outputs_of(best, store, "train", samples)
    val, targets = outputs_of(best, store, "val", samples)
    vectors = np.concatenate([train.vectors, val.vectors])
    hidden = [head[:-1] for head in best.model.heads]
    scaler = best.scaler
    z = scaler.transform(targets)
    errors = np.abs(scaler.transform(val.physical(scaler)) - z)
    knots = np.quantile(val.scaled, KNOTS, axis=0)
    distance = np.log(calibration.embedding.distance(val.vectors) + TINY)[:, None]
    names = ("constant", "Laplace", "distance", "prediction", "distance, prediction",
             "Laplace, distance, prediction")  # fmt: skip
    rows = []
    totals: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for p, name in enumerate(scaler.reported):
        known = np.isfinite(errors[:, p]) & ~val.zero[:, p]
        if known.sum() < MIN_FOR_FOLDS:
            continue
        with torch.inference_mode():
            features = hidden[p](torch.from_numpy(vectors)).numpy().astype(np.float64)
        labelled = np.isfinite(labels[:, p])
        chosen = np.concatenate([labelled, np.zeros(len(val.scaled), dtype=bool)])
        llpr = np.log(laplace(features, chosen)[len(labels) :] + TINY)[:, None]
        low, high = knots[:-1, p], knots[1:, p]
        steps = (np.clip(val.scaled[:, p, None], low, high) - low) / np.maximum(high - low, TINY)
        nothing = np.empty((len(errors), 0))
        parts = {
            "constant": (nothing, nothing), "Laplace": (llpr, nothing),
            "distance": (distance, nothing), "prediction": (nothing, steps),
            "distance, prediction": (distance, steps),
            "Laplace, distance, prediction": (np.hstack([llpr, distance]), steps),
        }  # fmt: skip
        cells = [name, str(int(known.sum()))]
        for key in names:
            growing, free = parts[key]
            x = np.hstack([growing, free])[known]
            mask = np.arange(x.shape[1]) < growing.shape[1]
            likelihood, correlation = cross_validated(x, errors[known, p], mask)
            totals[key].append((likelihood, correlation))
            cells.append(f"{likelihood:.2f} / {correlation:.2f}")
        rows.append(cells)
    means = [np.mean(totals[key], axis=0) for key in names]
    rows.append(["mean", "", *(f"{m[0]:.2f} / {m[1]:.2f}" for m in means)])
    return tables.markdown(("property", "n", *names), rows)


def cross_validated(
    features: Array, errors: Array, growing: npt.NDArray[np.bool_]
) -> tuple[float, float]:
    """Negative log likelihood of a Laplace distribution, and rank correlation with the error."""
    log_scale = np.empty(len(errors))
    fold = np.arange(len(errors)) % 10
    for number in range(10):
        out = fold == number
        model = ErrorModel.fit(features[~out], errors[~out], growing)
        assert model is not None
        clipped = np.clip(features[out], model.lowest, model.highest)
        log_scale[out] = model.weights[0] + clipped @ model.weights[1:]
    likelihood = float((np.log(2) + log_scale + errors * np.exp(-log_scale)).mean())
    varies = np.ptp(log_scale) > 0 and features.shape[1] > 0
    return likelihood, float(spearmanr(log_scale, errors).statistic) if varies else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", default="e3nn-std")
    parser.add_argument("--choices", action="store_true")
    parser.add_argument("--samples", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = find_run(Path("models"), arguments.run)
    best, calibration = TrainedModel.load(run.weights), Calibration.load(run.calibration)
    assert calibration is not None, f"{run.path}: phase2hpc calibrate {run.id}"
    store = Store.open(default_store())
    print(coverage_table(best, calibration, store, arguments.samples), flush=True)
    if arguments.choices:
        print("\n" + choices_table(best, calibration, store, arguments.samples))


if __name__ == "__main__":
    main()
