"""Structures in, a table of predictions out: a row for every input, whatever happens to it."""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
import torch

from phase2hpc.config.properties import unit
from phase2hpc.data.composition import reduced_formula
from phase2hpc.data.convert import Raw, Rejection, graphs_of
from phase2hpc.data.crystal import Crystal, UnreadableRecord
from phase2hpc.data.elements import atomic_number
from phase2hpc.data.graph import Graph
from phase2hpc.data.graph_arrays import pack
from phase2hpc.data.readers.registry import describe, read
from phase2hpc.data.record_partition import RecordPartition
from phase2hpc.errors import InputError
from phase2hpc.inference.batched import predict as predict_batches
from phase2hpc.inference.devices import choose_device
from phase2hpc.inference.out_of_memory import OutOfMemory
from phase2hpc.inference.trained_model import TrainedModel
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils import tables
from phase2hpc.utils.atomic_io import write_atomically
from phase2hpc.utils.error_text import first_line
from phase2hpc.utils.os_errors import refused
from phase2hpc.utils.progress import Progress

# Structures read, turned to graphs and predicted together. Bounds memory; and the last bits of a
# prediction depend on what is predicted beside it, so where a chunk begins is fixed by the inputs.
CHUNK = 1024


@dataclass
class Prediction:
    """One row: values and sigmas by property, empty unless status is "ok".

    status: "ok", "rejected" (a structure, but none to predict for) or "failed" (unreadable, or
    the model could not); ``reason`` says why. in_domain: False where an element never occurred in
    training, None where nothing speaks against it but nothing vouches for it either.
    """

    id: str
    input: str
    formula: str
    status: str
    reason: str = ""
    values: dict[str, float] = field(default_factory=dict)
    sigmas: dict[str, float] = field(default_factory=dict)
    in_domain: bool | None = None


class Predictor:
    """One or several trained models, loaded once.

    Several models (an ensemble) predict their mean, and the standard deviation among them is the
    sigma. Raises InputError where they differ in properties or graph settings.
    """

    def __init__(self, best_files: Sequence[Path], device: torch.device) -> None:
        self.device = device
        self.models = [TrainedModel.load(path, device) for path in best_files]
        first = self.models[0]
        self.properties = first.scaler.properties
        for path, other in zip(best_files[1:], self.models[1:], strict=True):
            if other.scaler.properties != self.properties:
                raise InputError(f"{path}: predicts other properties than {best_files[0]}")
            if other.graph_settings != first.graph_settings:
                raise InputError(f"{path}: was trained on other graphs than {best_files[0]}")
        self.graph_settings = first.graph_settings
        self.elements = frozenset.intersection(*(frozenset(m.elements) for m in self.models))

    def predict(self, raws: Iterable[Raw]) -> Iterator[Prediction]:
        """A row for every input, in order."""
        stream = iter(raws)
        while chunk := list(islice(stream, CHUNK)):
            yield from self._predict_chunk(chunk)

    def _predict_chunk(self, raws: list[Raw]) -> list[Prediction]:
        rows: list[Prediction] = []
        accepted: list[tuple[Prediction, tuple[Crystal, Graph]]] = []
        for raw, result in zip(raws, graphs_of(raws, self.graph_settings), strict=True):
            if isinstance(result, Rejection):
                status = "failed" if isinstance(raw, UnreadableRecord) else "rejected"
                row = Prediction(raw.id, raw.input, _formula_of(raw), status, result.reason)
            else:
                numbers = result[0].numbers.tolist()
                row = Prediction(raw.id, raw.input, reduced_formula(numbers), "ok")
                row.in_domain = None if self.elements.issuperset(numbers) else False
                accepted.append((row, result))
            rows.append(row)
        self._fill(accepted)
        return rows

    def _fill(self, accepted: list[tuple[Prediction, tuple[Crystal, Graph]]]) -> None:
        """Predict for these; where that fails, for each by itself, so that one spoils no other."""
        if not accepted:
            return
        try:
            members = self._members([pair for _, pair in accepted])
        except (RuntimeError, OutOfMemory) as error:
            if len(accepted) > 1:
                for one in accepted:
                    self._fill([one])
                return
            row = accepted[0][0]
            row.status, row.reason = "failed", f"the model failed on it: {first_line(error)}"
            return
        for i, (row, _) in enumerate(accepted):
            if not np.isfinite(members[:, i]).all():
                row.status, row.reason = "failed", "the model's prediction is not finite"
                continue
            row.values = dict(zip(self.properties, members[:, i].mean(0).tolist(), strict=True))
            if len(members) > 1:
                spread = members[:, i].std(0, ddof=1).tolist()
                row.sigmas = dict(zip(self.properties, spread, strict=True))

    def _members(self, pairs: list[tuple[Crystal, Graph]]) -> npt.NDArray[np.float64]:
        """Each model's predictions, (models, crystals, properties)."""
        float64 = any(m.config.training.precision == "float64" for m in self.models)
        arrays = pack(pairs, float64=float64)
        indices = np.arange(len(arrays))
        return np.stack(
            [
                predict_batches(
                    m.model, m.scaler, arrays, indices, device=self.device, dtype=m.dtype
                )
                for m in self.models
            ]
        )


def _formula_of(raw: Raw) -> str:
    """Formula of a rejected structure, empty where its species are not all elements."""
    if isinstance(raw, UnreadableRecord):
        return ""
    numbers = [atomic_number(str(species)) for species in raw.species]
    known = [z for z in numbers if z is not None]
    return reduced_formula(known) if known and len(known) == len(numbers) else ""


def as_records(rows: Iterable[Prediction], properties: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows as flat records with the columns of the output file; None where there is no value."""
    for row in rows:
        record: dict[str, Any] = {
            "id": row.id,
            "input": row.input,
            "formula": row.formula,
            "status": row.status,
            "reason": row.reason,
        }
        for name in properties:
            record[name] = row.values.get(name)
            record[f"{name}_sigma"] = row.sigmas.get(name)
        record["in_domain"] = row.in_domain
        yield record


def write_predictions(path: Path, rows: Iterable[Prediction], properties: Sequence[str]) -> None:
    """Write rows as CSV, or as JSON where the name ends in .json; whole or not at all."""
    write_records(path, as_records(rows, properties), properties)


def write_records(path: Path, records: Iterable[dict[str, Any]], properties: Sequence[str]) -> None:
    """The same of rows as ``as_records`` gives them; only their text is kept in memory."""
    stream = io.StringIO()
    if path.suffix.lower() == ".json":
        _write_json(stream, records)
    else:
        columns = list(next(as_records([Prediction("", "", "", "")], properties)))
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _cell(v) for k, v in record.items()} for record in records)
    try:
        write_atomically(path, stream.getvalue())
    except OSError as error:
        note = "what was there is as it was" if path.exists() else ""
        raise refused(error, f"--output {path}: cannot be written", note=note) from None


def _write_json(file: TextIO, records: Iterable[dict[str, Any]]) -> None:
    separator = "[\n"
    for record in records:
        text = json.dumps(record, indent=1, allow_nan=False)
        file.write(separator + textwrap.indent(text, " "))
        separator = ",\n"
    file.write("[]\n" if separator == "[\n" else "\n]\n")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def table(rows: Sequence[Prediction], properties: Sequence[str]) -> str:
    """Rows as text: one structure downwards, several across."""
    if len(rows) == 1 and rows[0].status == "ok":
        row = rows[0]
        lines = [[name, _with_sigma(row, name), unit(name) or tables.ABSENT] for name in properties]
        text = tables.aligned((f"{row.id} ({row.formula})", "prediction", "unit"), lines)
    else:
        header = ["id", "formula", *(f"{p} ({unit(p)})" if unit(p) else p for p in properties)]
        body = [
            [row.id, row.formula, *(_with_sigma(row, name) for name in properties)] for row in rows
        ]
        text = tables.aligned(header, body, left=2)
    notes = [f"{row.id}: {row.status}: {row.reason}" for row in rows if row.status != "ok"]
    notes += [
        f"{row.id}: has an element that never occurred in training: do not rely on it"
        for row in rows
        if row.in_domain is False
    ]
    return "\n".join([text, *notes])


def _with_sigma(row: Prediction, name: str) -> str:
    value, sigma = row.values.get(name, math.nan), row.sigmas.get(name)
    if math.isnan(value):
        return tables.ABSENT
    return f"{value:.4g}" if sigma is None else tables.with_error(value, sigma)


def load_predictor(runs: Sequence[RunDirectory], device: str, threads: int) -> Predictor:
    """The best models of these runs, on ``--device``."""
    torch.set_num_threads(threads)
    return Predictor([run.best for run in runs], choose_device(device))


def predict_all(
    predictor: Predictor, inputs: Sequence[str], *, plain_folder: bool
) -> list[Prediction]:
    """Rows for everything in ``inputs``.

    plain_folder: a folder is all its structure files, whatever an id_prop.csv in it says.
    """
    chunks = predict_chunks(predictor, inputs, plain_folder=plain_folder)
    return [row for _, rows in chunks for row in rows]


def predict_chunks(
    predictor: Predictor,
    inputs: Sequence[str],
    *,
    plain_folder: bool,
    shard: int = 0,
    shards: int = 1,
) -> Iterator[tuple[int, list[Prediction]]]:
    """As ``predict_all``, chunk by chunk with its number; of several shards, one's chunks only."""
    units = RecordPartition(shard, shards, CHUNK)
    # All are opened first: a name that is wrong is said before the work, not after half of it.
    sources = [
        _to_the_end(source, read(source, id_prop=not plain_folder, units=units), units)
        for source in inputs
    ]
    raws = chain.from_iterable(sources)
    numbered = groupby(((units.current, raw) for raw in raws), key=itemgetter(0))
    with Progress("predicting", None, "structures") as progress:
        for number, group in numbered:
            rows = []
            for row in predictor.predict(raw for _, raw in group):
                rows.append(row)
                progress.advance(1)
            yield number, rows


def _to_the_end(source: str, raws: Iterator[Raw], units: RecordPartition) -> Iterator[Raw]:
    """What a source yields; where it breaks off (a cut file), its last row says so."""
    try:
        yield from raws
    except InputError as error:
        if units.take():
            yield UnreadableRecord(describe(source), source, str(error))


def summary_line(counts: Counter[str], runs: Sequence[RunDirectory], output: Path | None) -> str:
    """How many were predicted, how many not, by status, and by which runs."""
    known = ("ok", "rejected", "failed")
    done = ", ".join(f"{counts[status]} {status}" for status in known if counts[status])
    models = ", ".join(f"{run.family}/{run.id}" for run in runs)
    what = f"{counts.total()} structures: {done}, by {models}"
    return what + (f" -> {output}" if output else "")
