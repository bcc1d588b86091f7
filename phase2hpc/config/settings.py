"""Training and runtime settings, with their defaults, limits and descriptions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Logger = Literal["csv", "tensorboard", "wandb", "mlflow"]


def _names(value: Any) -> Any:
    """The names of a comma list; none of ``none``."""
    if not isinstance(value, str):
        return value
    return () if value == "none" else tuple(part.strip() for part in value.split(","))


MAX_EPOCHS = 100_000


class TrainingSettings(BaseModel):
    """Settings of the training; all of them change the result."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    epochs: int = Field(ge=1, le=MAX_EPOCHS, description="passes over the training crystals")
    batch_size: int = Field(ge=1, le=65_536, description="crystals per step, over all processes")
    lr: float = Field(gt=0, le=1.0, description="peak learning rate")
    max_samples: int | None = Field(
        None, ge=1, description="maximum number of training crystals, drawn by the seed"
    )
    weight_decay: float = Field(
        1e-2, ge=0, description="weight decay of AdamW, on matrices and element tables"
    )
    warmup: float = Field(0.05, ge=0, lt=1, description="fraction of all steps in which lr rises")
    clip_norm: float = Field(5.0, gt=0, description="maximum norm of the gradient")
    ema_decay: float = Field(
        0.999, ge=0, lt=1, description="decay per step of the averaged weights"
    )
    patience: int | None = Field(
        None, ge=1, description="stop after this many epochs without a better validation score"
    )
    max_edges: int | None = Field(
        None,
        ge=1,
        description="maximum edges computed at once, to bound memory: a larger batch is split into "
        "microbatches whose gradients are summed",
    )
    huber_delta: float = Field(
        0.1, gt=0, description="scaled error at which the loss changes from squared to absolute"
    )
    one_sided_bounds: bool = Field(
        True,
        description="a label at its lower bound asks for a prediction at or below it, which is "
        "clipped to it",
    )
    task_weights: Literal["learned", "equal"] = Field(
        "learned", description="weight of each property in the loss (Kendall et al. 2018)"
    )
    label_weight_power: float = Field(
        1.0,
        ge=0,
        le=1,
        description="a property is weighted by (fraction of labelled crystals)^power: with 1 all "
        "labels count equally, with 0 all properties",
    )
    element_baseline: bool = Field(True, description="start from a linear fit to the composition")
    frozen_epochs: int = Field(
        0,
        ge=0,
        le=MAX_EPOCHS,
        description="epochs at the start in which the encoder's weights stay as they were",
    )
    precision: Literal["float32", "float64", "bf16"] = Field(
        "float32",
        description="floating point precision; bf16 trains in autocast, and predictions are then "
        "invariant only to a few percent",
    )
    compile: bool = Field(
        False,
        description="use torch.compile; exact resume was tested on a CPU in float32 only",
    )
    cuda_graphs: Literal["off", "auto", "on"] = Field(
        "auto",
        description="replay each step from CUDA graphs, with batches padded to a few sizes, which "
        "is up to 20 times faster on a GPU: on, off, or auto, where it can work",
    )
    deterministic: bool = Field(
        False,
        description="use torch's deterministic algorithms: on a GPU too a resumed run then ends "
        "with the same bits as an undisturbed one, for up to 44% more time a step",
    )


class RuntimeSettings(BaseModel):
    """Settings of the execution; none of them changes the result."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    store: Path | None = Field(None, description="graph store; none: that of the shipped sample")
    models_dir: Path = Field(Path("models"), description="folder of all runs")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="device of the model")
    # One: the matrix products of a step are small, and threads that compete with another job for
    # a core slow it down a hundredfold.
    threads: int = Field(1, ge=1, description="CPU threads of torch")
    max_hours: float | None = Field(None, gt=0, description="save and stop after this many hours")
    checkpoint_minutes: float = Field(
        10.0, gt=0, description="maximum minutes between two checkpoints"
    )
    checkpoint_steps: int | None = Field(None, ge=1, description="save every this many steps")
    keep_checkpoints: int = Field(2, ge=1, description="number of checkpoints kept")
    log: Annotated[tuple[Logger, ...], BeforeValidator(_names)] = Field(
        ("tensorboard",),
        description="loggers of the epochs, in the run directory: csv, tensorboard, wandb, mlflow "
        "(the last two are extras), or none",
    )
    keep_best: int = Field(1, ge=1, description="number of best weights kept, the best as best.pt")
