"""One copy of a store in memory per node, shared by the ranks that train from it there."""

from __future__ import annotations

import mmap
import os
import pickle
import secrets
import struct
from dataclasses import dataclass
from pathlib import Path

from phase2hpc.data.graph_arrays import GraphArrays
from phase2hpc.data.store.reader import Store
from phase2hpc.training.distributed.launch_environment import node_name
from phase2hpc.training.distributed.world import World

# Bytes; numpy's own alignment of arrays.
ALIGNMENT = 64
_LENGTHS = struct.Struct("<Q")


@dataclass(frozen=True)
class _Offer:
    """Location of the shared arrays: an anonymous file (memfd) of a process of this node.

    token: random bytes at the file's beginning, by which a reader knows it is that file.
    """

    node: str
    pid: int
    descriptor: int
    token: bytes


def open_shared_store(path: Path, world: World) -> Store:
    """The store, read by one rank of each node and mapped by the others; a collective call.

    A rank that cannot open the shared file (in a container of its own) reads the store itself.
    Raises as ``Store.open``.
    """
    node = node_name()
    nodes = world.all_gather(node)
    first, several = nodes.index(node) == world.rank, nodes.count(node) > 1
    store = Store.open(path) if first else Store.open(path, budget=0)
    offer = None
    if first and several and store.arrays is not None:
        offer = _share(store.arrays, node)
    offers = [other for other in world.all_gather(offer) if other is not None]
    mine = next((other for other in offers if other.node == node), None)
    if mine is not None:
        shared = _attach(mine)
        if shared is not None:
            store.arrays = shared
        elif not first:
            store = Store.open(path)
    # The file stays open until every rank has mapped it.
    world.all_gather(None)
    if offer is not None:
        os.close(offer.descriptor)
    return store


def _share(arrays: GraphArrays, node: str) -> _Offer | None:
    """Copy the arrays to a memfd; None where the system has none, or no memory for it."""
    if not hasattr(os, "memfd_create"):
        return None
    # Computed before sharing, so that every rank has these tables too.
    _ = arrays.node_table, arrays.edge_table
    buffers: list[pickle.PickleBuffer] = []
    structure = pickle.dumps(arrays, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(structure), *(buffer.raw() for buffer in buffers)]
    token = secrets.token_bytes(16)
    lengths = [part.nbytes for part in parts]
    head = token + b"".join(map(_LENGTHS.pack, [len(lengths), *lengths]))
    descriptor = os.memfd_create("phase2hpc-store")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(head)
            for part in parts:
                file.seek(_aligned(file.tell()))
                file.write(part)
            file.truncate(_aligned(file.tell() + 1))
    except OSError:
        os.close(descriptor)
        return None
    return _Offer(node, os.getpid(), descriptor, token)


def _attach(offer: _Offer) -> GraphArrays | None:
    """The shared arrays, mapped read-only; None where the file cannot be opened."""
    try:
        with open(f"/proc/{offer.pid}/fd/{offer.descriptor}", "rb") as file:
            if file.read(len(offer.token)) != offer.token:
                return None
            memory = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
    except OSError:
        return None
    place = len(offer.token)
    (count,) = _LENGTHS.unpack_from(memory, place)
    lengths = [_LENGTHS.unpack_from(memory, place + 8 * (i + 1))[0] for i in range(count)]
    place += 8 * (count + 1)
    parts = []
    for length in lengths:
        place = _aligned(place)
        parts.append(memory[place : place + length])
        place += length
    arrays: GraphArrays = pickle.loads(parts[0], buffers=parts[1:])
    return arrays


def _aligned(place: int) -> int:
    return -(-place // ALIGNMENT) * ALIGNMENT
