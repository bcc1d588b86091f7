"""Conditions under which the mean of several models' predictions has a meaning."""

from __future__ import annotations

from collections.abc import Sequence

from phase2hpc.errors import InputError
from phase2hpc.inference.trained_model import TrainedModel, graph_differences
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils import tables


def check_members(runs: Sequence[RunDirectory], models: Sequence[TrainedModel]) -> None:
    """Raise InputError unless the models of these runs can be averaged.

    They predict the same properties in the same order and units, from the same graphs.
    """
    for run, model in zip(runs[1:], models[1:], strict=True):
        if problem := _difference(model, models[0]):
            raise InputError(
                f"{run.path} and {runs[0].path} have no common mean: {problem}: leave one of them "
                "out"
            )


def _difference(this: TrainedModel, first: TrainedModel) -> str:
    """The difference between the two, ``this`` one named before the other; "" for nothing."""
    own, other = this.scaler.reported, first.scaler.reported
    if set(own) != set(other):
        parts = [
            f"only the {which} one predicts {', '.join(names)}"
            for which, names in (
                ("first", [name for name in own if name not in other]),
                ("second", [name for name in other if name not in own]),
            )
            if names
        ]
        return f"they predict other properties ({'; '.join(parts)})"
    if own != other:
        return f"their properties have another order ({', '.join(own)}; {', '.join(other)})"
    units = [
        f"{name}: {_unit(this, name)} and {_unit(first, name)}"
        for name in own
        if this.scaler.units[name] != first.scaler.units[name]
    ]
    if units:
        return f"their units differ ({'; '.join(units)})"
    graphs = graph_differences(this.graph_settings, first.graph_settings)
    return f"they were trained on other graphs ({graphs})" if graphs else ""


def _unit(model: TrainedModel, name: str) -> str:
    return model.scaler.units[name] or tables.ABSENT
