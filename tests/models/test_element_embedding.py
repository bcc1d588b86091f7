"""Embedding of the elements, with and without tabulated descriptors."""

from __future__ import annotations

import torch

from phase2hpc.data.element_descriptors import element_descriptors
from phase2hpc.data.elements import ATOMIC_NUMBERS, MAX_ATOMIC_NUMBER
from phase2hpc.models.element_embedding import ElementEmbedding


@torch.no_grad()
def test_descriptors_are_added_through_one_linear_map() -> None:
    embedding = ElementEmbedding(8, descriptors=True)
    species = torch.tensor([8, 22, 56])
    projection = embedding.projection
    assert projection is not None
    table = torch.tensor(element_descriptors())
    expected = embedding.weight[species] + projection(table[species])
    torch.testing.assert_close(embedding(species), expected)


@torch.no_grad()
def test_without_descriptors_it_is_the_table() -> None:
    embedding = ElementEmbedding(8, descriptors=False)
    assert [*embedding.state_dict()] == ["weight"]
    species = torch.arange(MAX_ATOMIC_NUMBER + 1)
    assert torch.equal(embedding(species), embedding.weight)


@torch.no_grad()
def test_a_model_keeps_the_descriptors_it_was_trained_with() -> None:
    trained = ElementEmbedding(8, descriptors=True)
    trained.descriptors += 1.0  # as if the package's table had changed since
    restored = ElementEmbedding(8, descriptors=True)
    restored.load_state_dict(trained.state_dict())
    iron = torch.tensor([ATOMIC_NUMBERS["Fe"]])
    assert torch.equal(restored(iron), trained(iron))
