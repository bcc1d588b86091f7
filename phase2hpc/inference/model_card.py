"""Model card of an exported model, as Markdown, from the template ``model_card.md``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
    best: TrainedModel,
    manifest: Manifest,
    metrics: Mapping[str, Mapping[str, Any]],
    *,
    terms: Terms,
    starts: Sequence[str | None] = (None,),
    calibrated: bool = False,
) -> str:
    """The card. metrics: of the test crystals, by property. starts: of each model, the run that
    its initial weights are from."""
    known = set(best.elements)
    missing = [SYMBOLS[z] for z in range(1, MAX_ATOMIC_NUMBER + 1) if z not in known]
    is_sample = manifest.store is not None and Path(manifest.store).stem == SAMPLE
    crystals = manifest.training_crystals
    template = resources.files(__package__).joinpath("model_card.md").read_text(encoding="utf-8")
    return Template(template).substitute(
        name=name,
        algorithm=best.config.algorithm,
        level=best.config.level,
        epoch=best.epoch,
        count=len(best.scaler.reported),
        properties=", ".join(best.scaler.reported),
        members=f"\nThe mean of the predictions of {len(starts)} models."
        if len(starts) > 1
        else "",
        crystals="an unknown number of" if crystals is None else f"{crystals:,}",
        store=manifest.store or "unknown",
        store_hash=manifest.store_hash or "unknown",
        auxiliary=_auxiliary(best),
        start=_start(starts),
        data="\n".join(text for text in (_SAMPLE_DATA if is_sample else "", terms.data) if text)
        or "Origin and terms of the data: not stated.",
        licence=terms.licence,
        # JSON strings are YAML.
        quoted_licence=json.dumps(terms.licence),
        errors=_errors(best, metrics),
        missing=", ".join(missing) or "none",
        cutoff=f"{best.graph_settings.cutoff:g}",
        uncertainty=_CALIBRATED if calibrated else _NOT_CALIBRATED,
        citations=_SAMPLE_CITATIONS if is_sample else "",
    )


def _auxiliary(best: TrainedModel) -> str:
    names = best.config.auxiliary
    if not names:
        return ""
    labels = ", ".join(names)
    return f"\nLabels of {labels} were trained too, to help the others; they are not predicted."


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
