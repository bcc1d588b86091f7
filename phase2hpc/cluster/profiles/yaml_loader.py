"""Safe loader for a subset of YAML: one mapping of strings, lists and mappings.

Scalars stay strings until their field converts them: an account 0123, a partition ``on`` and a time
12:30:00 would be 83, true and 45000 in YAML 1.1. Duplicate keys, anchors, tags and large files are
errors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from phase2hpc.errors import InputError
from phase2hpc.utils.regular_file import open_regular

MAX_BYTES = 65_536


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None) is not None:
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases (& and *) are not supported; "
                "quote text that starts with one",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(
                    problem="expected a field name", problem_mark=key.start_mark
                )
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"'{key.value}' is a duplicate key", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# Only null is not a string.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag == "tag:yaml.org,2002:null"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_small_file(path: Path, what: str) -> bytes:
    """Raises InputError for a file that is larger than MAX_BYTES or cannot be read."""
    try:
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) > MAX_BYTES:
        raise InputError(f"{path}: larger than {MAX_BYTES // 1024} KiB: not a {what}")
    return data


def read_mapping(path: Path, what: str = "profile") -> dict[str, Any]:
    """Read the mapping in a file. Raises InputError, with the line, for anything else.

    what: the kind of file in messages.
    """
    data = read_small_file(path, what)
    try:
        # A subclass of SafeLoader: constructs no Python objects.
        content = yaml.load(data, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(error.problem or error.context).split())
        raise InputError(f"{path}{where}: {problem}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply: not a {what}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a {what}: it must have lines of 'field: value'")
    return content
