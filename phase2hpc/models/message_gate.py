"""Gate on the scalar features of each message, a function of sender, receiver and distance.

The tensor product is linear in the sender's features. The gate makes the message a nonlinear
function of both atoms and their distance, as in CGCNN (Xie and Grossman, PRL 120, 145301 (2018)),
and leaves the constant geometry of ``tensor_product`` as it is. Features of degree 1 and more pass
ungated: gating them costs the moduli 6% (benchmarks/RESULTS.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from phase2hpc.models.edge_operators import Operators


class _GatedGather(torch.autograd.Function):
    """Scalars of the neighbours times their gates, with one pass over the slots each way."""

    @staticmethod
    def forward(
        ctx: Any,
        operators: Operators,
        scalars: Tensor,
        sender: Tensor,
        receiver: Tensor,
        weight: Tensor,
    ) -> Tensor:
        """scalars, sender and receiver (N, C), weight (C, K_gate) -> (T, C)."""
        assert operators.gate_basis is not None
        gate = operators.gate_basis @ weight.t()
        gate += sender.index_select(0, operators.sender)
        for bucket in operators.buckets:
            rows = gate[bucket.first : bucket.last].view(bucket.atoms, -1, gate.shape[1])
            rows += receiver[bucket.start : bucket.stop].unsqueeze(1)
        gate.sigmoid_()
        ungated = scalars.index_select(0, operators.sender).mul_(2.0)
        ctx.save_for_backward(gate, ungated)
        ctx.operators = operators
        return ungated * gate

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        gate, ungated = ctx.saved_tensors
        operators: Operators = ctx.operators
        assert operators.gate_basis is not None
        channels = gate.shape[1]
        gated = gradient * gate
        # d sigmoid = gate (1 - gate)
        of_argument = torch.addcmul(gated, gated, gate, value=-1.0).mul_(ungated)
        of_receiver = gate.new_empty(operators.atoms, channels)
        for bucket in operators.buckets:
            rows = of_argument[bucket.first : bucket.last].view(bucket.atoms, -1, channels)
            torch.sum(rows, dim=1, out=of_receiver[bucket.start : bucket.stop])
        zeros = gate.new_zeros(operators.atoms, channels)
        return (
            None,
            zeros.index_add(0, operators.sender, gated, alpha=2),
            zeros.index_add_(0, operators.sender, of_argument),
            of_receiver,
            of_argument.t() @ operators.gate_basis,
        )


class MessageGate(nn.Module):
    """h_j 2 sigmoid(W_s h_j + W_r h_i + W_e R(r_ij)) for every neighbour and scalar channel."""

    def __init__(self, channels: int, basis_size: int) -> None:
        super().__init__()
        self.channels = channels
        self.sender = nn.Linear(channels, channels)
        self.receiver = nn.Linear(channels, channels, bias=False)
        self.edge = nn.Linear(basis_size, channels, bias=False)

    # As ``tensor_product.contract``.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, scalars: Tensor, operators: Operators) -> Tensor:
        """Scalars of the atoms (N, C) -> gated scalars of the neighbours by slot, (T, C)."""
        gated: Tensor = _GatedGather.apply(  # type: ignore[no-untyped-call]
            operators, scalars, self.sender(scalars), self.receiver(scalars), self.edge.weight
        )
        return gated
