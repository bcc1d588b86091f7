"""Groups of options: dataclasses as parameters of commands; names of all options."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from typer.models import OptionInfo


def expand(command: Callable[..., None]) -> Callable[..., None]:
    """The command with each dataclass parameter replaced by one parameter per field, and with the
    name of each option written out."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {
        name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)
    }
    parameters = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name not in groups:
            named = _with_name(hints[parameter.name], parameter.name)
            parameters.append(parameter.replace(annotation=named))
            continue
        kind = groups[parameter.name]
        annotations = get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            parameters.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=_default(field),
                    annotation=_with_name(annotations[field.name], field.name),
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


def _with_name(annotation: Any, name: str) -> Any:
    """The annotation of an option with its flag, which typer 0.27 takes from the metavar where both
    are one word (--LEVEL)."""
    if get_origin(annotation) is not Annotated:
        return annotation
    kind, *extras = get_args(annotation)
    for number, info in enumerate(extras):
        # The first name that is written out is where a default would be.
        if isinstance(info, OptionInfo) and info.metavar and not _names(info):
            extras[number] = copy.copy(info)
            extras[number].param_decls = (f"--{name.replace('_', '-')}",)
    return Annotated[kind, *extras]


def _names(info: OptionInfo) -> list[str]:
    first = [info.default] if isinstance(info.default, str) else []
    return [*first, *(info.param_decls or ())]


def _default(field: dataclasses.Field[Any]) -> Any:
    """Default of the parameter of a field; a field without a default is a required option."""
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
