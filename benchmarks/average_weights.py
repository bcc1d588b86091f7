"""Weighted mean of the weights of runs that began from the same weights, as a run of its own.

python benchmarks/average_weights.py RUN ID RUN=SHARE [RUN=SHARE ...] [--ensemble NAME I N]
    [--half]

Shares add up to 1. Heads are converted to the scale of RUN, whose settings the new run has; it is
written beside RUN as run_ID, with metrics, predictions and calibration of its own. Without an ID
(``-``) its errors on val are printed only, to choose the shares by. With --ensemble it is member I
(from 0) of N of the ensemble NAME, whose own results are written with the last of them.
--half: weights are rounded to half precision, in which an export then stores them.
(Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022.)
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch

from phase2hpc.data.store.reader import Store
from phase2hpc.inference.trained_model import TrainedModel
from phase2hpc.models.multitask import MultiTaskModel
from phase2hpc.runs.run_directory import PREFIX, RunDirectory
from phase2hpc.training.ensemble_results import write_if_complete
from phase2hpc.training.evaluation import evaluate
from phase2hpc.training.metrics import metrics_by_property, metrics_table, score
from phase2hpc.training.trainer import Trainer
from phase2hpc.utils.package_files import default_store


def averaged(first: TrainedModel, shares: dict[Path, float]) -> MultiTaskModel:
    """The model whose weights are the mean of those of the runs."""
    total = {name: torch.zeros_like(w) for name, w in first.model.state_dict().items()}
    for path, share in shares.items():
        one = copy.deepcopy(first.model)
        TrainedModel.load(RunDirectory(path).best).copy_into(one, first.scaler)
        for name, weight in one.state_dict().items():
            if weight.is_floating_point():
                total[name] += share * weight
            else:
                total[name] = weight
    model = copy.deepcopy(first.model)
    model.load_state_dict(total)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("id")
    parser.add_argument("shares", nargs="+", metavar="RUN=SHARE")
    parser.add_argument("--ensemble", nargs=3, metavar=("NAME", "I", "N"), default=[None] * 3)
    parser.add_argument("--half", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pairs = [text.rsplit("=", 1) for text in arguments.shares]
    shares = {Path(path): float(share) for path, share in pairs}
    if abs(sum(shares.values()) - 1) > 1e-6:
        parser.error("the shares do not add up to 1")
    source = RunDirectory(arguments.run)
    best = TrainedModel.load(source.best)
    config = source.read_config()
    best.model = averaged(best, shares)
    if arguments.half:
        for weight in best.model.parameters():
            weight.data = weight.data.half().to(best.dtype)
    trainer = Trainer(config, Store.open(config.runtime.store or default_store()))
    if arguments.id == "-":
        val = trainer.store.split_indices("val")
        found = trainer.infer_on_all_ranks(best.model, val).physical(best.scaler)
        metrics = metrics_by_property(
            trainer.properties, found, trainer.labels(val), trainer.labels(trainer.train)
        )
        print(metrics_table(metrics, trainer.scaler.units))
        print(f"score {score(metrics):.4f}")
        return
    run = RunDirectory(source.path.parent / f"{PREFIX}{arguments.id}")
    run.path.mkdir()
    run.write_config(config)
    best.save(run)
    evaluate(trainer, run, trainer.infer_on_all_ranks, lambda: None)
    name, member, size = arguments.ensemble
    changed: dict[str, object] = {"run_id": arguments.id, "ensemble": name}
    if name is not None:
        changed |= {"ensemble_member": member, "ensemble_size": int(size)}
    run.write_manifest(source.read_manifest().model_copy(update=changed))
    write_if_complete(run)


if __name__ == "__main__":
    main()
