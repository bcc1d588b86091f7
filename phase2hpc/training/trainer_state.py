"""State of a trainer in a checkpoint: everything that later steps depend on."""

from __future__ import annotations

from typing import Any

from phase2hpc.checkpointing.rng_state import rng_state, seed_everything, set_rng_state
from phase2hpc.config.run_config import RunConfig
from phase2hpc.inference.target_scaler import TargetScaler
from phase2hpc.training.nonfinite_steps import NonfiniteSteps
from phase2hpc.training.trainer import Trainer

# Increase it with every change of the numerical result of a step: a run started under another value
# resumes only with --accept-changes. 1: phase2hpc 0.1. 2: convolutions and heads as joint
# products, fused AdamW. 3: crystals without a label are not drawn.
NUMERICS_VERSION = 3
# The version that drew crystals without a label; where there are none, its steps are the same.
DRAWS_UNLABELLED = 2


def state_dict(trainer: Trainer) -> dict[str, Any]:
    """The state of a trainer, in the schema of ``checkpointing.schema``; a collective call."""
    return {
        "numerics_version": NUMERICS_VERSION,
        "step": trainer.step,
        "model": trainer.model.state_dict(),
        "averaged": trainer.averaged.module.state_dict(),
        "loss": trainer.loss.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "sampler": trainer.loader.sampler.state_dict(),
        "rng": trainer.world.all_gather(rng_state()),
        "history": trainer.history,
        "loss_sums": trainer.loss_sums,
        "counted": trainer.counted,
        "skipped": trainer.skipped.state_dict(),
        "best_score": trainer.best_score,
        "best_epoch": trainer.best_epoch,
        "order": order_of(trainer.config, trainer.store.content_hash),
    }


def order_of(config: RunConfig, store_hash: str | None) -> dict[str, Any]:
    """The settings from which the order of crystals in an epoch follows."""
    training = config.training
    return {
        "store": store_hash,
        "fold": config.fold,
        "seed": config.seed,
        "batch_size": training.batch_size,
        "max_samples": training.max_samples,
    }


def load_state_dict(
    trainer: Trainer, state: dict[str, Any], *, restart_epoch: bool = False
) -> None:
    """Restore ``state``.

    restart_epoch: restart the current epoch, because the order of crystals has changed.
    """
    trainer.model.load_state_dict(state["model"])
    trainer.averaged.module.load_state_dict(state["averaged"])
    trainer.loss.load_state_dict(state["loss"])
    # The implementation is this version's, whatever wrote the state.
    groups = [
        {**group, "fused": True, "foreach": None} for group in state["optimizer"]["param_groups"]
    ]
    trainer.optimizer.load_state_dict({**state["optimizer"], "param_groups": groups})
    trainer.set_scaler(TargetScaler.from_state_dict(state["scaler"]))
    trainer.history = state["history"]
    trainer.best_score, trainer.best_epoch = state["best_score"], state["best_epoch"]
    trainer.step = state["step"]
    trainer.forget_steps()
    trainer.skipped = NonfiniteSteps.from_state_dict(state["skipped"])
    sampler = trainer.loader.sampler
    if restart_epoch:
        sampler.epoch, sampler.position = trainer.epoch, 0
        trainer.loss_sums.zero_()
        trainer.counted = trainer.skipped.in_epoch = 0
    else:
        sampler.load_state_dict(state["sampler"])
        trainer.loss_sums.copy_(state["loss_sums"])
        counted: int | None = state["counted"]
        begun = sampler.position * trainer.settings.batch_size
        trainer.counted = min(begun, len(trainer.train)) if counted is None else counted
    # Ranks without a saved state get a new seed: valid, but not identical bit by bit.
    states, rank = state["rng"], trainer.world.rank
    if rank < len(states):
        set_rng_state(states[rank])
    else:
        seed_everything(trainer.config.seed + trainer.step, rank)
