"""Evaluation of a model on a source with labels: predictions beside labels, and their errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from phase2hpc.analysis.store_evaluation import is_store, labelled_crystals
from phase2hpc.data.convert import Converter, Raw
from phase2hpc.data.preparation_record import check_labels_table
from phase2hpc.data.prepare import read_sources, renames_of
from phase2hpc.data.readers.label_report import LabelReport
from phase2hpc.data.readers.registry import check_source
from phase2hpc.errors import InputError
from phase2hpc.inference.prediction_table import Prediction, as_records, count_record
from phase2hpc.inference.predictor import Predictor
from phase2hpc.training.metrics import PropertyMetrics, metrics_table, property_metrics
from phase2hpc.utils import tables
from phase2hpc.utils.progress import Progress

# As many labels are listed one by one.
MAX_LISTED = 40


@dataclass
class Evaluation:
    """Predictions for the structures of a source, and its labels of the model's properties.

    predictions and labels: one per structure, in order. cells: report of the label cells. metrics:
    of the structures that are predicted and labelled; MAD and constant predictor are those of
    these labels themselves. outside: the same of the structures outside the model's domain alone,
    of properties that have any.
    """

    properties: tuple[str, ...]
    units: Mapping[str, str]
    predictions: list[Prediction] = field(default_factory=list)
    labels: list[dict[str, float]] = field(default_factory=list)
    cells: LabelReport = field(default_factory=LabelReport)
    metrics: dict[str, PropertyMetrics] = field(default_factory=dict)
    outside: dict[str, PropertyMetrics] = field(default_factory=dict)

    @property
    def header(self) -> list[str]:
        return list(next(self._records([Prediction("", "", "", "")], [{}])))

    def records(self) -> Iterator[dict[str, Any]]:
        """Those of ``predict``, with ``<property>_target`` and ``<property>_error``."""
        return self._records(self.predictions, self.labels)

    def _records(
        self, predictions: Sequence[Prediction], labels: Sequence[Mapping[str, float]]
    ) -> Iterator[dict[str, Any]]:
        records = as_records(predictions, self.properties)
        for record, known in zip(records, labels, strict=True):
            row: dict[str, Any] = {}
            for key, value in record.items():
                if key in self.properties:
                    target = known.get(key)
                    row[f"{key}_target"] = target
                    row[key] = value
                    both = value is not None and target is not None
                    row[f"{key}_error"] = value - target if both else None
                else:
                    row[key] = value
            yield row

    @property
    def counts(self) -> Counter[str]:
        """Number of structures by status, and outside the domain, as ``count_record`` counts."""
        counts: Counter[str] = Counter()
        for record in self.records():
            count_record(counts, record)
        return counts

    def text(self) -> str:
        """The table of errors; before it the structures where they are few."""
        labelled = {name: m for name, m in self.metrics.items() if m["n"]}
        lines = []
        if len(self.predictions) * len(labelled) <= MAX_LISTED:
            lines += [self._list(list(labelled)), ""]
        lines.append(metrics_table(labelled, self.units))
        lines.append("MAD and constant MAE: of these labels, about their mean and their median")
        if self.outside:
            lines += ["", "of these, outside the model's domain:"]
            lines.append(metrics_table(self.outside, self.units))
        return "\n".join(lines)

    def _list(self, names: Sequence[str]) -> str:
        rows = []
        for record in self.records():
            shown = [name for name in names if record[f"{name}_error"] is not None]
            for name in shown:
                values = (record[f"{name}_target"], record[name], record[f"{name}_error"])
                rows.append([record["id"], record["formula"], name, *map(tables.number, values)])
            if not shown:
                why = record["status"] if record["status"] != "ok" else "no label"
                rows.append([record["id"], record["formula"], why, *[tables.ABSENT] * 3])
        header = ("id", "formula", "property", "label", "prediction", "error")
        return tables.aligned(header, rows, left=3)

    def as_json(self) -> dict[str, Any]:
        """The fields of ``--json``: ``metrics`` and ``outside`` by property, as in metrics.json."""
        return {"metrics": self.metrics, "outside": self.outside}


def evaluate_sources(
    predictor: Predictor,
    sources: Sequence[str],
    *,
    labels: Path | None = None,
    rename: Mapping[tuple[str, str], str] | None = None,
    split: str | None = None,
) -> Evaluation:
    """Predict for all structures of these sources and compare with their labels.

    labels and rename: as of ``prepare_store``. A source may be a store: its labelled crystals of
    ``split`` (None: test). Raises InputError for a source that cannot be read, a label column with
    another unit than the model's, and sources without a label of any of the model's properties.
    """
    stores = {source for source in sources if is_store(source)}
    if split is not None and not stores:
        raise InputError(f"--split {split}: only with a store (.h5) as SOURCE")
    if labels is not None:
        check_labels_table(sources)
    for source in sources:
        if source not in stores:
            check_source(source)
    found = Evaluation(predictor.properties, predictor.units)
    table = None if labels is None else str(labels)
    reading = Converter(predictor.graph_settings, labels=table, rename=rename or {})

    def of(source: str) -> Iterable[Raw]:
        if source not in stores:
            return read_sources([source], reading)
        names = renames_of(source, reading)
        path = Path(source)
        return labelled_crystals(path, split or "test", names, found.properties, predictor.runs)

    raws = _labelled(chain.from_iterable(map(of, sources)), found)
    with Progress("evaluating", None, "structures") as progress:
        for prediction in predictor.predict_raw(raws):
            found.predictions.append(prediction)
            progress.advance(1)
    _check_columns(found, sources, rename or {})
    inside = [p.in_domain is not False for p in found.predictions]
    for name in found.properties:
        pairs = np.array(
            [
                (p.values.get(name, np.nan), known.get(name, np.nan))
                for p, known in zip(found.predictions, found.labels, strict=True)
            ]
        )
        # A structure without prediction is none with an error.
        pairs[np.isnan(pairs[:, 0]), 1] = np.nan
        found.metrics[name] = property_metrics(pairs[:, 0], pairs[:, 1], pairs[:, 1])
        others = pairs[~np.array(inside)]
        if np.isfinite(others).all(axis=1).any():
            found.outside[name] = property_metrics(others[:, 0], others[:, 1], others[:, 1])
    return found


def _labelled(raws: Iterable[Raw], found: Evaluation) -> Iterator[Raw]:
    """The same crystals; their labels are added to ``found``."""
    for raw in raws:
        found.cells.add_record(raw.id, raw.input, raw.labels)
        known = {name: raw.labels[name] for name in found.properties if name in raw.labels}
        found.labels.append(known)
        yield raw


def _check_columns(
    found: Evaluation, sources: Sequence[str], rename: Mapping[tuple[str, str], str]
) -> None:
    found.cells.check_renames(rename)
    for name, unit in found.cells.units.items():
        if name in found.properties and unit != found.units[name]:
            raise InputError(
                f"label column '{name}' is in {unit}, and the model predicts it in "
                f"{found.units[name] or 'no unit'}: convert the labels"
            )
    if not any(found.labels):
        columns = ", ".join(found.cells.columns) or "none"
        why = "".join(f"; {line}" for line in found.cells.lines()[:1])
        raise InputError(
            f"{', '.join(sources)}: no label of {', '.join(found.properties)} (label columns: "
            f"{columns}{why}): name one by --rename COLUMN=PROPERTY, or give a table by --labels"
        )
