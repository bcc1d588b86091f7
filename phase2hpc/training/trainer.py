"""Trainer: model, data, optimiser and one optimisation step."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from phase2hpc.checkpointing.rng_state import seed_everything
from phase2hpc.config.algorithm_registry import algorithm_named
from phase2hpc.config.run_config import RunConfig
from phase2hpc.data.crystal_data import CrystalData
from phase2hpc.data.device_arrays import PaddedBatch
from phase2hpc.data.loader import make_loader, to_device
from phase2hpc.data.padding import PaddedShapes
from phase2hpc.data.sampler import training_crystals
from phase2hpc.data.store.reader import Store
from phase2hpc.errors import InputError
from phase2hpc.inference.batched import Outputs, compositions, infer
from phase2hpc.inference.devices import choose_device
from phase2hpc.inference.out_of_memory import out_of_memory_errors
from phase2hpc.inference.target_scaler import TargetScaler, composition_baseline
from phase2hpc.inference.trained_model import TrainedModel, graph_differences
from phase2hpc.models.distributed_batch_norm import has_batch_statistics
from phase2hpc.models.multitask import MultiTaskModel, build_model
from phase2hpc.training.compile import compilation_errors, compiled
from phase2hpc.training.cuda_graphs import GraphedPasses, GraphedUpdate, obstacle_to_graphs
from phase2hpc.training.distributed.world import World
from phase2hpc.training.ema import AveragedModel
from phase2hpc.training.loss import MultiTaskLoss
from phase2hpc.training.lr_schedule import learning_rate, parameter_groups
from phase2hpc.training.nonfinite_steps import NonfiniteSteps
from phase2hpc.training.symmetry_labels import without_symmetry_zeros

log = logging.getLogger(__name__)

# On a GPU.
STEPS_BETWEEN_SYNCS = 16
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bf16": torch.float32}


def _check_columns(config: RunConfig, store: Store) -> None:
    """Raise InputError for a log scale or a lower bound that the store's labels contradict."""
    for name in (*config.properties, *config.auxiliary):
        column = store.labels.get(name)
        if column is None:
            continue
        known = column[np.isfinite(column)]
        settings = config.column(name)
        if settings.scale == "log" and (bad := int((known <= 0).sum())):
            raise InputError(
                f"{name}: a log scale needs positive labels, {bad} of {len(known)} in {store.path} "
                f"are zero or below (the lowest is {known.min():g}): give --column "
                f"{name}:scale=asinh"
            )
        bound = settings.lower_bound
        if bound is not None and len(known) and bound > np.median(known):
            raise InputError(
                f"{name}: its lower bound of {bound:g} is above half of the labels (their median "
                f"is {np.median(known):g}): give --column {name}:min=..., in the unit of the labels"
            )


class Interrupted(Exception):
    """A stop was requested between two batches of an evaluation, on this rank or another."""


class Trainer:
    """Everything that a step needs and ``trainer_state`` saves.

    history: one record per finished epoch (``history.json``). best_score: the lowest mean over
    properties of val MAE / MAD so far, of epoch ``best_epoch`` (from 1; 0: none yet).
    training_labels: (N, outputs), NaN where missing or decided by symmetry.
    outputs: the properties of the model's heads: ``properties``, which are scored, then auxiliary
    ones. loss_sums: (1 + P,) sums over this epoch's crystals of the loss and each output's loss.
    counted: number of these crystals.
    """

    def __init__(self, config: RunConfig, store: Store, world: World | None = None) -> None:
        self.config, self.store, self.world = config, store, world or World()
        self.settings = config.training
        self.device = choose_device(config.runtime.device)
        self.dtype = DTYPES[self.settings.precision]
        self.properties = config.properties
        # Properties that the model has heads for.
        self.outputs = (*config.properties, *config.auxiliary)
        self.val = store.split_indices("val")
        for name in ("train", "val"):
            if len(store.split_indices(name)) == 0:
                raise InputError(f"{store.path}: its {name} split is empty, prepare it again")
        self.train = training_crystals(store, self.outputs, self.settings.max_samples, config.seed)
        if not np.isfinite(self.labels(self.val)).any():
            raise InputError(
                f"{store.path}: no crystal of its val split has a label of "
                f"{', '.join(self.properties)}, so no best epoch can be selected: prepare it "
                "with another --split"
            )
        everything = self.labels(np.arange(len(store)), self.outputs)
        self.training_labels = without_symmetry_zeros(store, everything, self.outputs)
        self.targets = torch.empty(self.training_labels.shape, dtype=self.dtype, device=self.device)
        labels = self.training_labels[self.train]
        _check_columns(config, store)
        auxiliary = len(config.auxiliary)
        self.scaler = TargetScaler.fit(self.outputs, labels, config.columns, auxiliary=auxiliary)
        self.loader = make_loader(
            store,
            self.train,
            batch_size=self.settings.batch_size,
            seed=config.seed,
            dtype=self.dtype,
            rank=self.world.rank,
            world_size=self.world.size,
        )
        self.loader.keep_on_gpu(self.device)
        seed_everything(config.seed)
        self.model = build_model(
            algorithm_named(config.algorithm), config.model, store.graph_settings, self.outputs
        ).to(self.device, self.dtype)
        if self.world.size > 1 and self.settings.max_edges and has_batch_statistics(self.model):
            raise InputError(
                f"--max-edges: {config.algorithm} normalises over the batch, which several "
                "processes can only do together: leave it out, or use more processes instead"
            )
        # Computed once: it reads a store that does not fit in memory from disk.
        composition = compositions(store, self.train)
        self.elements: list[int] = np.flatnonzero(composition.sum(axis=0)).tolist()
        if self.settings.element_baseline:
            baseline = composition_baseline(composition, self.scaler.transform(labels))
            self.model.element.weight.data.copy_(baseline)
        # Initial weights may round differently on another CPU model.
        self.world.broadcast(iter(self.model.state_dict().values()))
        if self.world.rank > 0:
            seed_everything(config.seed, self.world.rank)
        self.loss = MultiTaskLoss(
            torch.tensor(self.scaler.label_fraction, dtype=self.dtype),
            huber_delta=self.settings.huber_delta,
            learned_weights=self.settings.task_weights == "learned",
            label_weight_power=self.settings.label_weight_power,
        ).to(self.device)
        # Targets, and their bounds in the loss.
        self.set_scaler(self.scaler)
        self.averaged = AveragedModel(self.model, self.settings.ema_decay)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, self.loss, self.settings.weight_decay),
            lr=self.settings.lr,
            # A fifth of the time of the default, with the same result up to rounding.
            fused=True,
        )
        self.parameters = [*self.model.parameters()]
        if self.settings.precision == "bf16" and self.device.type == "cpu" and self.world.is_main:
            log.warning(
                "precision=bf16 on a CPU is slower than float32: torch prepares its products anew "
                "for every shape, and batches differ in shape"
            )
        self.forward: Callable[[CrystalData], Tensor] = self.model
        if self.settings.compile:
            self.forward = compiled(self.model, self.device)
        self.graphed: GraphedPasses | None = None
        self.graphed_update: GraphedUpdate | None = None
        if self.settings.cuda_graphs != "off":
            obstacle = obstacle_to_graphs(
                self.settings, self.model, self.loader, self.device, self.world.size
            )
            if not obstacle:
                self.use_graphs()
            elif self.settings.cuda_graphs == "on":
                raise InputError(f"cuda_graphs=on {obstacle}, or set cuda_graphs=auto")
            elif self.device.type == "cuda" and self.world.is_main:
                log.warning("steps are slower without CUDA graphs: cuda_graphs %s", obstacle)
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.best_score = math.inf
        self.best_epoch = 0
        self.skipped = NonfiniteSteps()
        # Outcomes are read from the device every so many steps: on a GPU each read waits for it.
        self.steps_between_syncs = 1 if self.device.type == "cpu" else STEPS_BETWEEN_SYNCS
        self._unread: list[tuple[int, int, Tensor]] = []
        self.loss_sums = torch.zeros(1 + len(self.outputs), device=self.device, dtype=torch.float64)
        self.counted = 0

    def use_graphs(self) -> None:
        """Take the steps on padded batches, and as CUDA graphs where there is a GPU."""
        assert self.store.arrays is not None
        share = -(-self.settings.batch_size // self.world.size)
        self.loader.keep_on(self.device)
        self.loader.pad_to(PaddedShapes.of_crystals(self.store.arrays, self.train, share))
        self.graphed = GraphedPasses(
            self.model, [*self.parameters, *self.loss.parameters()], self._passes
        )
        if self.device.type == "cuda":
            # The trainer before, of another member of an ensemble, is in a cycle with its graphs,
            # whose memory others cannot use before it is given back.
            gc.collect()
            torch.cuda.empty_cache()
            self.graphed_update = GraphedUpdate(self._update, self.optimizer, self.model)

    def set_scaler(self, scaler: TargetScaler) -> None:
        """Put targets and their lower bounds on the scales of ``scaler``."""
        self.scaler = scaler
        scaled = torch.tensor(scaler.transform(self.training_labels), dtype=self.dtype)
        # In place, since CUDA graphs read them.
        self.targets.copy_(scaled)
        if self.settings.one_sided_bounds:
            self.loss.lower_bound.copy_(torch.tensor(scaler.scaled_lower_bound, dtype=self.dtype))

    @property
    def crystals_without_label(self) -> int:
        """Number of crystals of the train split that have no label of the outputs."""
        whole = self.store.split_indices("train")
        return len(whole) - len(self.store.labelled(self.outputs, whole))

    def labels(
        self, indices: npt.NDArray[np.int64], properties: Sequence[str] | None = None
    ) -> npt.NDArray[np.float64]:
        """Labels (n, P) of crystals, NaN where missing; of the scored properties by default."""
        names = self.properties if properties is None else properties
        return self.store.label_matrix(names, indices).astype(np.float64)

    @property
    def epoch(self) -> int:
        """Number of finished epochs, their validation included."""
        return len(self.history)

    @property
    def total_steps(self) -> int:
        return len(self.loader) * self.settings.epochs

    @property
    def rate(self) -> float:
        """Learning rate of the next step."""
        planned = learning_rate(self.settings, self.step, self.total_steps)
        return planned * self.skipped.rate_factor

    def mean_loss(self) -> float:
        """Mean loss over this epoch's crystals so far."""
        return float(self.loss_sums[0].item() / max(1, self.counted))

    def initialise_from(self, best: TrainedModel) -> str:
        """Copy another run's encoder weights, and the heads of shared properties.

        Returns what was taken over and what was not. Raises InputError for an encoder that is to
        be frozen and was trained on graphs of other settings.
        """
        differences = graph_differences(best.graph_settings, self.store.graph_settings)
        if differences and self.settings.frozen_epochs:
            raise InputError(
                "--init-from: its encoder cannot be frozen, since it was trained on other graphs "
                f"than those of {self.store.path} (its and theirs: {differences}): prepare the "
                "store with its --cutoff and --max-neighbors, or leave out --freeze"
            )
        taken = best.copy_into(self.model, self.scaler)
        self.averaged = AveragedModel(self.model, self.settings.ema_decay)
        return taken

    def train_mode(self) -> None:
        """Set the model to training, but for an encoder that is frozen in this epoch."""
        self.model.train()
        frozen = self.epoch < self.settings.frozen_epochs
        self.model.encoder.requires_grad_(not frozen)
        if frozen:
            # Without dropout, and with the statistics of the data it was trained on.
            self.model.encoder.eval()

    def optimise(
        self,
        parts: Iterator[CrystalData | PaddedBatch],
        global_batch_size: int,
        flags: Tensor | None = None,
    ) -> Tensor:
        """One step on this rank's share of a batch, in microbatches whose gradients are summed.

        flags: summed over all ranks, in place. Returns a bool on the device, false where the loss
        or the gradient was not finite: then only the step number has changed. ``outcomes`` counts
        the step.
        """
        rate = self.rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        parameters = [*self.parameters, *self.loss.parameters()]
        for parameter in parameters:
            parameter.grad = None
        sums = torch.zeros(1 + len(self.outputs), device=self.device, dtype=self.dtype)
        for part in parts:
            with out_of_memory_errors(part), compilation_errors():
                if isinstance(part, PaddedBatch):
                    assert self.graphed is not None
                    sums += self.graphed(part, global_batch_size)
                else:
                    sums += self._passes(to_device(part, self.device), global_batch_size)
        if flags is None:
            flags = sums.new_zeros(0)
        exchanged = torch.cat([sums, flags])
        self.world.all_reduce_gradients([p for p in parameters if p.requires_grad], exchanged)
        sums = exchanged[: len(sums)]
        flags.copy_(exchanged[len(sums) :])
        update = self.graphed_update or self._update
        good = update(sums, global_batch_size, self.averaged.rate(self.step))
        self.step += 1
        self._unread.append((self.step, global_batch_size, good))
        return good

    def _update(
        self, sums: Tensor, global_batch_size: int | Tensor, average_rate: float | Tensor
    ) -> Tensor:
        """Change weights, their average and the sums of losses, where all is finite."""
        norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
        good = torch.isfinite(norm + sums[0])
        # The optimiser leaves everything as it is where this is 1.
        self.optimizer.found_inf = (~good).to(torch.float32)  # type: ignore[attr-defined]
        self.optimizer.step()
        self.averaged.update(average_rate, good)
        self.loss_sums += torch.where(good, sums * global_batch_size, 0.0)
        return good

    def _passes(self, batch: CrystalData, global_batch_size: int | Tensor) -> Tensor:
        """Forward and backward pass: the loss and that of each output, (1 + P,), detached."""
        target = self.targets[batch.index]
        with self._autocast():
            prediction = self.forward(batch)
        loss, by_property = self.loss(
            prediction.to(self.dtype), target, batch.weight, global_batch_size
        )
        loss.backward()
        return torch.cat([loss.detach().reshape(1), by_property])

    def outcomes(self) -> Iterator[tuple[int, bool]]:
        """The steps since the last call, by number, and whether each was finite; waits for a GPU.

        Counts their crystals; a good step ends a sequence of bad ones.
        """
        unread, self._unread = self._unread, []
        if not unread:
            return
        known = torch.stack([good for _, _, good in unread]).tolist()
        for (step, size, _), good in zip(unread, known, strict=True):
            if good:
                self.skipped.consecutive = 0
                self.counted += size
            yield step, good

    def forget_steps(self) -> None:
        """Another state has taken the place of that of the steps so far."""
        self._unread.clear()
        if self.graphed_update is not None:
            self.graphed_update.forget()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"
        )

    def infer_on_all_ranks(
        self,
        model: MultiTaskModel,
        indices: npt.NDArray[np.int64],
        before_each: Callable[[int], None] | None = None,
    ) -> Outputs:
        """Outputs for these crystals, never in bf16; a collective call.

        Each rank computes a share and returns the whole. before_each: called before each batch
        with the number of crystals done on this rank; if it raises Interrupted on one rank, every
        rank raises it after its share.
        """
        rows = np.arange(self.world.rank, len(indices), self.world.size)
        scaled = torch.zeros(len(indices), len(self.outputs), dtype=torch.float64)
        vectors = torch.zeros(len(indices), model.out_features, dtype=self.dtype)
        zero = torch.zeros(scaled.shape, dtype=torch.uint8)
        interrupted = torch.zeros(1)
        try:
            share = infer(
                model,
                self.store,
                indices[rows],
                device=self.device,
                dtype=self.dtype,
                max_edges=self.settings.max_edges,
                before_each=before_each,
            )
            scaled[rows] = torch.from_numpy(share.scaled)
            vectors[rows] = torch.from_numpy(share.vectors)
            zero[rows] = torch.from_numpy(share.zero).to(torch.uint8)
        except Interrupted:
            interrupted += 1
        self.world.all_reduce(interrupted)
        if interrupted.item():
            raise Interrupted
        for shared in (scaled, vectors, zero):
            self.world.all_reduce(shared)
        return Outputs(scaled.numpy(), vectors.numpy(), zero.numpy().astype(bool))

    def trained_model(self) -> TrainedModel:
        """The averaged weights as they are now, with all that inference needs."""
        return TrainedModel(
            self.config,
            self.store.graph_settings,
            self.scaler,
            self.averaged.module,
            elements=self.elements,
            epoch=self.epoch,
            score=self.best_score,
        )
