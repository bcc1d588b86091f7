"""Batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167) over all ranks of a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import batch_norm


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm1d with the statistics of the global batch, without padding.

    A step therefore does not depend on the number of processes. Fewer than two rows (one
    single-atom crystal, atoms without neighbours) have no variance: they are normalised as in
    evaluation. ``torch.nn.SyncBatchNorm`` knows no padding and runs on GPUs only.
    """

    def forward(  # type: ignore[override]
        self, x: Tensor, weight: Tensor, padded: bool = False
    ) -> Tensor:
        """x: (N, F). weight: (N,), one, or zero for padded rows. Returns (N, F).

        padded: there are such rows within a single process too, beside two others or more.
        """
        if self.training and _among_others():
            normalised: Tensor = self._over_all_ranks(x, weight.unsqueeze(1))
            return normalised
        if self.training and padded:
            return self._over_unpadded(x, weight.unsqueeze(1))
        if len(x) >= 2:
            return super().forward(x)
        return self._as_in_evaluation(x)

    def uses_batch_alone(self, rows: int, padded: bool = False) -> bool:
        """True where each of this many rows counts, and no rows of other processes do."""
        return self.training and rows >= 2 and not padded and not _among_others()

    @torch.no_grad()
    def count_batch(self, mean: Tensor, variance: Tensor, count: int | Tensor) -> None:
        """Update the running statistics by those of a batch of ``count`` rows."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        unbiased = variance * (count / (count - 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)

    def _as_in_evaluation(self, x: Tensor) -> Tensor:
        return batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )

    # torch.compile cannot trace the collectives.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _over_all_ranks(self, x: Tensor, weight: Tensor) -> Tensor:
        sums = _sum_over_ranks(torch.cat([(weight * x).sum(0), weight.sum(0)]))
        count = sums[-1].detach()
        if count < 2:
            return self._as_in_evaluation(x)
        mean = sums[:-1] / count
        # A second collective, for a variance without cancellation.
        variance = _sum_over_ranks((weight * (x - mean) ** 2).sum(0)) / count
        self.count_batch(mean, variance, count)
        return self._normalised(x, mean, variance)

    def _over_unpadded(self, x: Tensor, weight: Tensor) -> Tensor:
        count = weight.detach().sum()
        mean = (weight * x).sum(0) / count
        variance = (weight * (x - mean) ** 2).sum(0) / count
        self.count_batch(mean, variance, count)
        return self._normalised(x, mean, variance)

    def _normalised(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return (x - mean) * torch.rsqrt(variance + self.eps) * self.weight + self.bias


def has_batch_statistics(model: nn.Module) -> bool:
    return any(isinstance(module, nn.BatchNorm1d) for module in model.modules())


def _among_others() -> bool:
    return distributed.is_available() and distributed.is_initialized()


class _SumOverRanks(torch.autograd.Function):
    """Sum over all ranks; its gradient is the sum of the gradients of all ranks."""

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
