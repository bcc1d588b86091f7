"""Pairs of atoms within a radius, with periodic images, by vesin."""

from __future__ import annotations

import ctypes
import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import vesin

# Boxes of the radius' size in a cell; above 1e5 vesin makes them larger, not always rightly.
MAX_BOXES = 9e4


class Pairs(NamedTuple):
    """Every pair of atoms closer than ``radius``, in no order, each seen from both atoms.

    receiver, sender: (E,) int64 indices. image: (E, 3) int32, the sender's lattice image.
    distance: (E,) float64 angstrom.
    """

    radius: float
    receiver: npt.NDArray[np.int64]
    sender: npt.NDArray[np.int64]
    image: npt.NDArray[np.int32]
    distance: npt.NDArray[np.float64]


def pairs_within(
    lattice: npt.NDArray[np.float64], frac_coords: npt.NDArray[np.float64], radius: float
) -> Pairs:
    """Pairs of the atoms of a cell; lattice (3, 3) and radius in angstrom, frac_coords (n, 3)."""
    positions = np.ascontiguousarray(frac_coords @ lattice, dtype=np.float64)
    box = np.ascontiguousarray(lattice, dtype=np.float64)
    wider = _searchable(box, radius)
    pairs: Pairs = (_direct or _by_class)(positions, box, wider)
    if wider == radius:
        return pairs
    kept = pairs.distance < radius
    return Pairs(
        radius,
        pairs.receiver[kept],
        pairs.sender[kept],
        pairs.image[kept],
        pairs.distance[kept],
    )


def _searchable(box: npt.NDArray[np.float64], radius: float) -> float:
    """The radius, enlarged where the cell would make more than MAX_BOXES boxes."""
    a, b, c = box.tolist()
    if math.prod(max(1.0, math.hypot(*vector) / radius) for vector in (a, b, c)) <= MAX_BOXES:
        return radius
    # Distances between opposite faces, which are at most as long as the vectors.
    heights = 1.0 / np.linalg.norm(np.linalg.inv(box), axis=0)
    while float(np.maximum(1.0, heights / radius).prod()) > MAX_BOXES:
        radius *= 1.2
    return radius


def _by_class(
    positions: npt.NDArray[np.float64], box: npt.NDArray[np.float64], radius: float
) -> Pairs:
    """The search through vesin's own class."""
    search = vesin.NeighborList(cutoff=radius, full_list=True, sorted=False)
    receiver, sender, image, distance = search.compute(
        points=positions, box=box, periodic=True, quantities="ijSd"
    )
    return Pairs(radius, receiver.view(np.int64), sender.view(np.int64), image, distance)


def _direct_search() -> Any:
    """The search through vesin's C function, None where this version has another signature.

    The Python class takes longer to convert its arguments than the search of a usual cell does.
    It also starts a thread per core, however small the cell.
    """
    try:
        from vesin._c_api import (
            VesinCPU,
            VesinDevice,
            VesinNeighborList,
            VesinOptions,
        )
        from vesin._c_lib import get_library

        library = get_library()
        expected = [
            ctypes.POINTER(ctypes.c_double), ctypes.c_size_t, ctypes.POINTER(ctypes.c_double),
            ctypes.POINTER(ctypes.c_bool), VesinDevice, VesinOptions,
            ctypes.POINTER(VesinNeighborList), ctypes.POINTER(ctypes.c_char_p),
        ]  # fmt: skip
        options = VesinOptions(full=True, return_shifts=True, return_distances=True, n_threads=1)
        offsets = [getattr(VesinNeighborList, n).offset for n in ("pairs", "shifts", "distances")]
    except (ImportError, AttributeError, TypeError):
        return None
    if list(library.vesin_neighbors.argtypes or ()) != expected:
        return None
    pointer = ctypes.c_void_p
    # Addresses as numbers: pointer objects of ctypes would take half the time of a search.
    search = ctypes.CFUNCTYPE(
        ctypes.c_int, pointer, ctypes.c_size_t, pointer, pointer, VesinDevice, VesinOptions,
        pointer, pointer,
    )(("vesin_neighbors", library))  # fmt: skip
    free = ctypes.CFUNCTYPE(None, pointer)(("vesin_free", library))
    device = VesinDevice(VesinCPU, 0)
    periodic = np.ones(3, dtype=np.bool_)
    periodic_address = periodic.ctypes.data

    def direct(
        positions: npt.NDArray[np.float64], box: npt.NDArray[np.float64], radius: float
    ) -> Pairs:
        options.cutoff = radius
        found = VesinNeighborList()
        address = ctypes.addressof(found)
        message = ctypes.c_char_p()
        failed = search(
            positions.ctypes.data, len(positions), box.ctypes.data, periodic_address, device,
            options, address, ctypes.addressof(message),
        )  # fmt: skip
        try:
            if failed:
                raise RuntimeError((message.value or b"").decode())
            count = found.length
            pairs, image, distance = (
                ctypes.string_at(pointer.from_address(address + offset).value or 0, size * count)
                for offset, size in zip(offsets, (16, 12, 8), strict=True)
            )
        finally:
            free(address)
        both = np.frombuffer(pairs, dtype=np.int64).reshape(-1, 2)
        return Pairs(
            radius,
            both[:, 0],
            both[:, 1],
            np.frombuffer(image, dtype=np.int32).reshape(-1, 3),
            np.frombuffer(distance, dtype=np.float64),
        )

    direct.periodic = periodic  # type: ignore[attr-defined]  # its memory is in use
    return direct


_direct = _direct_search()
