"""Messages of CGCNN in training, summed over each atom's edges, computed block by block of edges.

The tensors of all edges are far larger than the caches of a CPU, and a step written as plain
operations passes over them some forty times. Here one block of edges goes through all operations
of a pass before the next does; only the linear layer's output and its gradient are kept whole.
Equal to the plain operations up to rounding (tests/models/test_cgcnn.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

# A block of 2 x 128 features in float32 takes 1 MB.
BLOCK = 1024


def _blocks(edges: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, edges)) for start in range(0, edges, BLOCK))


class _EdgeMessages(torch.autograd.Function):
    """Linear layer, batch normalisation, gate x core x edge weight, and the sum over edges."""

    @staticmethod
    def forward(
        ctx: Any,
        edges: Tensor,
        edge_weight: Tensor,
        edge_index: Tensor,
        of_sender: Tensor,
        of_receiver: Tensor,
        matrix: Tensor,
        gain: Tensor,
        bias: Tensor,
        epsilon: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The sum (N, F), and mean and variance over the edges, (2 F,).

        edges (E, K), edge_weight (E, 1), of_sender and of_receiver (N, 2 F), matrix (2 F, K).
        """
        receiver = edge_index[1]
        (count, _), (atoms, width) = edges.shape, of_sender.shape
        features = width // 2
        # The mean of the linear layer's output is that layer of the mean; without it the variance
        # is a sum of squares.
        tables = torch.cat([of_sender, of_receiver])
        both = torch.stack([edge_index[0], receiver + atoms], dim=1)
        times = torch.bincount(both.flatten(), minlength=2 * atoms).to(tables.dtype)
        mean = (times @ tables + matrix @ edges.sum(dim=0)) / count
        tables[atoms:] -= mean
        z = edges.new_empty(count, width)
        squares = torch.zeros_like(mean)
        for rows in _blocks(count):
            atom_part = embedding_bag(both[rows], tables, mode="sum")
            torch.addmm(atom_part, edges[rows], matrix.t(), out=z[rows])
            squares += torch.square(z[rows], out=atom_part).sum(dim=0)
        variance = squares / count
        rate = torch.rsqrt(variance + epsilon)
        scale = rate * gain
        # softplus(x) = -log(sigmoid(-x)): one sigmoid serves both halves and the backward pass.
        # It ends where sigmoid(-x) is no normal number any more, at x = 87 in float32.
        sign = torch.ones_like(mean)
        sign[features:] = -1
        signed_scale, signed_bias = sign * scale, sign * bias
        smallest = torch.finfo(z.dtype).tiny
        weight = -edge_weight
        sigmoids, logs = torch.empty_like(z), z.new_empty(count, features)
        summed = edges.new_zeros(atoms, features)
        for rows in _blocks(count):
            block = torch.addcmul(signed_bias, z[rows], signed_scale, out=sigmoids[rows])
            block.sigmoid_()
            torch.log(block[:, features:].clamp_(min=smallest), out=logs[rows])
            message = (block[:, :features] * logs[rows]).mul_(weight[rows])
            summed.index_add_(0, receiver[rows], message)
        ctx.save_for_backward(edges, weight, edge_index, z, sigmoids, logs, rate, scale)
        ctx.mark_non_differentiable(mean, variance)
        return summed, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        edges, weight, edge_index, z, sigmoids, logs, rate, scale = ctx.saved_tensors
        sender, receiver = edge_index
        count, features = logs.shape
        of_normalised = torch.empty_like(z)
        of_bias, of_gain = torch.zeros_like(rate), torch.zeros_like(rate)
        for rows in _blocks(count):
            gate, core = sigmoids[rows, :features], sigmoids[rows, features:]
            message = gradient.index_select(0, receiver[rows]).mul_(weight[rows]).mul_(gate)
            block = of_normalised[rows]
            torch.addcmul(-message, message, core, out=block[:, features:])
            message *= logs[rows]
            torch.addcmul(message, message, gate, value=-1.0, out=block[:, :features])
            of_bias += block.sum(dim=0)
            of_gain += (z[rows] * block).sum(dim=0)
        of_gain *= rate
        # z's gradient is scale * (g - mean of g - normalised z * mean of g * normalised z).
        slope = -scale * rate * of_gain / count
        offset = -scale * of_bias / count
        of_sender = gradient.new_zeros(len(gradient), 2 * features)
        of_receiver = torch.zeros_like(of_sender)
        of_matrix = gradient.new_zeros(2 * features, edges.shape[1])
        for rows in _blocks(count):
            block = torch.addcmul(offset, of_normalised[rows], scale)
            block.addcmul_(z[rows], slope)
            of_matrix.addmm_(block.t(), edges[rows])
            of_sender.index_add_(0, sender[rows], block)
            of_receiver.index_add_(0, receiver[rows], block)
        return None, None, None, of_sender, of_receiver, of_matrix, of_gain, of_bias, None


def edge_messages(
    edges: Tensor,
    edge_weight: Tensor,
    edge_index: Tensor,
    of_sender: Tensor,
    of_receiver: Tensor,
    matrix: Tensor,
    gain: Tensor,
    bias: Tensor,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """As ``_EdgeMessages.forward``; mean and variance have no gradient."""
    out: tuple[Tensor, Tensor, Tensor] = _EdgeMessages.apply(  # type: ignore[no-untyped-call]
        edges, edge_weight, edge_index, of_sender, of_receiver, matrix, gain, bias, epsilon
    )
    return out
