"""Batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167) over a batch that several
processes share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import batch_norm


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm1d whose statistics are those of the global batch, its padding left out.

    So a step does not depend on how many processes take it. It also trains on fewer than two
    rows, which have no variance: a batch of one single-atom crystal, or of atoms without
    neighbours, is normalised as in evaluation.
    """

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:  # type: ignore[override]
        """x: (N, F). weight: (N,), one, or zero for rows of padding."""
        if self.training and distributed.is_available() and distributed.is_initialized():
            normalised: Tensor = self._over_all_ranks(x, weight.unsqueeze(1))
            return normalised
        # Without other processes there is no padding.
        if len(x) >= 2:
            return super().forward(x)
        return self._as_in_evaluation(x)

    def _as_in_evaluation(self, x: Tensor) -> Tensor:
        return batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )

    # A compiler does not see through the exchange, and says so at length.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _over_all_ranks(self, x: Tensor, weight: Tensor) -> Tensor:
        sums = _sum_over_ranks(torch.cat([(weight * x).sum(0), weight.sum(0)]))
        count = sums[-1].detach()
        if count < 2:
            return self._as_in_evaluation(x)
        mean = sums[:-1] / count
        # A second exchange, but a variance that does not cancel.
        variance = _sum_over_ranks((weight * (x - mean) ** 2).sum(0)) / count
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None
            assert self.num_batches_tracked is not None and self.momentum is not None
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = variance * (count / (count - 1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        return (x - mean) * torch.rsqrt(variance + self.eps) * self.weight + self.bias


class _SumOverRanks(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        distributed.all_reduce(total)
        return total


def _sum_over_ranks(x: Tensor) -> Tensor:
    total: Tensor = _SumOverRanks.apply(x)  # type: ignore[no-untyped-call]
    return total
