"""Checks of a store file before its values are used as indices or sizes.

A store may come from an untrusted source, which can also forge the content hash. External links,
external raw data, filters from plug-ins and sizes without stored data are refused by inspecting
the file structure; then arrays are read, and their pointers and indices checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from h5py import h5d, h5l, h5t, h5z

from phase2hpc.data.graph import MAX_ATOMS
from phase2hpc.data.graph_arrays import FIELDS, GraphArrays

# Exceptions that h5py raises for a damaged file.
H5_ERRORS = (
    OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, AttributeError,
    MemoryError,
)  # fmt: skip

MAX_TEXT_BYTES = 1 << 26
# A chunk is decompressed as a whole; ours have 1.5 MB at most.
MAX_CHUNK_BYTES = 1 << 22
# Overhead of a chunk that the filters cannot compress, checksum included.
CHUNK_OVERHEAD = 1 << 10

_FILTERS = {h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE, h5z.FILTER_FLETCHER32}


class InvalidStore(ValueError):
    """The file is not a valid store; the message names the object and the problem."""


def text_attribute(attributes: h5py.AttributeManager, name: str) -> str:
    """Value of a scalar string attribute. Raises InvalidStore for any other."""
    if name not in attributes:
        raise InvalidStore(f"the attribute '{name}' is missing")
    found = attributes.get_id(name)
    if found.shape != () or found.get_type().get_class() != h5t.STRING:
        raise InvalidStore(f"the attribute '{name}' is not a string")
    if found.get_storage_size() > MAX_TEXT_BYTES:
        raise InvalidStore(f"the attribute '{name}' is too long")
    value = attributes[name]
    if not isinstance(value, str):
        raise InvalidStore(f"the attribute '{name}' is not a UTF-8 string")
    return value


def members(group: h5py.Group, name: str) -> h5py.Group | None:
    """A subgroup, or None if it does not exist. Raises InvalidStore for another object."""
    if not group.id.links.exists(name.encode()):
        return None
    found = _linked(group, name)
    if not isinstance(found, h5py.Group):
        raise InvalidStore(f"'{name}' is not a group")
    return found


def check_structure(file: h5py.File, labels: str) -> None:
    """Raise InvalidStore unless the file has every array in its type, shape and storage.

    labels: the name of the group of label columns.
    """
    stored = 0
    lengths = {}
    for name, (dtype, _, tail) in FIELDS.items():
        types = (np.float32, np.float64) if name == "frac_coords" else (dtype,)
        lengths[name], size = _check_dataset(_linked(file, name), name, types, tail)
        stored += size
    columns = members(file, labels)
    for name in columns or ():
        path = f"{labels}/{name}"
        lengths[path], size = _check_dataset(_linked(columns, name, path), path, (np.float32,), ())
        stored += size
    if stored > file.id.get_filesize():
        raise InvalidStore("its arrays claim more bytes than the file has")
    crystals, nodes, edges = (lengths[name] for name in ("lattice", "atomic_number", "sender"))
    wanted = dict.fromkeys(("node_ptr", "edge_ptr", "id_ptr"), crystals + 1)
    wanted |= {"frac_coords": nodes, "receiver": edges, "image": edges}
    wanted |= dict.fromkeys((n for n in lengths if n.startswith(f"{labels}/")), crystals)
    wanted["split"] = crystals
    for name, length in wanted.items():
        if lengths[name] != length:
            raise InvalidStore(f"'{name}' has {lengths[name]} rows, not {length}")


def _linked(group: h5py.Group, name: str, path: str | None = None) -> Any:
    """The object of a hard link; ``path`` names it in messages. Raises InvalidStore."""
    key = name.encode(errors="surrogateescape")
    if not group.id.links.exists(key):
        raise InvalidStore(f"'{path or name}' is missing")
    if group.id.links.get_info(key).type != h5l.TYPE_HARD:
        raise InvalidStore(f"'{path or name}' is a soft or external link")
    return group[key]


def _check_dataset(
    dataset: Any, name: str, types: tuple[type[np.generic], ...], tail: tuple[int, ...]
) -> tuple[int, int]:
    """Rows of the dataset and its bytes in the file."""
    if not isinstance(dataset, h5py.Dataset):
        raise InvalidStore(f"'{name}' is not an array")
    found = dataset.dtype
    if found not in [np.dtype(t).newbyteorder("<") for t in types]:
        raise InvalidStore(f"'{name}' is {found}, not {' or '.join(t.__name__ for t in types)}")
    shape = dataset.shape
    if shape is None or len(shape) != 1 + len(tail) or shape[1:] != tail:
        raise InvalidStore(f"'{name}' has shape {shape}, not {('N', *tail)}".replace("'N'", "N"))
    return shape[0], _check_storage(dataset, name, tail)


def _check_storage(dataset: h5py.Dataset, name: str, tail: tuple[int, ...]) -> int:
    """Bytes in the file. Every chunk of the shape must be stored, with known filters only; external
    raw data, virtual datasets and fill values have no chunks."""
    plan = dataset.id.get_create_plist()
    if plan.get_layout() != h5d.CHUNKED:
        raise InvalidStore(f"'{name}' is not stored in chunks of this file")
    filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    if h5z.FILTER_FLETCHER32 not in filters:
        raise InvalidStore(f"'{name}' has no checksums")
    if not _FILTERS.issuperset(filters) or len(set(filters)) < len(filters):
        raise InvalidStore(f"'{name}' is packed by filters {filters} that are not a store's")
    chunk = plan.get_chunk()
    whole = dataset.dtype.itemsize * int(np.prod(chunk, dtype=object))
    if chunk[1:] != tail or not 0 < whole <= MAX_CHUNK_BYTES:
        raise InvalidStore(f"'{name}' has chunks of shape {chunk}")
    count = sizes = largest = 0
    masked = False

    def look(info: Any) -> None:
        nonlocal count, sizes, largest, masked
        count += 1
        sizes += info.size
        largest = max(largest, info.size)
        masked = masked or info.filter_mask != 0

    dataset.id.chunk_iter(look)
    if count != -(-dataset.shape[0] // chunk[0]):
        raise InvalidStore(f"'{name}' claims {dataset.shape[0]} rows but has {count} chunks")
    if masked:
        raise InvalidStore(f"'{name}' has chunks without checksum")
    if largest > whole + CHUNK_OVERHEAD:
        raise InvalidStore(f"'{name}' has a chunk of {largest} bytes for {whole}")
    return sizes


def check_pointers(pointers: Mapping[str, npt.NDArray[np.int64]], ends: Mapping[str, int]) -> None:
    """Raise InvalidStore unless each pointer ascends from 0 to the length of its arrays.

    Each crystal has 1 to ``MAX_ATOMS`` atoms.
    """
    for name, pointer in pointers.items():
        # Differences of such numbers may overflow; comparisons cannot.
        if pointer[0] != 0 or pointer[-1] != ends[name]:
            raise InvalidStore(f"'{name}' does not span its arrays")
        if (pointer[1:] < pointer[:-1]).any():
            raise InvalidStore(f"'{name}' does not ascend")
    atoms = np.diff(pointers["node_ptr"])
    if (atoms == 0).any():
        raise InvalidStore("'node_ptr': a crystal without atoms")
    if (atoms > MAX_ATOMS).any():
        raise InvalidStore(f"'node_ptr': a crystal of more than {MAX_ATOMS} atoms")


def index_problems(arrays: GraphArrays) -> list[str]:
    """Problems of the indices of these graphs, one line each; pointers must be valid."""
    edge_ptr = arrays.edge_ptr
    atoms = np.repeat(np.diff(arrays.node_ptr).astype(np.uint16), np.diff(edge_ptr))
    receiver = arrays.receiver
    falls = receiver[1:] < receiver[:-1]
    begins = edge_ptr[1:-1]
    falls[begins[(begins > 0) & (begins < len(receiver))] - 1] = False
    checks = {
        "sender: an index beyond the crystal's atoms": arrays.sender >= atoms,
        "receiver: an index beyond the crystal's atoms": receiver >= atoms,
        "receiver: edges are not sorted by receiver": falls,
        "atomic_number: not an element": (arrays.atomic_number < 1) | (arrays.atomic_number > 118),
    }
    found = [message for message, wrong in checks.items() if wrong.any()]
    return found if _is_text(arrays) else [*found, "ids: not valid UTF-8"]


def _is_text(arrays: GraphArrays) -> bool:
    """True if every id is UTF-8: all of them together, and none begins within a character."""
    try:
        arrays.id_bytes.tobytes().decode()
    except UnicodeDecodeError:
        return False
    begins = arrays.id_ptr[:-1]
    begins = begins[begins < len(arrays.id_bytes)]
    return not ((arrays.id_bytes[begins] & 0xC0) == 0x80).any()
