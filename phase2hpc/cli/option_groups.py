"""Groups of options: dataclasses as parameters of commands."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def expand(command: Callable[..., None]) -> Callable[..., None]:
    """The command with each dataclass parameter replaced by one parameter per field."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {
        name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)
    }
    if not groups:
        return command
    parameters = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name not in groups:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))
            continue
        kind = groups[parameter.name]
        annotations = get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            parameters.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=_default(field),
                    annotation=annotations[field.name],
                )
            )

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, kind in groups.items():
            fields = dataclasses.fields(kind)
            values[name] = kind(**{field.name: values.pop(field.name) for field in fields})
        command(**values)

    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    )
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _default(field: dataclasses.Field[Any]) -> Any:
    """Default of the parameter of a field; a field without a default is a required option."""
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
