"""The multi-task loss over whatever labels a batch happens to carry."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MultiTaskLoss(nn.Module):
    """Huber loss on scaled targets, each property weighed by a learned or an equal weight.

    A property's loss is summed over its labelled crystals and divided by (global batch size x its
    label fraction in training), so that its expectation is the mean over labelled crystals
    however few of them a batch holds. It then weighs label_fraction ** ``label_weight_power``,
    over the sum of these weights: with power 1 each label counts alike, with 0 each property
    does. A label that 4% of crystals have, at the weight of a common one, makes a rare but 25
    times larger step: on val 1 learns all properties sooner (benchmarks/RESULTS.md).

    Learned weights (Kendall et al., CVPR 2018, arXiv:1705.07115) turn a property's loss into
    exp(-s) loss + s, with one s a property, counted by the same labelled crystals: a property
    absent from a batch moves nothing.
    """

    label_fraction: Tensor
    weight: Tensor

    def __init__(
        self,
        label_fraction: Tensor,
        *,
        huber_delta: float,
        learned_weights: bool,
        label_weight_power: float,
    ) -> None:
        super().__init__()
        self.huber_delta = huber_delta
        self.register_buffer("label_fraction", label_fraction, persistent=False)
        weight = label_fraction**label_weight_power
        self.register_buffer("weight", weight / weight.sum(), persistent=False)
        self.log_scale = nn.Parameter(torch.zeros_like(label_fraction)) if learned_weights else None

    def forward(
        self, prediction: Tensor, target: Tensor, weight: Tensor, batch_size: int
    ) -> tuple[Tensor, Tensor]:
        """Total loss, and the loss of each property, (P,), detached and without its weight.

        prediction, target: (B, P) scaled, NaN where there is no label. weight: (B,), zero for
        padding. batch_size: crystals of the global batch.
        """
        labelled = torch.isfinite(target)
        # The difference is cut before it reaches the graph: NaN x 0 would be a NaN gradient.
        error = torch.where(labelled, prediction - target.nan_to_num(0.0), 0.0).abs()
        delta = self.huber_delta
        huber = torch.where(error < delta, 0.5 * error**2 / delta, error - 0.5 * delta)
        counted = labelled * weight.unsqueeze(1) / (batch_size * self.label_fraction)
        losses = (huber * counted).sum(dim=0)
        weighed = losses
        if self.log_scale is not None:
            weighed = torch.exp(-self.log_scale) * losses + self.log_scale * counted.sum(dim=0)
        return (self.weight * weighed).sum(), losses.detach()
