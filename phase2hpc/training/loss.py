"""Multi-task loss with missing labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Of a loss of 3e-4. The loss of a property whose labels are all at its bound becomes exactly zero.
MIN_LOG_SCALE = -8.0


class MultiTaskLoss(nn.Module):
    """Huber loss on scaled targets, each property weighted by a learned or an equal weight.

    A property's loss is summed over its labelled crystals and divided by (global batch size x its
    label fraction in training), so that its expectation is the mean over labelled crystals,
    independent of their number in the batch. Its weight is label_fraction ** label_weight_power,
    normalised over the properties: with power 1 all labels count equally, with 0 all properties.
    With 0, a label that 4% of crystals have causes rare but 25 times larger steps; on val, power
    1 learns all properties sooner (benchmarks/RESULTS.md).

    A label at or below the lower bound of its property, as the gap of a metal is, asks for no more
    than a prediction at or below the bound, for predictions are clipped to it: a model has not to
    hit zero, but to find the crystals that are above it (Tobin, Econometrica 26, 24 (1958)).

    Learned weights (Kendall et al., CVPR 2018, arXiv:1705.07115) replace a property's loss by
    exp(-s) loss + s, with one parameter s per property, both over the labelled crystals: a
    property without labels in a batch has no gradient. s leaves out labels at the bound that are
    met: they would lower the mean loss of a gap and raise its weight, at the cost of the others
    (benchmarks/RESULTS.md).
    """

    label_fraction: Tensor
    # (P,) of scaled predictions, -inf for none.
    lower_bound: Tensor
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
        none = torch.full_like(label_fraction, -torch.inf)
        self.register_buffer("lower_bound", none, persistent=False)
        weight = label_fraction**label_weight_power
        self.register_buffer("weight", weight / weight.sum(), persistent=False)
        self.log_scale = nn.Parameter(torch.zeros_like(label_fraction)) if learned_weights else None

    def forward(
        self, prediction: Tensor, target: Tensor, weight: Tensor, batch_size: int | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Total loss, and the loss of each property, (P,), detached and without its weight.

        prediction, target: (B, P) scaled, NaN where there is no label. weight: (B,), zero for
        padding. batch_size: crystals of the global batch; a tensor, (), in a CUDA graph.
        """
        labelled = torch.isfinite(target)
        # Masked before the loss: NaN x 0 would give a NaN gradient.
        bounded = torch.maximum(target, self.lower_bound)
        error = torch.where(labelled, prediction - bounded.nan_to_num(0.0), 0.0)
        at_bound = bounded <= self.lower_bound
        error = torch.where(at_bound, error.clamp(min=0.0), error).abs()
        met = at_bound & (error == 0.0)
        delta = self.huber_delta
        huber = torch.where(error < delta, 0.5 * error**2 / delta, error - 0.5 * delta)
        counted = labelled * weight.unsqueeze(1) / (batch_size * self.label_fraction)
        losses = (huber * counted).sum(dim=0)
        weighed = losses
        if self.log_scale is not None:
            log_scale = self.log_scale.clamp(min=MIN_LOG_SCALE)
            weighed = torch.exp(-log_scale) * losses + log_scale * (counted * ~met).sum(dim=0)
        return (self.weight * weighed).sum(), losses.detach()
