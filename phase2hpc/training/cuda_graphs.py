"""Steps replayed from CUDA graphs: passes on padded batches, one graph a shape, and the update.

A GPU waits for the launches of a small model's many short kernels; a graph is one launch. Every
batch is padded and its graph replayed, from the first on, so that a resumed run, which captures
its graphs anew, computes the same: what the passes before a capture change is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from phase2hpc.config.settings import TrainingSettings
from phase2hpc.data.crystal_data import CrystalData
from phase2hpc.data.device_arrays import PaddedBatch
from phase2hpc.data.loader import Loader
from phase2hpc.models.multitask import MultiTaskModel

# torch asks for some passes before a capture; TorchScript, of the spherical harmonics, for two.
WARM_UP_PASSES = 3

# Batch and size of the global batch -> sums (1 + P,); sets the gradients.
Passes = Callable[[CrystalData, int | Tensor], Tensor]
# Sums (1 + P,), size of the global batch and rate of the average -> whether all is finite.
Update = Callable[[Tensor, int | Tensor, float | Tensor], Tensor]


def obstacle_to_graphs(
    settings: TrainingSettings,
    model: MultiTaskModel,
    loader: Loader,
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
    if not loader.on_device:
        return "needs the store in the GPU's memory, for which it is too large: use fewer crystals"
    if not getattr(model.encoder, "capturable", False):
        return "needs an encoder that is 'capturable' (page 'Add an algorithm'): choose another"
    if processes > 1:
        return "has been tried with one process only: use one"
    return None


class GraphedPasses:
    """``passes`` on padded batches, from CUDA graphs on a GPU, otherwise as they are.

    parameters: whose gradients the passes set; from whatever graph, they are the same tensors. The
    first step of a shape takes the time of its capture.
    """

    def __init__(
        self, model: MultiTaskModel, parameters: Sequence[nn.Parameter], passes: Passes
    ) -> None:
        self.model, self.parameters, self.passes = model, parameters, passes
        self._graphs: dict[Hashable, _GraphOfShape] = {}
        self._gradients = [torch.zeros_like(parameter) for parameter in parameters]

    @property
    def captured(self) -> int:
        """Number of graphs so far."""
        return len(self._graphs)

    def __call__(self, batch: PaddedBatch, size: int) -> Tensor:
        """Sums (1 + P,) of ``passes``; the next call overwrites the gradients and the sums."""
        # Batch statistics, of which fewer rows have none.
        if min(batch.num_nodes, batch.num_edges) < 2:
            sums = self.passes(batch.unpadded(), size)
            self.share_gradients()
            return sums
        numbers = batch.numbers(size)
        if not batch.on_gpu:
            return self.passes(batch.tensors(numbers), numbers[-1])
        # An encoder that is frozen for some epochs has other passes then.
        key = (batch.shape, self.model.encoder.training)
        if key not in self._graphs:
            self._graphs[key] = _GraphOfShape(self, batch, numbers)
        return self._graphs[key].replay(numbers)

    def share_gradients(self) -> list[nn.Parameter]:
        """Copy the gradients to the tensors of all graphs. Returns the parameters that have one."""
        pairs = zip(self.parameters, self._gradients, strict=True)
        known = [(parameter, shared) for parameter, shared in pairs if parameter.grad is not None]
        own: list[Tensor] = [parameter.grad for parameter, _ in known]  # type: ignore[misc]
        torch._foreach_copy_([shared for _, shared in known], own)
        for parameter, shared in known:
            parameter.grad = shared
        return [parameter for parameter, _ in known]

    @property
    def memory(self) -> Any:
        """Memory pool of all graphs, of which one runs at a time; None before the first."""
        return next((graph.graph.pool() for graph in self._graphs.values()), None)


class _GraphOfShape:
    """The passes of one shape of batches, from the numbers of a batch on."""

    def __init__(self, owner: GraphedPasses, batch: PaddedBatch, numbers: Tensor) -> None:
        self.numbers, device = numbers.clone(), numbers.device
        buffers = list(owner.model.buffers())
        before = [buffer.clone() for buffer in buffers]
        random = torch.cuda.get_rng_state(device)

        def passes() -> Tensor:
            _forget_gradients(owner.parameters)
            return owner.passes(batch.tensors(self.numbers), self.numbers[-1])

        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_PASSES):
                passes()
        torch.cuda.current_stream(device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=owner.memory):
            self.sums = passes()
            self.parameters = owner.share_gradients()
        self.gradients = [parameter.grad for parameter in self.parameters]
        if buffers:
            torch._foreach_copy_(buffers, before)
        torch.cuda.set_rng_state(random, device)

    def replay(self, numbers: Tensor) -> Tensor:
        self.numbers.copy_(numbers)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.sums


class GraphedUpdate:
    """``update`` from a CUDA graph, with the learning rate, as all that differs, on the GPU.

    The first call runs as it is, since the optimiser makes its state then. Gradients must be in the
    same tensors at every call.
    """

    def __init__(self, update: Update, optimizer: Optimizer, model: MultiTaskModel) -> None:
        self.update, self.optimizer, self.model = update, optimizer, model
        # Size of the batch, learning rate, rate of the average.
        self._numbers: Tensor | None = None
        self._graphs: dict[bool, tuple[torch.cuda.CUDAGraph, Tensor, Tensor] | None] = {}

    def forget(self) -> None:
        """Capture anew: the optimiser has another state."""
        self._graphs.clear()

    def __call__(self, sums: Tensor, size: int, average_rate: float) -> Tensor:
        """As ``update``."""
        groups = self.optimizer.param_groups
        rate = groups[0]["lr"]
        numbers = torch.tensor([size, rate, average_rate], dtype=torch.float32).pin_memory()
        if self._numbers is None:
            self._numbers = torch.empty_like(numbers, device=sums.device)
        self._numbers.copy_(numbers, non_blocking=True)
        # As of ``GraphedPasses``.
        key = self.model.encoder.training
        if key not in self._graphs:
            self._graphs[key] = None
            with self._rate_on_device(capturable=False):
                return self.update(sums, self._numbers[0], self._numbers[2])
        if self._graphs[key] is None:
            graph, own_sums = torch.cuda.CUDAGraph(), sums.clone()
            with self._rate_on_device(capturable=True), torch.cuda.graph(graph):
                good = self.update(own_sums, self._numbers[0], self._numbers[2])
            self._graphs[key] = graph, own_sums, good
        captured = self._graphs[key]
        assert captured is not None
        graph, own_sums, good = captured
        own_sums.copy_(sums)
        graph.replay()
        return good.clone()

    @contextmanager
    def _rate_on_device(self, *, capturable: bool) -> Iterator[None]:
        """Settings of the optimiser for a step with the learning rate on the GPU.

        They are put back, since they are part of the state that is saved. capturable: torch asks
        for it in a capture, and warns of it elsewhere.
        """
        assert self._numbers is not None
        groups = self.optimizer.param_groups
        before = [(group["lr"], group["capturable"]) for group in groups]
        for group in groups:
            group["lr"], group["capturable"] = self._numbers[1], capturable
        try:
            yield
        finally:
            for group, (rate, known) in zip(groups, before, strict=True):
                group["lr"], group["capturable"] = rate, known


def _forget_gradients(parameters: Sequence[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None
