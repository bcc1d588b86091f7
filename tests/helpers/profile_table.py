"""Table of a profile's fields for jobs/README.md, from the model that validates them."""

from __future__ import annotations

import types
import typing
from typing import Any, Literal

from phase2hpc.cluster.profiles import fields
from phase2hpc.cluster.profiles.profile import ContainerSettings, Profile
from phase2hpc.utils import tables

# How a value of each type is written in YAML.
WRITTEN = {
    fields.Name: "name",
    fields.GpuType: "name",
    fields.Line: "text",
    fields.Expanded: "text",
    fields.Gigabytes: "GiB, or 64G",
    fields.NodeMemory: "GiB, or 64G",
    fields.Hours: "hours, or D-HH:MM:SS",
    fields.HoursPerLevel: "level: hours",
    fields.Lines: "list of lines, or a block",
    fields.Options: "list",
    fields.Binds: "list",
    fields.Environment: "NAME: value",
    fields.SbatchOptions: "option: value",
    int: "whole number",
    bool: "true or false",
}


def fields_table() -> str:
    """Field, value and meaning, as Markdown."""
    rows = []
    for prefix, settings in (("", Profile), ("container.", ContainerSettings)):
        hints = typing.get_type_hints(settings, include_extras=True)
        for name, field in settings.model_fields.items():
            if name != "container":
                about = field.description or ""
                rows.append((f"`{prefix}{name}`", _written(hints[name]), about))
    return tables.markdown(("field", "value", "meaning"), rows, left=3)


def _written(hint: Any) -> str:
    """How a value of that type is written in YAML."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(hint))
    return WRITTEN[hint]
