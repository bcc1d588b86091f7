"""Gate on the scalar features of each message, a function of sender, receiver and distance.

The tensor product is linear in the sender's features. The gate makes the message a nonlinear
function of both atoms and their distance, as in CGCNN (Xie and Grossman, PRL 120, 145301 (2018)),
and leaves the constant geometry of ``tensor_product`` as it is. Features of degree 1 and more pass
ungated: gating them costs the moduli 6% (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MessageGate(nn.Module):
    """2 sigmoid(W_s h_j + W_r h_i + W_e R(r_ij)) for every neighbour and scalar channel."""

    def __init__(self, channels: int, basis_size: int) -> None:
        super().__init__()
        self.channels = channels
        self.sender = nn.Linear(channels, channels)
        self.receiver = nn.Linear(channels, channels, bias=False)
        self.edge = nn.Linear(basis_size, channels, bias=False)

    def forward(self, scalars: Tensor) -> tuple[Tensor, Tensor]:
        """The parts of the argument that belong to atoms, each (N, C), computed once per atom."""
        return self.sender(scalars), self.receiver(scalars)

    def factors(self, sender: Tensor, receiver: Tensor, basis: Tensor) -> Tensor:
        """sender (n, D, C), receiver (n, C), basis (n, D, K) -> factors (n, D, C) around 1."""
        return 2.0 * torch.sigmoid(sender + receiver.unsqueeze(1) + self.edge(basis))
