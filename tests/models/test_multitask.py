"""One encoder, one head per property."""

from __future__ import annotations

import pytest
import torch
from crystals import LONELY, PROPERTIES, TRANSFORMS, batch_of, random_model, sample_crystals

from phase2hpc.config.algorithms import ALGORITHMS
from phase2hpc.data.graph import GraphSettings
from phase2hpc.models.multitask import MultiTaskModel, build_model
from phase2hpc.training.loss import MultiTaskLoss

GRAPH = GraphSettings(5.0, 10, 0.25)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_preset_is_built_by_name(algorithm: str) -> None:
    chosen = ALGORITHMS[algorithm]
    batch = batch_of(sample_crystals()[:3], GRAPH, torch.float32)
    sizes = []
    for preset in chosen.presets.values():
        settings = chosen.settings.model_validate(preset)
        model = build_model(chosen, settings, GRAPH, PROPERTIES).eval()
        assert type(model.encoder).__name__ == chosen.encoder.split(":")[1]
        assert model(batch).shape == (3, len(PROPERTIES))
        sizes.append(sum(p.numel() for p in model.parameters()))
    assert sizes == sorted(set(sizes)), "presets grow"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_seed_decides_the_weights(algorithm: str) -> None:
    models = [random_model(algorithm, GRAPH, torch.float32, "small") for _ in range(2)]
    a, b = (model.state_dict() for model in models)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@torch.no_grad()
def test_heads_are_independent(algorithm: str) -> None:
    model = random_model(algorithm, GRAPH, torch.float64, "small")
    batch = batch_of(sample_crystals(), GRAPH)
    before = model(batch)
    for parameter in model.heads[1].parameters():
        parameter += torch.randn_like(parameter)
    changed = (model(batch) - before).abs()
    assert changed[:, 1].min() > 1e-6 and changed[:, [0, 2]].max() == 0
    before = model(batch)
    model.element.weight[:, 2] += 1.0
    torch.testing.assert_close(
        model(batch) - before,
        torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand_as(before),
    )


@torch.no_grad()
def test_heads_at_once_are_the_heads_one_by_one() -> None:
    model = random_model("cgcnn", GRAPH, torch.float64, "small")
    vector = torch.randn(5, model.out_features, dtype=torch.float64)
    one_by_one = torch.cat([head(vector) for head in model.heads], dim=1)
    torch.testing.assert_close(model._apply_heads(vector), one_by_one, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_heads_have_dropout_of_their_own_and_only_in_training() -> None:
    model = random_model("cgcnn", GRAPH, torch.float64, "small")
    model.head_dropout = 0.5
    for head in model.heads[1:]:
        head.load_state_dict(model.heads[0].state_dict())
    vector = torch.randn(5, model.out_features, dtype=torch.float64)
    out = model._apply_heads(vector)
    torch.testing.assert_close(out[:, 1], out[:, 0], rtol=0, atol=1e-12)
    out = model.train()._apply_heads(vector)
    assert (out[:, 1] - out[:, 0]).abs().min() > 0


@torch.no_grad()
def test_composition_part_is_linear_in_the_atomic_fractions() -> None:
    model = random_model("cgcnn", GRAPH, torch.float64, "small")
    for head in model.heads:
        for parameter in head.parameters():
            parameter.zero_()
    raws = sample_crystals()
    batch = batch_of(raws, GRAPH)
    expected = torch.stack(
        [model.element.weight[batch.z[batch.batch == i]].mean(0) for i in range(len(raws))]
    )
    torch.testing.assert_close(model(batch), expected)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@torch.no_grad()
def test_predictions_are_intensive(algorithm: str) -> None:
    """A supercell has its cell's properties, though it has eight times the atoms."""
    model = random_model(algorithm, GRAPH, torch.float64, "small")
    raws = sample_crystals()[:6]
    super_cells = [TRANSFORMS["2x2x2"](raw) for raw in raws]
    assert len(super_cells[0].species) == 8
    torch.testing.assert_close(
        model(batch_of(super_cells, GRAPH)), model(batch_of(raws, GRAPH)), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_parameter_of_every_head_gets_a_gradient(algorithm: str) -> None:
    """Zero, never None, for a property that the batch has no label of: DDP waits for all."""
    model: MultiTaskModel = random_model(algorithm, GRAPH, torch.float64, "small").train()
    raws = [*sample_crystals()[:4], LONELY]
    # An odd number of labels: where all errors are large, their gradients are of one size and
    # could cancel.
    target = torch.tensor(
        [[0.3, torch.nan, 1.0]] * 3 + [[1.0, torch.nan, torch.nan]] * 2, dtype=torch.float64
    )
    loss = MultiTaskLoss(
        torch.tensor([1.0, 0.1, 0.5], dtype=torch.float64),
        huber_delta=0.1,
        learned_weights=True,
        label_weight_power=1.0,
    )
    total, _ = loss(model(batch_of(raws, GRAPH)), target, torch.ones(5).double(), 5)
    total.backward()
    for name, parameter in [*model.named_parameters(), *loss.named_parameters()]:
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert all(not p.grad.any() for p in model.heads[1].parameters() if p.grad is not None)
    assert all(p.grad.any() for i in (0, 2) for p in model.heads[i].parameters())
    assert loss.log_scale is not None and loss.log_scale.grad is not None
    assert loss.log_scale.grad[1] == 0 and loss.log_scale.grad[[0, 2]].all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_bfloat16_autocast_stays_near_single_precision(algorithm: str) -> None:
    model = random_model(algorithm, GRAPH, torch.float32, "small")
    batch = batch_of(sample_crystals(), GRAPH, torch.float32)
    exact = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(batch)
    rough.float().sum().backward()
    assert (rough - exact).abs().max() < 0.3 * exact.std(dim=0).min()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
