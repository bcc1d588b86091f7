"""First features of the atoms, with and without descriptors and electron parity."""

from __future__ import annotations

import pytest
import torch
from crystals import batch_of, random_model, sample_crystals
from torch import Tensor

from phase2hpc.data.electron_parity import EVEN, ODD_CELL, PARITIES
from phase2hpc.data.element_descriptors import element_descriptors
from phase2hpc.data.elements import ATOMIC_NUMBERS, MAX_ATOMIC_NUMBER
from phase2hpc.data.graph import GraphSettings
from phase2hpc.models.element_embedding import ElementEmbedding


def embed(embedding: ElementEmbedding, species: Tensor, parity: int = 0) -> Tensor:
    """Features of atoms of one crystal."""
    one_crystal = torch.zeros_like(species)
    features: Tensor = embedding(species, one_crystal, torch.tensor([parity]))
    return features


@torch.no_grad()
def test_descriptors_are_added_through_one_linear_map() -> None:
    embedding = ElementEmbedding(8, descriptors=True, electron_parity=False)
    species = torch.tensor([8, 22, 56])
    projection = embedding.projection
    assert projection is not None
    table = torch.tensor(element_descriptors())
    expected = embedding.weight[species] + projection(table[species])
    torch.testing.assert_close(embed(embedding, species), expected)


@torch.no_grad()
def test_without_descriptors_it_is_the_table() -> None:
    embedding = ElementEmbedding(8, descriptors=False, electron_parity=False)
    assert [*embedding.state_dict()] == ["weight"]
    species = torch.arange(MAX_ATOMIC_NUMBER + 1)
    assert torch.equal(embed(embedding, species, ODD_CELL), embedding.weight)


@torch.no_grad()
def test_a_model_keeps_the_descriptors_it_was_trained_with() -> None:
    trained = ElementEmbedding(8, descriptors=True, electron_parity=False)
    trained.descriptors += 1.0  # as if the package's table had changed since
    restored = ElementEmbedding(8, descriptors=True, electron_parity=False)
    restored.load_state_dict(trained.state_dict())
    iron = torch.tensor([ATOMIC_NUMBERS["Fe"]])
    assert torch.equal(embed(restored, iron), embed(trained, iron))


@torch.no_grad()
def test_the_parity_of_the_crystal_is_added_to_each_of_its_atoms() -> None:
    embedding = ElementEmbedding(8, descriptors=True, electron_parity=True)
    assert embedding.parity is not None and embedding.parity.weight.shape == (PARITIES, 8)
    species, crystal = torch.tensor([8, 22, 56, 8]), torch.tensor([0, 0, 1, 1])
    parity = torch.tensor([EVEN, ODD_CELL])
    added = embedding(species, crystal, parity) - embedding(species, crystal, torch.zeros(2).long())
    expected = embedding.parity.weight[[0, 0, 2, 2]] - embedding.parity.weight[0]
    torch.testing.assert_close(added, expected)


@pytest.mark.parametrize("algorithm", ["e3nn", "cgcnn"])
@torch.no_grad()
def test_models_of_the_presets_see_the_parity(algorithm: str) -> None:
    """And of one crystal in the batch, whatever the others are."""
    graph = GraphSettings(5.0, 10, 0.25)
    model = random_model(algorithm, graph, torch.float64)
    batch = batch_of(sample_crystals()[:3], graph, torch.float64)
    before = model(batch)
    batch.electron_parity[1] = (batch.electron_parity[1] + 1) % PARITIES
    changed = ((model(batch) - before).abs() > 1e-9).any(dim=1)
    assert changed.tolist() == [False, True, False]
