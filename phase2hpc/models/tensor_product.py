"""Tensor products of neighbour features with constant edge geometry, as batched matrix products.

A property model needs no forces, so the geometry of a batch is constant: spherical harmonics,
Clebsch-Gordan coefficients and radial functions are combined once per batch into one operator
per atom and degree l, shared by all layers, and a message passing step is a batched matrix product
of it with the senders' features:

    A[i, m3, (k, l2), u] = sum over edges j and m1 of G[i, m3, (k, l2), (j, m1)] h[j, m1, u]
    G[i, m3, (k, l2), (j, m1)] = R_k(r_ij) sum over m2 of CG[l1 m1, l2 m2, l3 m3] Y[l2 m2](r_ij)

Radial and channel mixing then act per atom, as one matrix product (k, l2, u) -> v. This equals
e3nn's fully connected ('uvw') tensor product with per-edge weights w[p, u, v](r) = sum_k
R_k(r) W[k, p, u, v] (tests/models/test_equivariant.py), at none of its per-edge cost.

Geiger and Smidt, e3nn (arXiv:2207.09453).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from phase2hpc.models.edge_operators import Operators, sh_degrees
from phase2hpc.models.message_gate import MessageGate

# Features of degree l, by l: (N, 2l+1, channels). Components come before channels, so that every
# mixing of channels is one matrix product.
Features = dict[int, Tensor]


class _Contraction(torch.autograd.Function):
    """Sum over the pairs of degrees of operator x features of the neighbours x weight.

    As plain operations (tests/models/test_equivariant.py) it would run bucket by bucket; its own
    backward pass makes one weight product, gather and scatter of all buckets.
    """

    @staticmethod
    def forward(
        ctx: Any,
        operators: Operators,
        pairs: list[tuple[int, int]],
        degrees: list[int],
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        """tensors: features by slot (T, (2l+1) * C) of ``degrees``, then the weights of ``pairs``.

        Returns (N, 2l+1, C) of each degree out, ascending.
        """
        gathered = dict(zip(degrees, tensors, strict=False))
        weights = tensors[len(degrees) :]
        total: dict[int, Tensor] = {}
        collected = []
        for (a, b), weight in zip(pairs, weights, strict=True):
            h = gathered[a]
            channels = h.shape[1] // (2 * a + 1)
            matrices = operators.matrices[a, b]
            product = h.new_empty(operators.atoms, matrices[0].shape[1], channels)
            for bucket, g in zip(operators.buckets, matrices, strict=True):
                torch.bmm(
                    g,
                    h[bucket.first : bucket.last].view(bucket.atoms, -1, channels),
                    out=product[bucket.start : bucket.stop],
                )
            product = product.view(operators.atoms * (2 * b + 1), -1)
            collected.append(product)
            if b in total:
                total[b].addmm_(product, weight)
            else:
                total[b] = product @ weight
        ctx.save_for_backward(*tensors, *collected)
        ctx.operators, ctx.pairs, ctx.degrees = operators, pairs, degrees
        return tuple(total[b].view(operators.atoms, 2 * b + 1, -1) for b in sorted(total))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        operators, pairs, degrees = ctx.operators, ctx.pairs, ctx.degrees
        tensors = ctx.saved_tensors
        gathered = dict(zip(degrees, tensors, strict=False))
        weights = tensors[len(degrees) : len(degrees) + len(pairs)]
        collected = tensors[len(degrees) + len(pairs) :]
        wanted = dict(zip(degrees, ctx.needs_input_grad[3:], strict=False))
        out = sorted({b for _, b in pairs})
        flat = {b: grad.reshape(-1, grad.shape[2]) for b, grad in zip(out, gradients, strict=True)}
        of_weights = []
        of_gathered: dict[int, Tensor] = {}
        for (a, b), weight, product in zip(pairs, weights, collected, strict=True):
            of_weights.append(product.t() @ flat[b])
            if not wanted[a]:
                continue
            channels = gathered[a].shape[1] // (2 * a + 1)
            of_product = (flat[b] @ weight.t()).view(operators.atoms, -1, channels)
            first_of_degree = a not in of_gathered
            if first_of_degree:
                of_gathered[a] = torch.empty_like(gathered[a])
            for bucket, g in zip(operators.buckets, operators.matrices[a, b], strict=True):
                target = of_gathered[a][bucket.first : bucket.last]
                target = target.view(bucket.atoms, -1, channels)
                part = of_product[bucket.start : bucket.stop]
                if first_of_degree:
                    torch.bmm(g.transpose(1, 2), part, out=target)
                else:
                    torch.baddbmm(target, g.transpose(1, 2), part, out=target)
        return (None, None, None, *(of_gathered.get(l) for l in degrees), *of_weights)


# Matrix products gain nothing from torch.compile, which would compile each number of buckets anew.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def contract(
    operators: Operators,
    pairs: list[tuple[int, int]],
    gathered: Features,
    weights: Sequence[Tensor],
) -> Features:
    """Features (N, 2l+1, C) from those of the neighbours, by slot (T, (2l+1) * C)."""
    out: tuple[Tensor, ...] = _Contraction.apply(  # type: ignore[no-untyped-call]
        operators, pairs, list(gathered), *gathered.values(), *weights
    )
    return dict(zip(sorted({b for _, b in pairs}), out, strict=True))


class Convolution(nn.Module):
    """Fully connected tensor product of the neighbours' features with the edges, summed per atom.

    channels_in, channels_out: number of channels by degree l = 0, 1, ... (0: it is absent).
    gate_basis_size: Gaussians of the gate on the senders' scalars; 0: none.
    """

    def __init__(
        self,
        channels_in: Sequence[int],
        channels_out: Sequence[int],
        lmax: int,
        basis_size: int,
        gate_basis_size: int = 0,
    ) -> None:
        super().__init__()
        self.gate = MessageGate(channels_in[0], gate_basis_size) if gate_basis_size else None
        self.channels_out = channels_out
        self.pairs = [
            (a, b)
            for b, n_out in enumerate(channels_out)
            for a, n_in in enumerate(channels_in)
            if n_in and n_out and sh_degrees(a, b, lmax)
        ]
        fan_in = {
            b: sum(
                basis_size * len(sh_degrees(a, b, lmax)) * channels_in[a]
                for a, c in self.pairs
                if c == b
            )
            for _, b in self.pairs
        }
        self.weight = nn.ParameterDict()
        for a, b in self.pairs:
            rows = basis_size * len(sh_degrees(a, b, lmax)) * channels_in[a]
            self.weight[f"{a}_{b}"] = nn.Parameter(
                torch.randn(rows, channels_out[b]) / math.sqrt(fan_in[b])
            )

    def forward(self, features: Features, operators: Operators) -> Features:
        gathered: Features = {}
        # Autocast has its place in the precision of the operators alone.
        with torch.autocast(operators.sender.device.type, enabled=False):
            for l in sorted({a for a, _ in self.pairs}):
                h = features[l].flatten(1)
                if l == 0 and self.gate is not None:
                    h = self.gate(h, operators)
                else:
                    h = h.index_select(0, operators.sender)
                gathered[l] = h.to(operators.dtype)
            weights = [self.weight[f"{a}_{b}"].to(operators.dtype) for a, b in self.pairs]
            message: Features = contract(operators, self.pairs, gathered, weights)
            return message
