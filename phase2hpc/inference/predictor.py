"""Prediction of properties and crystal vectors with one or several trained models."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from phase2hpc.data.composition import reduced_formula
from phase2hpc.data.convert import Raw, Rejection, graphs_of
from phase2hpc.data.crystal import Crystal, UnreadableRecord
from phase2hpc.data.elements import atomic_number
from phase2hpc.data.graph import Graph
from phase2hpc.data.graph_arrays import GraphArrays, pack
from phase2hpc.data.loader import NUMPY_DTYPE
from phase2hpc.data.record_partition import RecordPartition
from phase2hpc.data.shared_sites import is_ordered, with_whole_sites
from phase2hpc.data.store.reader import Store
from phase2hpc.data.validation import DEFAULT_LIMITS, Limits
from phase2hpc.errors import InputError
from phase2hpc.inference.batched import Outputs, infer_each
from phase2hpc.inference.calibration import Calibration
from phase2hpc.inference.coverage import DEFAULT_COVERAGE
from phase2hpc.inference.devices import choose_device
from phase2hpc.inference.domain import Domain
from phase2hpc.inference.ensemble_members import check_members
from phase2hpc.inference.inputs import read_structures
from phase2hpc.inference.out_of_memory import OutOfMemory
from phase2hpc.inference.prediction_table import Prediction, as_frame
from phase2hpc.inference.trained_model import TrainedModel
from phase2hpc.inference.uncertainty import ErrorEstimator, Estimate
from phase2hpc.runs.model_selection import describe_model
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils.error_text import first_line
from phase2hpc.utils.prefetch import prefetched
from phase2hpc.utils.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

    from phase2hpc.inference.inputs import Structures

# Structures per chunk, which bounds memory. The last bits of a prediction depend on the other
# structures of its chunk, so that chunk boundaries depend on the inputs only.
CHUNK = 1024

log = logging.getLogger(__name__)

GraphPair = tuple[Crystal, Graph]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Inferred:
    """Results for n crystals, NaN where unknown.

    values: (n, R) predictions of the reported properties. estimate: their uncertainty.
    remoteness: (n,) mean of ``TrainingEmbedding.remoteness``. vectors: (n, F) crystal
    vectors under the one model; None for several.
    """

    values: Array
    estimate: Estimate
    remoteness: Array
    vectors: Array | None


class Predictor:
    """One or several trained models, loaded for prediction.

    Several models form an ensemble: predictions are their mean. ``<property>_sigma`` and the
    interval come from the errors in validation (``ErrorEstimator``); members of an ensemble that
    were not calibrated on the same crystals give their sample standard deviation alone.

    Attributes:
        runs: where the models were loaded from.
        properties: what they predict, in the order of the columns.
        units: unit by property, "" for a dimensionless one.
        elements: atomic numbers that occur in the training data of every model.
        graph_settings: of the graphs that they were trained on.
        interval: coverage of ``<property>_low`` to ``<property>_high``.
        calibrations: of the models, None where there is none.
    """

    def __init__(
        self,
        runs: Sequence[RunDirectory],
        device: torch.device,
        limits: Limits = DEFAULT_LIMITS,
        interval: float = DEFAULT_COVERAGE,
    ) -> None:
        """Load the best weights of these runs; ``limits`` of the structures to predict for.

        Raises:
            InputError: weights are missing or damaged, or the models differ in properties, units
                or graph settings.
        """
        self.runs = tuple(runs)
        self.device = device
        self.limits = limits
        self.models = [TrainedModel.load(run.weights, device) for run in runs]
        check_members(runs, self.models)
        first = self.models[0]
        self.properties: tuple[str, ...] = first.scaler.reported
        self.units = {name: first.scaler.units[name] for name in self.properties}
        self.graph_settings = first.graph_settings
        self.elements = frozenset.intersection(*(frozenset(m.elements) for m in self.models))
        self.interval = interval
        self.calibrations = [
            calibration_of(model, run) for model, run in zip(self.models, runs, strict=True)
        ]
        self._estimator = self._make_estimator()
        self._domain = Domain(
            self.elements,
            self.graph_settings.cutoff,
            min((c.max_atoms for c in self.calibrations if c), default=None),
        )

    def __repr__(self) -> str:
        return f"Predictor({describe_model(self.runs)})"

    def predict(self, structures: Structures) -> pd.DataFrame:
        """Predict the properties of structures.

        Args:
            structures: a pymatgen ``Structure``, an ASE ``Atoms``, a path (a structure file, a
                folder of them, or anything else that ``prepare`` reads), or an iterable of these.

        Returns:
            One row per structure in the order of the input, with the columns of ``predict
            --output``: ``id``, ``input``, ``formula``, ``status`` ("ok", "rejected" or
            "failed"), ``reason``; ``<property>``, ``<property>_sigma``, ``<property>_low`` and
            ``<property>_high`` in ``units`` (float64, NaN where there is no value); ``in_domain``
            (bool; ``reason`` says why it is false).

        Raises:
            InputError: a path does not exist or has an unknown format.
            TypeError: ``structures`` is neither a structure nor an iterable.
        """
        return as_frame(self.predict_raw(read_structures(structures)), self.properties)

    def features(self, structures: Structures) -> npt.NDArray[np.floating]:
        """Crystal vectors: output of the encoder for each structure, before the heads.

        Args:
            structures: as of ``predict``.

        Returns:
            Array (n, F) in the precision of the model; row i belongs to row i of ``predict``. A
            structure that is rejected or fails there has a row of NaN.

        Raises:
            InputError: as ``predict``; and for an ensemble, whose members' vectors are unrelated.
        """
        return self.vectors(list(self.predict_raw(read_structures(structures))))

    def vectors(self, rows: Sequence[Prediction]) -> npt.NDArray[np.floating]:
        """Crystal vectors (n, F) of predictions of this one model, NaN where there is none."""
        if len(self.models) > 1:
            raise InputError(
                f"features: the vectors of {len(self.models)} models are unrelated: load one model"
            )
        (model,) = self.models
        nothing = np.full(model.model.out_features, np.nan, NUMPY_DTYPE[model.dtype])
        found = [nothing if row.vector is None else row.vector for row in rows]
        return np.stack(found) if found else nothing[None][:0]

    def predict_raw(self, raws: Iterable[Raw]) -> Iterator[Prediction]:
        """One prediction per raw crystal, in order."""
        for chunk in _chunks(raws):
            yield from self._predict_chunk(chunk)

    def predict_chunks(
        self,
        structures: Structures,
        *,
        id_prop: bool = False,
        shard: int = 0,
        shards: int = 1,
        finished: Container[int] = frozenset(),
        quiet: bool = False,
    ) -> Iterator[tuple[int, list[Prediction]]]:
        """Predictions chunk by chunk with its number; of several shards, those of one.

        Arguments as of ``read_structures``. finished: numbers of chunks to leave out. Progress is
        shown on stderr unless ``quiet``. The next chunk is read while one is predicted.
        """
        partition = RecordPartition(shard, shards, CHUNK, finished)
        raws = read_structures(structures, id_prop=id_prop, partition=partition)
        ahead = prefetched(((partition.current, raw) for raw in raws), CHUNK)
        with closing(ahead), Progress("predicting", None, "structures", quiet=quiet) as progress:
            for number, group in groupby(ahead, key=itemgetter(0)):
                rows = []
                for row in self.predict_raw(raw for _, raw in group):
                    rows.append(row)
                    progress.advance(1)
                yield number, rows

    def predict_all(self, structures: Structures, *, id_prop: bool = False) -> list[Prediction]:
        """All predictions of ``predict_chunks``."""
        chunks = self.predict_chunks(structures, id_prop=id_prop)
        return [row for _, rows in chunks for row in rows]

    def _predict_chunk(self, raws: list[Raw]) -> list[Prediction]:
        rows: list[Prediction] = []
        accepted: list[tuple[Prediction, GraphPair]] = []
        graphs = graphs_of(raws, self.graph_settings, self.limits)
        for raw, result in zip(raws, graphs, strict=True):
            if isinstance(result, Rejection):
                status = "failed" if isinstance(raw, UnreadableRecord) else "rejected"
                row = Prediction(raw.id, raw.input, _formula_of(raw), status, result.reason)
            else:
                numbers = result[0].numbers.tolist()
                row = Prediction(raw.id, raw.input, reduced_formula(numbers), "ok")
                accepted.append((row, result))
            rows.append(row)
        results = self._compute([pair for _, pair in accepted])
        for (row, pair), found in zip(accepted, results, strict=True):
            if isinstance(found, str):
                row.status, row.reason = "failed", found
                continue
            inferred, i = found
            if not np.isfinite(inferred.values[i]).all():
                row.status, row.reason = "failed", "the model's prediction is not finite"
            else:
                row.values = self._by_property(inferred.values[i])
                row.sigmas = self._by_property(inferred.estimate.sigma[i])
                row.lows = self._by_property(inferred.estimate.low[i])
                row.highs = self._by_property(inferred.estimate.high[i])
                row.reason = self._domain.outside(*pair, float(inferred.remoteness[i]))
                row.in_domain = not row.reason
                row.vector = None if inferred.vectors is None else inferred.vectors[i]
        return rows

    def _by_property(self, values: Array) -> dict[str, float]:
        """Finite values by property."""
        pairs = zip(self.properties, values.tolist(), strict=True)
        return {name: value for name, value in pairs if math.isfinite(value)}

    def _compute(self, pairs: list[GraphPair]) -> list[tuple[Inferred, int] | str]:
        """Results for these graphs, each with its row in them. If the model fails, it is applied
        to each graph alone, and a graph that fails gets the reason instead."""
        if not pairs:
            return []
        float64 = any(m.config.training.precision == "float64" for m in self.models)
        try:
            found = self.infer(pack(pairs, float64=float64), np.arange(len(pairs)))
            return [(found, row) for row in range(len(pairs))]
        except (RuntimeError, OutOfMemory) as error:
            if len(pairs) == 1:
                return [f"the model failed on it: {first_line(error)}"]
            return [self._compute([pair])[0] for pair in pairs]

    def infer(self, source: Store | GraphArrays, indices: npt.NDArray[np.int64]) -> Inferred:
        """Predictions for graphs as those of training, with their uncertainty, rows as in
        ``indices``."""
        outputs = self._outputs(source, indices)
        physical = [
            found.physical(model.scaler) for model, found in zip(self.models, outputs, strict=True)
        ]
        values = np.mean(physical, axis=0)
        nothing = np.full_like(values, np.nan)
        remoteness = np.full(len(values), np.nan)
        spread = np.std(physical, axis=0, ddof=1) if len(physical) > 1 else nothing
        estimate = Estimate(spread, nothing, nothing)
        known = [
            (c.embedding, found)
            for c, found in zip(self.calibrations, outputs, strict=True)
            if c is not None
        ]
        if known:
            distances = np.stack([e.distance(found.vectors) for e, found in known])
            far = [e.remoteness(d) for (e, _), d in zip(known, distances, strict=True)]
            remoteness = np.mean(far, axis=0)
        if self._estimator is not None:
            estimate = self._estimator.estimate(outputs, distances, self.interval)
        return Inferred(
            values, estimate, remoteness, outputs[0].vectors if len(outputs) == 1 else None
        )

    def _outputs(
        self, source: Store | GraphArrays, indices: npt.NDArray[np.int64]
    ) -> list[Outputs]:
        """Outputs of each model; those that take the same batches go through them together."""
        alike: dict[tuple[torch.dtype, int | None], list[int]] = defaultdict(list)
        for number, model in enumerate(self.models):
            alike[model.dtype, model.config.training.max_edges].append(number)
        outputs: dict[int, Outputs] = {}
        for (dtype, max_edges), numbers in alike.items():
            found = infer_each(
                [self.models[number].model for number in numbers],
                source,
                indices,
                device=self.device,
                dtype=dtype,
                max_edges=max_edges,
            )
            outputs.update(zip(numbers, found, strict=True))
        return [outputs[number] for number in range(len(self.models))]

    def _make_estimator(self) -> ErrorEstimator | None:
        """None, with a warning, where models have no calibration, or not on the same crystals."""
        known = [calibration for calibration in self.calibrations if calibration is not None]
        if len(known) < len(self.models):
            lacking = [
                str(run.path)
                for run, found in zip(self.runs, self.calibrations, strict=True)
                if found is None
            ]
            what = "sigma is their spread, not calibrated" if len(self.models) > 1 else "no sigma"
            log.warning(
                "%s and no interval, and no distance to the training crystals: not calibrated: %s "
                "(phase2hpc calibrate RUN does it)",
                what, ", ".join(lacking),
            )  # fmt: skip
            return None
        if len({calibration.validation for calibration in known}) > 1:
            log.warning(
                "sigma is the spread of the models, not calibrated, and there is no interval: they "
                "were calibrated on different crystals"
            )
            return None
        return ErrorEstimator([model.scaler for model in self.models], known)


def calibration_of(model: TrainedModel, run: RunDirectory) -> Calibration | None:
    """The calibration beside a model's weights; None, with a warning, if it is of others."""
    found = Calibration.load(run.calibration)
    if found is None:
        return None
    if (found.weights_hash, found.properties) != (model.weights_hash, model.scaler.reported):
        log.warning("%s: of other weights than %s, not used", run.calibration, run.weights.name)
        return None
    return found


def _chunks(raws: Iterable[Raw]) -> Iterator[list[Raw]]:
    stream = iter(raws)
    while chunk := list(islice(stream, CHUNK)):
        yield chunk


def _formula_of(raw: Raw) -> str:
    """Formula of a rejected structure, empty where its species are not all elements, or where a
    site is not one atom."""
    if isinstance(raw, UnreadableRecord):
        return ""
    raw = with_whole_sites(raw)
    if not is_ordered(raw):
        return ""
    numbers = [atomic_number(str(species)) for species in raw.species]
    known = [z for z in numbers if z is not None]
    return reduced_formula(known) if known and len(known) == len(numbers) else ""


def load_predictor(
    runs: Sequence[RunDirectory],
    device: str = "auto",
    threads: int | None = None,
    max_atoms: int | None = None,
    interval: float = DEFAULT_COVERAGE,
) -> Predictor:
    """The best models of these runs on ``--device``.

    threads: of torch on the CPU, None: unchanged. max_atoms: in a structure, None: the default.
    interval: coverage of the intervals. Raises InputError where it is not between 0 and 1.
    """
    if not 0.0 < interval < 1.0:
        raise InputError(f"--interval {interval:g}: give a coverage between 0 and 1, as 0.9")
    if threads is not None:
        torch.set_num_threads(threads)
    limits = DEFAULT_LIMITS if max_atoms is None else Limits(max_atoms=max_atoms)
    return Predictor(runs, choose_device(device), limits, interval)
