"""Trained model: the weights of best.pt with everything that inference needs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from phase2hpc.checkpointing.exported_model import load_exported
from phase2hpc.checkpointing.manager import load_best, save_best
from phase2hpc.config.algorithm_registry import algorithm_named
from phase2hpc.config.run_config import RunConfig
from phase2hpc.config.settings import RuntimeSettings
from phase2hpc.data.graph import GraphSettings
from phase2hpc.errors import InputError
from phase2hpc.inference.target_scaler import TargetScaler
from phase2hpc.models.element_embedding import ADDED_WEIGHTS
from phase2hpc.models.multitask import MultiTaskModel, build_model
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils.error_text import first_line


@dataclass
class TrainedModel:
    """A trained model with its scaler and the graph settings it was trained on.

    elements: atomic numbers of the training crystals; predictions for others are extrapolation.
    epoch, score: of the best epoch; its mean over properties of val MAE / MAD.
    """

    config: RunConfig
    graph_settings: GraphSettings
    scaler: TargetScaler
    model: MultiTaskModel
    elements: list[int]
    epoch: int
    score: float

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights and of inference."""
        return torch.float64 if self.config.training.precision == "float64" else torch.float32

    @property
    def weights_hash(self) -> str:
        """SHA-256 of the weights, by which a calibration knows its model."""
        digest = hashlib.sha256()
        for _, tensor in sorted(self.model.state_dict().items()):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, run: RunDirectory, keep: int = 1) -> None:
        """Write best.pt, and keep ``keep`` files of best weights in all."""
        save_best(run, self.state(), keep)

    def state(self) -> dict[str, Any]:
        """The content of best.pt."""
        # Paths and threads of the run are left out: the model may be given to others.
        config = self.config.model_copy(update={"runtime": RuntimeSettings()})
        return {
            "config": config.to_json(),
            "graph_settings": self.graph_settings.to_dict(),
            "scaler": self.scaler.state_dict(),
            "weights": self.model.state_dict(),
            "elements": self.elements,
            "epoch": self.epoch,
            "score": self.score,
        }

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> TrainedModel:
        """Read best.pt, or the model.safetensors of an exported model, in evaluation mode.

        Raises InputError where the file is missing, damaged or inconsistent.
        """
        exported = RunDirectory(path.parent)
        state = load_exported(exported) if path == exported.exported_weights else load_best(path)
        config = RunConfig.from_json(state["config"], str(path))
        try:
            graph_settings = GraphSettings(**state["graph_settings"])
            scaler = TargetScaler.from_state_dict(state["scaler"])
            model = build_model(
                algorithm_named(config.algorithm), config.model, graph_settings, scaler.properties
            )
            best = cls(
                config,
                graph_settings,
                scaler,
                model,
                state["elements"],
                state["epoch"],
                state["score"],
            )
            model.to(device, best.dtype).load_state_dict(state["weights"])
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{path}: its contents are inconsistent ({first_line(error)}): copy "
                "it again or train again"
            ) from error
        model.requires_grad_(False).eval()
        return best

    def copy_into(self, model: MultiTaskModel, scaler: TargetScaler) -> str:
        """Copy the encoder's weights and the heads of shared properties into ``model``.

        scaler: of ``model``; a head on another linear scale is converted to it. Weights that models
        of this one's age lack begin at zero. Returns in one line what was taken over and what was
        not. Raises InputError where the encoders differ otherwise.
        """
        own, here = self.model.encoder.state_dict(), model.encoder.state_dict()
        more = [name for name in ADDED_WEIGHTS if name in here and name not in own]
        there, shapes = _shapes(self.model.encoder), _shapes(model.encoder)
        differing = [
            name
            for name in shapes | there
            if name not in more and there.get(name) != shapes.get(name)
        ]
        if differing:
            first = differing[0]
            raise InputError(
                f"--init-from: its {self.config.algorithm} {self.config.level} encoder has other "
                f"weights than this run's, the first of {len(differing)} that differ: {first} "
                f"({_shape_text(there.get(first))} there, {_shape_text(shapes.get(first))} here): "
                "use its algorithm, preset and model settings"
            )
        model.encoder.load_state_dict(own | {name: torch.zeros_like(here[name]) for name in more})
        shared = [
            name
            for name in model.properties
            if name in self.model.properties
            and scaler.scales[name] == self.scaler.scales[name]
            and _shapes(_head(model, name)) == _shapes(_head(self.model, name))
        ]
        for name in shared:
            to, source = model.properties.index(name), self.model.properties.index(name)
            model.heads[to].load_state_dict(self.model.heads[source].state_dict())
            model.element.weight.data[:, to] = self.model.element.weight.data[:, source]
            _rescale_head(model, to, *self.scaler.to_scale_of(scaler, name))
        weights = sum(tensor.numel() for tensor in own.values())
        parts = [f"encoder ({weights:,} weights)"]
        parts += [f"heads of {', '.join(shared)}"] if shared else []
        text = f"taken over: {', '.join(parts)}"
        if more:
            text += f"; new, zero: {', '.join(more)} of the encoder"
        if new := [name for name in model.properties if name not in shared]:
            text += f"; new: heads of {', '.join(new)}"
        if left := [name for name in self.model.properties if name not in shared]:
            text += f"; not taken over: heads of {', '.join(left)}"
        return text


def _head(model: MultiTaskModel, name: str) -> nn.Module:
    return model.heads[model.properties.index(name)]


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def _shape_text(shape: torch.Size | None) -> str:
    return "none" if shape is None else "x".join(map(str, shape)) or "one number"


def graph_differences(there: GraphSettings, here: GraphSettings) -> str:
    """The settings in which they differ, with both values, ``there`` first; "" for none."""
    others = here.to_dict()
    return ", ".join(
        f"{name} {'none' if value is None else value} and "
        f"{'none' if others[name] is None else others[name]}"
        for name, value in there.to_dict().items()
        if value != others[name]
    )


def _rescale_head(model: MultiTaskModel, column: int, factor: float, offset: float) -> None:
    """Change predictions z of a property to factor z + offset."""
    head = model.heads[column]
    assert isinstance(head, nn.Sequential)
    last = head[-1]
    assert isinstance(last, nn.Linear)
    last.weight.data.mul_(factor)
    last.bias.data.mul_(factor).add_(offset)
    model.element.weight.data[:, column].mul_(factor)
