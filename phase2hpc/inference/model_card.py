"""Model card of an exported model, as Markdown, from the template ``model_card.md``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from phase2hpc.data.elements import MAX_ATOMIC_NUMBER, SYMBOLS
from phase2hpc.inference.trained_model import TrainedModel
from phase2hpc.runs.manifest import Manifest
from phase2hpc.utils import tables
from phase2hpc.utils.package_files import SAMPLE

# Origin and citations of the shipped sample, as in data/README.md.
_SAMPLE_DATA = """\
Labels: JARVIS-DFT of the National Institute of Standards and Technology, not subject to copyright
in the United States. Structures: JARVIS-DFT and the Materials Project (CC BY 4.0). The labels are
of OptB88vdW, most geometries of PBE."""
_SAMPLE_CITATIONS = """
- K. Choudhary et al., npj Computational Materials 6, 173 (2020): labels (JARVIS-DFT)
- A. Jain et al., APL Materials 1, 011002 (2013): structures of the Materials Project"""
_CALIBRATED = """\
`<property>_sigma` and the interval hold for crystals like those of the validation split, on average
over all of them and not for every kind of crystal."""
_NOT_CALIBRATED = "The model is not calibrated: its predictions have no interval."


class Terms(NamedTuple):
    """Terms of a model, from its author. data: origin and terms of the training data, or ""."""

    licence: str
    data: str


def model_card(
    name: str,
    models: Sequence[TrainedModel],
    manifests: Sequence[Manifest],
    metrics: Mapping[str, Mapping[str, Any]],
    *,
    terms: Terms,
    starts: Sequence[str | None] = (None,),
    calibrated: bool = False,
) -> str:
    """The card of a model or of an ensemble of ``check_members``.

    metrics: of the test crystals, by property. starts: of each model, the run that its initial
    weights are from. calibrated: as one.
    """
    best = models[0]
    elements = [frozenset(model.elements) for model in models]
    known = frozenset.intersection(*elements)
    missing = [SYMBOLS[z] for z in range(1, MAX_ATOMIC_NUMBER + 1) if z not in known]
    is_sample = any(m.store is not None and Path(m.store).stem == SAMPLE for m in manifests)
    template = resources.files(__package__).joinpath("model_card.md").read_text(encoding="utf-8")
    return Template(template).substitute(
        name=name,
        algorithms=", ".join(dict.fromkeys(model.config.algorithm for model in models)),
        kinds=_kinds(models),
        count=len(best.scaler.reported),
        properties=", ".join(best.scaler.reported),
        members=f"\nThe mean of the predictions of {len(models)} models."
        if len(models) > 1
        else "",
        crystals=" and on ".join(dict.fromkeys(map(_crystals, manifests))),
        auxiliary=_auxiliary(models),
        start=_start(starts),
        data="\n".join(text for text in (_SAMPLE_DATA if is_sample else "", terms.data) if text)
        or "Origin and terms of the data: not stated.",
        licence=terms.licence,
        # JSON strings are YAML.
        quoted_licence=json.dumps(terms.licence),
        errors=_errors(best, metrics),
        unseen="never occurred in training"
        if len(set(elements)) == 1
        else "did not occur in the training of every model",
        missing=", ".join(missing) or "none",
        cutoff=f"{best.graph_settings.cutoff:g}",
        uncertainty=_CALIBRATED if calibrated else _NOT_CALIBRATED,
        citations=_SAMPLE_CITATIONS if is_sample else "",
    )


def _kinds(models: Sequence[TrainedModel]) -> str:
    """Algorithms and levels, each with the epochs of its weights."""
    epochs: dict[str, dict[int, None]] = {}
    for model in models:
        kind = f"{model.config.algorithm}, level {model.config.level}"
        epochs.setdefault(kind, {})[model.epoch] = None
    return "; ".join(
        f"{kind}, weights of epoch{'s' if len(found) > 1 else ''} {_listed(found)}"
        for kind, found in epochs.items()
    )


def _crystals(manifest: Manifest) -> str:
    count = manifest.training_crystals
    return (
        f"{'an unknown number of' if count is None else f'{count:,}'} crystals of the store "
        f"`{manifest.store or 'unknown'}` (content hash `{manifest.store_hash or 'unknown'}`)"
    )


def _auxiliary(models: Sequence[TrainedModel]) -> str:
    names = dict.fromkeys(name for model in models for name in model.config.auxiliary)
    if not names:
        return ""
    where = "" if all(set(m.config.auxiliary) == set(names) for m in models) else " in some models"
    return (
        f"\nLabels of {', '.join(names)} were trained too{where}, to help the others; they are not "
        "predicted."
    )


def _listed(values: Iterable[object]) -> str:
    *head, last = map(str, values)
    return f"{', '.join(head)} and {last}" if head else last


def _start(starts: Sequence[str | None]) -> str:
    names = dict.fromkeys(Path(start).name for start in starts if start)
    if not names:
        return ""
    subject = "It" if len(starts) == 1 else "They" if all(starts) else "Some of them"
    return f"\n{subject} began with the weights of {', '.join(names)}, whose data count as well."


def _errors(best: TrainedModel, metrics: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name in best.scaler.reported:
        found = metrics.get(name, {})
        r2 = found.get("r2")
        rows.append(
            [
                name,
                best.scaler.units[name] or tables.ABSENT,
                tables.with_error(found.get("mae"), found.get("mae_se")),
                tables.ABSENT if r2 is None else f"{r2:.3f}",
                tables.number(found.get("mad")),
                str(found.get("n", tables.ABSENT)),
            ]
        )
    return tables.markdown(("property", "unit", "test MAE", "R2", "MAD", "n"), rows, left=2)
