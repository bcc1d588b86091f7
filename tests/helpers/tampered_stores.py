"""Changes of a store by someone who means harm, and the reason that each is refused with."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phase2hpc.config.properties import ColumnSettings
from phase2hpc.data.graph import GraphSettings
from phase2hpc.data.graph_arrays import FIELDS
from phase2hpc.data.store.layout import content_hash, dataset_paths, describe

Tamper = Callable[[h5py.File], object]
CRYSTALS = 150  # of the store ``tiny``
LABEL = "labels/band_gap"


def put(file: h5py.File, name: str, values: Any, **options: Any) -> h5py.Dataset:
    """The array anew, stored as ours are unless the options say otherwise."""
    attributes = dict(file[name].attrs) if name in file else {}
    if name in file:
        del file[name]
    values = np.asarray(values)
    ours = {
        "chunks": (min(1024, max(1, len(values))), *values.shape[1:]),
        "fletcher32": True,
        "compression": "gzip",
        "maxshape": (None, *values.shape[1:]),
    }
    dataset = file.create_dataset(name, data=values, **{**ours, **options})
    dataset.attrs.update(attributes)
    return dataset


def edit(name: str, change: Callable[[Any], Any], **options: Any) -> Tamper:
    return lambda file: put(file, name, change(file[name][...]), **options)


def at(name: str, place: Any, value: Any) -> Tamper:
    def change(values: Any) -> Any:
        values[place] = value
        return values

    return edit(name, change)


def attribute(name: str, value: Any) -> Tamper:
    def change(file: h5py.File) -> None:
        if value is None:
            del file.attrs[name]
        else:
            file.attrs[name] = value

    return change


def settings(**changes: Any) -> Tamper:
    def change(file: h5py.File) -> None:
        values = json.loads(file.attrs["graph_settings"]) | changes
        file.attrs["graph_settings"] = json.dumps(values)

    return change


def label_attribute(name: str, value: Any) -> Tamper:
    def change(file: h5py.File) -> None:
        file[LABEL].attrs[name] = value

    return change


def instead(name: str, make: Callable[[h5py.File], Any]) -> Tamper:
    def change(file: h5py.File) -> None:
        attributes = dict(file[name].attrs)
        del file[name]
        made = make(file)
        if isinstance(made, (h5py.SoftLink, h5py.ExternalLink)):
            file[name] = made
        elif made is not None:
            made.attrs.update(attributes)

    return change


def raw_data_elsewhere(file: h5py.File) -> h5py.Dataset:
    count = 512
    return file.create_dataset(
        "atomic_number", shape=(count,), dtype=np.uint8, external=[("/etc/passwd", 0, count)]
    )


def virtual(file: h5py.File) -> h5py.Dataset:
    layout = h5py.VirtualLayout(shape=(CRYSTALS,), dtype=np.int8)
    layout[:] = h5py.VirtualSource("/nowhere/other.h5", "split", shape=(CRYSTALS,))
    return file.create_virtual_dataset("split", layout)


def claimed(name: str, rows: int) -> Tamper:
    def change(file: h5py.File) -> None:
        file[name].resize(rows, axis=0)

    return change


def all_claimed(file: h5py.File) -> None:
    """A terabyte of crystals without a chunk of it, of lengths that fit each other."""
    rows = 1 << 34
    for name, (_, owner, _) in FIELDS.items():
        file[name].resize(rows + (owner == "pointer"), axis=0)
    for dataset in file["labels"].values():
        dataset.resize(rows, axis=0)


def with_filter(code: int) -> Callable[[h5py.File], h5py.Dataset]:
    """A dataset whose chunks name a filter that HDF5 would have to load from a plug-in."""

    def make(file: h5py.File) -> h5py.Dataset:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((256,))
        plan.set_fletcher32()
        plan.set_filter(code, h5py.h5z.FLAG_OPTIONAL, (1, 2))
        space = h5py.h5s.create_simple((CRYSTALS,), (h5py.h5s.UNLIMITED,))
        made = h5py.h5d.create(file.id, b"split", h5py.h5t.STD_I8LE, space, plan)
        made.write_direct_chunk((0,), b"\0" * 260, 1 << 1)
        return h5py.Dataset(made)

    return make


def bomb_in_a_chunk(file: h5py.File) -> h5py.Dataset:
    """One chunk of 256 bytes that unpacks to hundreds of megabytes."""
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((256,))
    plan.set_deflate(9)
    plan.set_fletcher32()
    space = h5py.h5s.create_simple((CRYSTALS,), (h5py.h5s.UNLIMITED,))
    made = h5py.h5d.create(file.id, b"split", h5py.h5t.STD_I8LE, space, plan)
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(b"\0" * (1 << 20)) for _ in range(200)) + packer.flush()
    made.write_direct_chunk((0,), packed + b"\0\0\0\0", 0)
    return h5py.Dataset(made)


def without_checksum(file: h5py.File) -> None:
    values = np.zeros(CRYSTALS, dtype=np.int8)
    dataset = put(file, "split", values, compression=None, chunks=(256,))
    dataset.id.write_direct_chunk((0,), bytes(256), 1)


def rename_label(name: str) -> Tamper:
    def change(file: h5py.File) -> None:
        file[LABEL].attrs["name"] = name

    return change


def ids(change: Callable[[list[bytes]], list[bytes]]) -> Tamper:
    def rewrite(file: h5py.File) -> None:
        pointer, text = file["id_ptr"][...], file["id_bytes"][...].tobytes()
        names = change([text[a:b] for a, b in pairwise(pointer)])
        ends = np.cumsum([0, *(len(name) for name in names)])
        put(file, "id_ptr", ends.astype(np.int64))
        put(file, "id_bytes", np.frombuffer(b"".join(names), dtype=np.uint8))

    return rewrite


# What is refused before any array is read.
STRUCTURE: dict[str, tuple[Tamper, str]] = {
    **{f"{name} missing": (instead(name, lambda file: None), f"'{name}' is missing")
       for name in FIELDS},
    **{f"{name} is a group": (
        instead(name, lambda file, name=name: file.create_group(name)), f"'{name}' is not an array")
       for name in ("node_ptr", LABEL)},
    **{f"{name} in floats": (edit(name, lambda v: v.astype("<f4")), f"'{name}' is float32")
       for name in ("node_ptr", "edge_ptr", "id_ptr", "sender", "receiver", "atomic_number")},
    "numbers of 2 bytes": (edit("atomic_number", lambda v: v.astype("<u2")), "is uint16"),
    "indices of 8 bytes": (edit("sender", lambda v: v.astype("<u8")), "'sender' is uint64"),
    "pointers of 4 bytes": (edit("node_ptr", lambda v: v.astype("<i4")), "'node_ptr' is int32"),
    "unsigned pointers": (edit("edge_ptr", lambda v: v.astype("<u8")), "'edge_ptr' is uint64"),
    "another byte order": (edit("lattice", lambda v: v.astype(">f8")), "'lattice' is >f8"),
    "half precision": (edit("frac_coords", lambda v: v.astype("<f2")), "'frac_coords' is float16"),
    "labels in double precision": (edit(LABEL, lambda v: v.astype("<f8")), "is float64"),
    "numbers as texts": (edit("split", lambda v: v.astype("S4")), "'split' is |S4"),
    "a compound": (
        edit("split", lambda v: np.zeros(len(v), dtype=[("a", "i1"), ("b", "<f8")])), "'split' is"),
    "texts of any length": (
        instead("split", lambda file: file.create_dataset(
            "split", (CRYSTALS,), chunks=(CRYSTALS,), dtype=h5py.string_dtype())),
        "'split' is object"),
    "references": (
        instead("split", lambda file: file.create_dataset(
            "split", (CRYSTALS,), chunks=(CRYSTALS,), dtype=h5py.ref_dtype)), "'split' is object"),
    "no shape": (
        instead("split", lambda file: file.create_dataset("split", data=h5py.Empty("i1"))),
        "'split' has shape None"),
    "a scalar": (
        instead("split", lambda file: file.create_dataset("split", data=np.int8(1))),
        "'split' has shape ()"),
    "one axis more": (edit("sender", lambda v: v[:, None]), "'sender' has shape"),
    "one axis less": (edit("lattice", lambda v: v.reshape(-1, 9)), "'lattice' has shape"),
    "images in a plane": (edit("image", lambda v: v[:, :2]), "'image' has shape"),
    "a pointer cut": (edit("node_ptr", lambda v: v[:-1]), "'node_ptr' has 150 rows, not 151"),
    "no pointer": (edit("node_ptr", lambda v: v[:0]), "'node_ptr' has 0 rows"),
    "a label cut": (edit(LABEL, lambda v: v[:-1]), "'labels/band_gap' has 149 rows, not 150"),
    "a split more": (edit("split", lambda v: np.append(v, v[:1])), "'split' has 151 rows"),
    "receivers cut": (edit("receiver", lambda v: v[:-1]), "'receiver' has"),
    "soft link": (instead("sender", lambda file: h5py.SoftLink("/receiver")), "'sender' is a soft"),
    "dangling soft link": (
        instead("sender", lambda file: h5py.SoftLink("/none")), "'sender' is a soft"),
    "link to itself": (
        instead("sender", lambda file: h5py.SoftLink("/sender")), "'sender' is a soft"),
    "link to another file": (
        instead("sender", lambda file: h5py.ExternalLink("other.h5", "/sender")),
        "'sender' is a soft"),
    "labels in another file": (
        lambda file: (file.move("labels", "mine"),
                      file.__setitem__("labels", h5py.ExternalLink("other.h5", "/labels"))),
        "'labels' is a soft"),
    "a label in another file": (
        instead(LABEL, lambda file: h5py.ExternalLink("other.h5", "/split")),
        "'labels/band_gap' is a soft"),
    "labels are the root": (
        lambda file: (file.move("labels", "mine"), file.__setitem__("labels", file["/"])),
        "'labels/"),
    "labels are an array": (
        lambda file: (file.move("labels", "mine"), file.__setitem__("labels", file["split"])),
        "'labels' is not a group"),
    "raw data in another file": (
        instead("atomic_number", raw_data_elsewhere), "'atomic_number' is not stored in chunks"),
    "an array made of others": (instead("split", virtual), "'split' is not stored in chunks"),
    "not in chunks": (
        edit("split", lambda v: v, chunks=None, fletcher32=False, compression=None, maxshape=None),
        "'split' is not stored in chunks"),
    "no checksums": (edit("split", lambda v: v, fletcher32=False), "'split' has no checksums"),
    "checksums left out": (without_checksum, "'split' has chunks without checksum"),
    "rows of nothing": (claimed("id_bytes", 1 << 60), "'id_bytes' claims 1152921504606846976 rows"),
    "crystals of nothing": (all_claimed, "claims"),
    "huge chunks": (
        edit("image", lambda v: v, chunks=(1 << 21, 3)), "'image' has chunks of shape (2097152"),
    "chunks across rows": (edit("image", lambda v: v, chunks=(64, 1)), "'image' has chunks of"),
    "a filter from a plug-in": (instead("split", with_filter(32015)), "[3, 32015]"),
    "the szip filter": (instead("split", with_filter(4)), "[3, 4]"),
    "a bomb in a chunk": (instead("split", bomb_in_a_chunk), "'split' has a chunk of"),
    "a name of other than itself": (rename_label("ehull"), "'labels/band_gap' has the name"),
    "a name that is a path": (rename_label("../../x"), "has the name '../../x'"),
    "a name with a control": (rename_label("\x1b[2Jband"), "control character U+001B"),
    "a name of two lines": (rename_label("a\nb"), "control character U+000A"),
    "an empty name": (rename_label(""), "is empty"),
    "an endless name": (rename_label("x" * 5000), "has 5000 characters"),
    "a name that is a number": (label_attribute("name", 3), "attribute 'name' is not a string"),
    "a unit that is a number": (label_attribute("unit", 1.5), "attribute 'unit' is not a string"),
    "units in a row": (label_attribute("unit", ["eV", "K"]), "attribute 'unit' is not a string"),
    **{f"no {name}": (attribute(name, None), f"attribute '{name}' is missing")
       for name in ("graph_settings", "source", "preparation", "summary", "versions", "created",
                    "content_hash")},
    **{f"{name} is a number": (attribute(name, 7), f"attribute '{name}' is not a string")
       for name in ("graph_settings", "source", "created", "content_hash", "format")},
    **{f"{name} is no object": (attribute(name, "[1]"), f"attribute '{name}' is not a JSON object")
       for name in ("source", "preparation", "versions")},
    "settings are no JSON": (attribute("graph_settings", "{"), "'graph_settings' is not JSON"),
    "settings too deep": (attribute("source", "[" * 200_000), "'source' is nested too deeply"),
    "counts that are none": (
        attribute("summary", '{"splits": {"train": "x"}}'), "has a value that is not a count"),
    "counts of counts of counts": (
        attribute("summary", '{"a": {"b": {"c": {"d": 1}}}}'), "has a value that is not a count"),
    "no hash": (attribute("content_hash", "0" * 63), "is not a SHA-256 digest"),
    "no cutoff": (settings(cutoff=float("nan")), "cutoff nan A is outside"),
    "infinite cutoff": (settings(cutoff=float("inf")), "cutoff inf A is outside"),
    "true cutoff": (settings(cutoff=True), "has a value that is not a number"),
    "a cutoff in words": (settings(cutoff="6"), "has a value that is not a number"),
    "half a neighbour": (settings(max_neighbors=12.5), "has a value that is not a number"),
    "a setting more": (settings(extra=1), "does not hold cutoff, max_neighbors, shell_width"),
    "version in words": (attribute("schema_version", "1"), "'schema_version' is not a pos"),
    "version zero": (attribute("schema_version", 0), "'schema_version' is not a pos"),
    "versions in a row": (attribute("schema_version", [1, 1]), "'schema_version' is not a pos"),
    "complete in words": (attribute("complete", "False"), "'complete' is not a boolean"),
    "not complete": (attribute("complete", False), "is incomplete"),
    "complete or not": (attribute("complete", None), "is incomplete"),
}  # fmt: skip

# What is refused before a number is used as an index: what it points to is not there.
INDICES: dict[str, tuple[Tamper, str]] = {
    "a negative pointer": (at("node_ptr", 3, -5), "'node_ptr' does not ascend"),
    "a falling pointer": (at("edge_ptr", 5, 1), "'edge_ptr' does not ascend"),
    "an overflowing pointer": (
        at("edge_ptr", slice(2, 4), [2**63 - 1, -(2**63)]), "'edge_ptr' does not ascend"),
    "a pointer beyond the end": (at("node_ptr", -1, 10**12), "'node_ptr' does not span"),
    "a pointer short of the end": (edit("edge_ptr", lambda v: v - (v == v[-1])), "does not span"),
    "a pointer from one": (at("node_ptr", 0, 1), "'node_ptr' does not span"),
    "a crystal without atoms": (
        edit("node_ptr", lambda v: np.where(np.arange(CRYSTALS + 1) == 4, v[5], v)),
        "'node_ptr': a crystal without atoms"),
    "ids beyond the end": (at("id_ptr", -1, 10**9), "'id_ptr' does not span"),
    "ids that fall": (at("id_ptr", 4, 2), "'id_ptr' does not ascend"),
    "a sender of another crystal": (at("sender", 7, 60_000), "sender: an index beyond"),
    "a receiver of another crystal": (at("receiver", -1, 65_535), "receiver: an index beyond"),
    "edges in disorder": (
        edit("receiver", lambda v: v[::-1].copy()), "receiver: "),
    "element 0": (at("atomic_number", 0, 0), "atomic_number: not an element"),
    "element 119": (at("atomic_number", 0, 119), "atomic_number: not an element"),
    "element 255": (at("atomic_number", -1, 255), "atomic_number: not an element"),
    "ids that are no text": (at("id_bytes", 1, 0xFF), "ids: not valid UTF-8"),
    "ids cut within a character": (
        ids(lambda names: ["\u00d8".encode()[:1], "\u00d8".encode()[1:], *names[2:]]),
        "ids: not valid UTF-8"),
}  # fmt: skip

# What no index depends on: readers take it, verify does not.
CONTENT: dict[str, tuple[Tamper, str]] = {
    "a lattice that is none": (at("lattice", (3, 0, 0), np.nan), "lattice: not finite"),
    "an infinite lattice": (at("lattice", (3, 0, 0), np.inf), "lattice: not finite"),
    "a flat lattice": (at("lattice", 3, np.ones((3, 3))), "lattice: not finite or without volume"),
    "coordinates that are none": (at("frac_coords", (0, 1), np.nan), "frac_coords: not finite"),
    "images far away": (at("image", (5, 2), 127), "image: an edge longer than the cutoff of 6 A"),
    "images beyond them": (at("image", (5, 2), -128), "image: an edge longer than the cutoff"),
    "split 3": (at("split", 0, 3), "split: not a split"),
    "split -2": (at("split", 0, -2), "split: not a split"),
    "an infinite label": (at(LABEL, 0, np.inf), f"{LABEL}: infinite"),
    "ids twice": (ids(lambda names: [names[1], *names[1:]]), "ids that occur twice"),
    "an id of two lines": (ids(lambda names: [b"a\nb", *names[1:]]), "control character U+000A"),
    "an id with a zero": (ids(lambda names: [b"a\0b", *names[1:]]), "control character U+0000"),
    "an empty id": (ids(lambda names: [b"", *names[1:]]), "ids: one is empty"),
    "an endless id": (ids(lambda names: [b"x" * 5000, *names[1:]]), "has 5000 characters"),
    "other settings": (attribute(
        "graph_settings", json.dumps(GraphSettings(cutoff=4.0).to_dict())), "content hash"),
}  # fmt: skip
KINDS = {**STRUCTURE, **INDICES, **CONTENT}


def rehash(path: Path) -> None:
    """The content hash of what is in the file now, as far as it can be read."""
    with h5py.File(path, "r+") as file:
        try:
            arrays = {}
            for name in dataset_paths(file):
                data = np.ascontiguousarray(file[name][...])
                arrays[name] = describe(file[name], _sha256(data))
            graph = GraphSettings(**json.loads(file.attrs["graph_settings"]))
            units = {
                d.attrs["name"]: ColumnSettings(unit=d.attrs["unit"])
                for d in file["labels"].values()
            }
            file.attrs["content_hash"] = content_hash(graph, units, arrays)
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError):
            return


def _sha256(data: Any) -> str:
    return hashlib.sha256(data.data).hexdigest()


# Where the hash of what is there cannot be made or is itself what was changed.
NOT_HASHED = {
    "rows of nothing", "crystals of nothing", "a bomb in a chunk", "no content_hash", "no hash",
    "content_hash is a number", "other settings",
}  # fmt: skip
