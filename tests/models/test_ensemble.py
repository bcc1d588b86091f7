"""Models of an ensemble share what depends on no weights, and nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from crystals import PROPERTIES, batch_of, random_model, sample_crystals

from phase2hpc.config.algorithms import ALGORITHMS
from phase2hpc.data.graph import GraphSettings
from phase2hpc.models.ensemble import with_vectors_of_each
from phase2hpc.models.equivariant import EquivariantEncoder
from phase2hpc.models.multitask import MultiTaskModel, build_model

GRAPH = GraphSettings(5.0, 10, 0.25)


def e3nn(seed: int, graph: GraphSettings = GRAPH, **changes: object) -> MultiTaskModel:
    chosen = ALGORITHMS["e3nn"]
    torch.manual_seed(seed)
    settings = chosen.settings.model_validate({**chosen.presets["small"], **changes})
    return build_model(chosen, settings, graph, PROPERTIES).eval()


@pytest.mark.parametrize(
    ("models", "geometries"),
    [
        ([e3nn(0), e3nn(1), e3nn(2)], 1),
        # The number of layers matters only where another pair of degrees comes with it.
        ([e3nn(0, layers=3), e3nn(1, layers=4)], 1),
        ([e3nn(0), e3nn(1, basis_size=5), e3nn(2)], 2),
        ([e3nn(0), e3nn(1, gate_basis_size=7)], 2),
        ([e3nn(0), e3nn(1, GraphSettings(5.0, 8, 0.25))], 2),
        ([e3nn(0), random_model("cgcnn", GRAPH, torch.float32, "small")], 1),
    ],
    ids=["alike", "layers", "basis", "gate", "graph", "cgcnn"],
)
@torch.inference_mode()
def test_predictions_are_those_of_each_model_alone(
    models: list[MultiTaskModel], geometries: int
) -> None:
    computed = []
    for model in models:
        if isinstance(model.encoder, EquivariantEncoder):
            model.encoder.geometry.register_forward_hook(lambda *_: computed.append(1))
    # Twice: nothing is kept from one batch to the next.
    for crystals in (sample_crystals()[:4], sample_crystals()[4:]):
        batch = batch_of(crystals, GRAPH, torch.float32)
        computed.clear()
        together = with_vectors_of_each(models, batch)
        assert len(computed) == geometries
        for model, found in zip(models, together, strict=True):
            for one, alone in zip(found, model.with_vectors(batch), strict=True):
                assert torch.equal(one, alone)


def test_cgcnn_waits_for_no_import_of_e3nn() -> None:
    code = "import sys, phase2hpc.inference.batched; sys.exit('e3nn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Subclass(EquivariantEncoder):
    """An encoder of a plug-in, which takes the batch alone."""

    def forward(self, batch):  # type: ignore[override]
        return super().forward(batch)


@torch.inference_mode()
def test_a_subclass_computes_its_own() -> None:
    models = [e3nn(0), e3nn(1)]
    models[1].encoder.__class__ = Subclass
    batch = batch_of(sample_crystals()[:3], GRAPH, torch.float32)
    for model, (found, _) in zip(models, with_vectors_of_each(models, batch), strict=True):
        assert torch.equal(found, model(batch))
