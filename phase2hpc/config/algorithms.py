"""Algorithms and their levels, as data.

A built-in algorithm is one block here and one file in models/. An installed package adds one
through the entry-point group ``phase2hpc.algorithms`` (config/plugins.py).

Epochs, batch size, learning rate, number of training crystals and preset of each level are the
operation manual's; everything else was chosen on validation data (benchmarks/RESULTS.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

LEVEL_NAMES = ("smoke", "lite", "std", "pro", "max")


class ModelSettings(BaseModel):
    """Settings that every algorithm has; an algorithm adds its own in a subclass."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    layers: int = Field(ge=1, le=20, description="message passing layers")
    out_features: int = Field(128, ge=1, le=4096, description="length of the vector of a crystal")
    head_hidden: int = Field(
        64, ge=1, le=4096, description="hidden units of the head of each property"
    )
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="dropout inside the encoder's readout")
    head_dropout: float = Field(0.0, ge=0.0, lt=1.0, description="dropout before each head")


class EquivariantSettings(ModelSettings):
    """The e3nn encoder."""

    channels: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(
        min_length=1, max_length=5, description="channels by degree: 64,32,16 is 64x0e+32x1o+16x2e"
    )
    basis_size: int = Field(8, ge=1, le=64, description="Bessel functions of the distance")
    # Chosen on val at level std: with less dropout and weight decay the model overfits.
    dropout: float = Field(0.1, ge=0.0, lt=1.0, description="dropout inside the readout")
    head_dropout: float = Field(0.1, ge=0.0, lt=1.0, description="dropout before each head")
    embedding_size: int = Field(64, ge=1, le=1024, description="features per element")
    hidden: int = Field(128, ge=1, le=4096, description="hidden units of the per-atom update")
    # These are off by default and on in the presets: older models lack them.
    element_descriptors: bool = Field(
        False, description="tabulated properties of the elements beside the learned embedding"
    )
    electron_parity: bool = Field(
        False, description="whether the electrons of the formula unit and of the cell are odd"
    )
    gate_basis_size: int = Field(
        0, ge=0, le=256, description="Gaussians of the gate on each message's scalars; 0: no gate"
    )

    @field_validator("gate_basis_size")
    @classmethod
    def _no_single_gaussian(cls, value: int) -> int:
        if value == 1:
            raise ValueError("0 (no gate) or at least 2")
        return value


class CGCNNSettings(ModelSettings):
    """The CGCNN encoder."""

    hidden: int = Field(ge=1, le=4096, description="features per atom")
    basis_size: int = Field(41, ge=2, le=512, description="Gaussian functions of the distance")
    element_descriptors: bool = Field(
        False, description="tabulated properties of the elements beside the learned embedding"
    )
    electron_parity: bool = Field(
        False, description="whether the electrons of the formula unit and of the cell are odd"
    )


@dataclass(frozen=True)
class Resources:
    """Default resources of a batch job at a level; ``gpus`` and ``cpus`` per process."""

    hours: float
    cpus: int
    memory_gb: int
    gpus: int


@dataclass(frozen=True)
class Level:
    """One level of an algorithm.

    Attributes:
        preset: name of a preset of the algorithm.
        training: training settings that differ from their defaults; ``epochs``, ``batch_size``
            and ``lr`` have no default.
        resources: of a batch job.
        properties: default of ``--properties``, a group or a comma list.
    """

    preset: str
    training: Mapping[str, Any]
    resources: Resources
    properties: str = "priority7"


@dataclass(frozen=True)
class Algorithm:
    """An encoder with its settings, presets and levels.

    Attributes:
        name: value of ``--algorithm``.
        encoder: ``module:class`` of the encoder (``phase2hpc.models.encoder.Encoder``), imported
            when a model is built.
        settings: class of the model settings.
        presets: model settings by name of the preset.
        levels: by name; any of ``LEVEL_NAMES``, not necessarily all.
        folder: name of the folder of runs, with ``{level}`` and optionally ``{name}``.
        speed: reference training speed by preset, crystals/s on one CPU thread, from which the
            time limit of a job is estimated; a preset may be missing.
        gpu_speed: the same on one H100.
        provider: distribution that provides the algorithm; set when a plug-in is loaded.
    """

    name: str
    encoder: str
    settings: type[ModelSettings]
    presets: Mapping[str, Mapping[str, Any]]
    levels: Mapping[str, Level]
    folder: str = "multitask_{level}_{name}"
    speed: Mapping[str, float] = field(default_factory=dict)
    gpu_speed: Mapping[str, float] = field(default_factory=dict)
    provider: str = "phase2hpc"

    def family(self, level: str) -> str:
        """Name of the folder that holds all runs at a level."""
        return self.folder.format(level=level, name=self.name)

    def provider_version(self) -> dict[str, str]:
        """Version of a plug-in's distribution by its name; empty for a built-in algorithm."""
        name, _, version = self.provider.partition(" ")
        return {name: version} if version else {}


# Settings of presets that models of older versions lack; they do not tell presets apart.
ADDED_SETTINGS = frozenset({"electron_parity"})

# In every preset of e3nn.
_E3NN_PRESETS: Mapping[str, Any] = {
    "element_descriptors": True,
    "electron_parity": True,
    "gate_basis_size": 32,
}

# Speeds: one thread of an AMD EPYC with AVX-512, at the batch size of the first level with the
# preset. Those of medium are from benchmarks/RESULTS.md, the others have their ratio to it in
# processor time. On a GPU a step of a smaller batch is supposed to take as long as that of the
# next larger one that was measured.
E3NN = Algorithm(
    name="e3nn",
    encoder="phase2hpc.models.equivariant:EquivariantEncoder",
    settings=EquivariantSettings,
    presets={
        "small": {
            **_E3NN_PRESETS,
            "channels": (16, 8),
            "layers": 2,
            "embedding_size": 32,
            "hidden": 64,
        },
        "medium": {**_E3NN_PRESETS, "channels": (64, 32, 16), "layers": 3},
        "large": {
            **_E3NN_PRESETS,
            "channels": (128, 64, 32),
            "layers": 4,
            "hidden": 256,
            "out_features": 256,
        },
    },
    speed={"small": 400.0, "medium": 330.0, "large": 75.0},
    gpu_speed={"medium": 5400.0, "large": 940.0},
    levels={
        "smoke": Level(
            "medium",
            {"epochs": 5, "batch_size": 8, "lr": 2e-3, "max_samples": 800},
            Resources(hours=0.5, cpus=2, memory_gb=8, gpus=0),
            "core4",
        ),
        "lite": Level(
            "small",
            {"epochs": 2, "batch_size": 4, "lr": 1e-2, "max_samples": 100},
            Resources(hours=0.25, cpus=2, memory_gb=8, gpus=0),
            "core4",
        ),
        "std": Level(
            "medium",
            {"epochs": 100, "batch_size": 16, "lr": 1e-3, "weight_decay": 0.2},
            Resources(hours=24, cpus=8, memory_gb=32, gpus=1),
        ),
        "pro": Level(
            "large",
            {"epochs": 500, "batch_size": 4, "lr": 5e-4, "weight_decay": 0.2},
            Resources(hours=72, cpus=8, memory_gb=64, gpus=1),
        ),
        "max": Level(
            "large",
            {"epochs": 800, "batch_size": 4, "lr": 3e-4, "weight_decay": 0.2},
            Resources(hours=120, cpus=8, memory_gb=64, gpus=1),
        ),
    },
)

# In every preset of cgcnn.
_CGCNN_PRESETS: Mapping[str, Any] = {"element_descriptors": True, "electron_parity": True}

CGCNN = Algorithm(
    name="cgcnn",
    encoder="phase2hpc.models.cgcnn:CGCNNEncoder",
    settings=CGCNNSettings,
    folder="multitask_{name}_{level}",
    presets={
        "small": {**_CGCNN_PRESETS, "hidden": 64, "layers": 2},
        "medium": {**_CGCNN_PRESETS, "hidden": 128, "layers": 3},
        "large": {**_CGCNN_PRESETS, "hidden": 256, "layers": 5},
    },
    speed={"small": 1300.0, "medium": 460.0, "large": 110.0},
    gpu_speed={"medium": 14000.0},
    levels={
        "smoke": Level(
            "small",
            {"epochs": 5, "batch_size": 64, "lr": 1e-3, "max_samples": 800},
            Resources(hours=0.25, cpus=2, memory_gb=8, gpus=0),
            "core4",
        ),
        "lite": Level(
            "small",
            {"epochs": 40, "batch_size": 96, "lr": 1e-3, "max_samples": 3000},
            Resources(hours=0.5, cpus=4, memory_gb=16, gpus=0),
            "core4",
        ),
        "std": Level(
            "medium",
            {"epochs": 200, "batch_size": 128, "lr": 1e-3},
            Resources(hours=12, cpus=8, memory_gb=32, gpus=1),
        ),
        "pro": Level(
            "large",
            {"epochs": 300, "batch_size": 128, "lr": 1e-3},
            Resources(hours=24, cpus=8, memory_gb=64, gpus=1),
        ),
        "max": Level(
            "large",
            {"epochs": 500, "batch_size": 160, "lr": 7e-4},
            Resources(hours=48, cpus=8, memory_gb=64, gpus=1),
        ),
    },
)

# Built in; ``algorithm_registry.algorithms`` adds the installed plug-ins.
ALGORITHMS: dict[str, Algorithm] = {a.name: a for a in (E3NN, CGCNN)}
