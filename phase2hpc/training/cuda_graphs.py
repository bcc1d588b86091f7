"""Forward and backward passes replayed from CUDA graphs, one for each shape of padded batches.

A GPU waits for the launches of a small model's many short kernels; a graph is one launch. Every
batch is padded and its graph replayed, from the first on, so that a resumed run, which captures
its graphs anew, computes the same: what the passes before a capture change is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor, nn

from phase2hpc.config.settings import TrainingSettings
from phase2hpc.data.crystal_data import CrystalData
from phase2hpc.data.store.reader import Store
from phase2hpc.models.distributed_batch_norm import has_batch_statistics
from phase2hpc.models.multitask import MultiTaskModel
from phase2hpc.training.padding import PaddedShapes

# torch asks for some passes before a capture; TorchScript, of the spherical harmonics, for two.
WARM_UP_PASSES = 3

# Batch, targets (B, P) and size of the global batch -> sums (1 + P,); sets the gradients.
Passes = Callable[[CrystalData, Tensor, int | Tensor], Tensor]


def obstacle_to_graphs(
    settings: TrainingSettings,
    store: Store,
    model: MultiTaskModel,
    device: torch.device,
    processes: int,
) -> str | None:
    """The reason why steps cannot be replayed, with what to do instead; None where they can."""
    if device.type != "cuda":
        return f"needs a GPU, and the device is {device.type}: train on one"
    if settings.compile:
        return "cannot be joined with compile=true: choose one"
    if settings.max_edges is not None:
        return "pads whole batches, which --max-edges splits: choose one"
    if store.arrays is None:
        return f"needs the store in memory, for which {store.path} is too large: use fewer crystals"
    if not getattr(model.encoder, "capturable", False):
        return "needs an encoder that is 'capturable' (page 'Add an algorithm'): choose another"
    if processes > 1 and has_batch_statistics(model):
        return "cannot hold the collectives of batch normalisation: use one process"
    return None


class GraphedPasses:
    """``passes`` on padded batches, from CUDA graphs on a GPU, otherwise as they are.

    parameters: whose gradients the passes set. The first step of a shape takes the time of its
    capture.
    """

    def __init__(
        self,
        shapes: PaddedShapes,
        model: MultiTaskModel,
        parameters: Sequence[nn.Parameter],
        passes: Passes,
    ) -> None:
        self.shapes, self.model, self.parameters, self.passes = shapes, model, parameters, passes
        self._graphs: dict[Hashable, _Graph] = {}

    @property
    def captured(self) -> int:
        """Number of graphs so far."""
        return len(self._graphs)

    def __call__(self, batch: CrystalData, target: Tensor, size: int) -> Tensor:
        """As ``passes``; the next call overwrites the gradients and the sums."""
        # Batch statistics, of which fewer rows have none.
        if min(batch.num_nodes, batch.num_edges) < 2:
            return self.passes(batch, target, size)
        padded = self.shapes.pad(batch)
        rows = padded.num_graphs - batch.num_graphs
        target = torch.cat([target, target.new_zeros(rows, target.shape[1])])
        crystals = target.new_full((), size)
        if target.device.type != "cuda":
            return self.passes(padded, target, crystals)
        # An encoder that is frozen for some epochs has other passes then.
        key = (padded.num_nodes, padded.num_edges, self.model.encoder.training)
        if key not in self._graphs:
            first = next(iter(self._graphs.values()), None)
            self._graphs[key] = _Graph(self, padded, target, crystals, first)
        return self._graphs[key].replay(padded, target, crystals)


class _Graph:
    """The passes of one shape of batches, with memory of their own for what they read.

    other: a graph whose memory for all else they share, since only one runs at a time.
    """

    def __init__(
        self,
        owner: GraphedPasses,
        batch: CrystalData,
        target: Tensor,
        size: Tensor,
        other: _Graph | None,
    ) -> None:
        self.parameters = owner.parameters
        here, own_target, own_size = batch.clone(), target.clone(), size.clone()
        self.inputs = _tensors(here, own_target, own_size)
        buffers = list(owner.model.buffers())
        before = [buffer.clone() for buffer in buffers]
        random = torch.cuda.get_rng_state(target.device)
        stream = torch.cuda.Stream(target.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(target.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_PASSES):
                self._forget_gradients()
                owner.passes(here, own_target, own_size)
        torch.cuda.current_stream(target.device).wait_stream(stream)
        self._forget_gradients()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=None if other is None else other.graph.pool()):
            self.sums = owner.passes(here, own_target, own_size)
        self.gradients = [parameter.grad for parameter in self.parameters]
        torch._foreach_copy_(buffers, before)
        torch.cuda.set_rng_state(random, target.device)

    def replay(self, batch: CrystalData, target: Tensor, size: Tensor) -> Tensor:
        torch._foreach_copy_(self.inputs, _tensors(batch, target, size))
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.sums

    def _forget_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


def _tensors(batch: CrystalData, target: Tensor, size: Tensor) -> list[Tensor]:
    return [*(batch[name] for name in batch.keys()), target, size]  # noqa: SIM118
