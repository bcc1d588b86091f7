"""Symmetry operations: a group of listed ones, and the atoms it makes of the sites."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import gemmi
import numpy as np
import numpy.typing as npt

from phase2hpc.data.readers.cif.space_groups import SymmetryError

Array = npt.NDArray[np.float64]

# Images of a site closer than this (angstrom) are one atom: coordinates rounded to two or three
# digits miss their special position by that much, and no two atoms of a crystal come so near.
SAME_ATOM = 0.1
# A space group has at most 192 in any setting of the tables; a larger cell may have more of them.
MAX_OPERATIONS = 1000
# How far, relatively, an operation may change the cell's metric: relaxed cells are symmetric to
# the tolerance with which their symmetry was found.
METRIC_TOLERANCE = 0.05
# Steps in a lattice vector by which positions are compared, three of them in one number, and an
# offset that keeps fractions such as 1/3 away from the ends of steps.
PLACES = 1 << 20
PLACE_OFFSET = 0.3819
_LARGE_INTEGER = re.compile(r"(?<![.\d])\d{4,}")
_TIME_REVERSAL = re.compile(r",\s*[+-]?\s*1\s*$")


def group_of(triplets: Sequence[str]) -> gemmi.GroupOps:
    """The group of operations listed as "-x, y+1/2, z"; they must be all of its operations.

    Raises SymmetryError for what is no operation, and for a list that is no group.
    """
    if len(triplets) > MAX_OPERATIONS:
        raise SymmetryError(
            f"too many symmetry operations: {len(triplets)} are listed, at most {MAX_OPERATIONS} "
            "are taken (a space group has up to 192)"
        )
    return _group_of(tuple(triplets))


@lru_cache(maxsize=512)
def _group_of(triplets: tuple[str, ...]) -> gemmi.GroupOps:
    return _closed_group([_operation(text) for text in triplets])


def group_of_magnetic(triplets: Sequence[str], centrings: Sequence[str]) -> gemmi.GroupOps:
    """The space group of the nuclei: magnetic operations and centrings without time reversal."""
    operations, shifts = (
        [_operation(_TIME_REVERSAL.sub("", text.strip("'\" "))) for text in listed]
        for listed in (triplets, centrings or ["x,y,z"])
    )
    if len(operations) * len(shifts) > MAX_OPERATIONS:
        raise SymmetryError(
            f"too many symmetry operations: {len(operations)} times {len(shifts)} centrings are "
            f"listed, at most {MAX_OPERATIONS} are taken"
        )
    return _closed_group([shift * operation for shift in shifts for operation in operations])


@lru_cache(maxsize=512)
def arrays_of(group: gemmi.GroupOps) -> tuple[Array, Array]:
    """Rotations (m, 3, 3) and translations (m, 3) in fractional coordinates, not to be changed.

    Cached by the group's identity: ``group_of`` gives one object for equal lists.
    """
    # gemmi makes the operations anew for each loop over them.
    operations = list(group)
    rotations = np.array([op.rot for op in operations], dtype=np.float64) / gemmi.Op.DEN
    translations = np.array([op.tran for op in operations], dtype=np.float64) / gemmi.Op.DEN
    return rotations, translations


def operation_set(group: gemmi.GroupOps) -> frozenset[str]:
    """The operations as normalised triplets, for comparison."""
    return frozenset(op.wrap().triplet() for op in group)


def point_group_signature(group: gemmi.GroupOps) -> tuple[object, ...]:
    """Number of rotations of each kind, equal for all settings of a space group."""
    kinds = Counter(
        (op.det_rot() > 0, sum(op.rot[i][i] for i in range(3)) // gemmi.Op.DEN)
        for op in group.sym_ops
    )
    return tuple(sorted(kinds.items()))


def check_metric(rotations: Array, cell: Sequence[float]) -> None:
    """Raise SymmetryError where operations do not map the cell (a, b, c, angles) on itself."""
    lengths = np.array(cell[:3])
    cos_alpha, cos_beta, cos_gamma = np.cos(np.radians(cell[3:])).tolist()
    metric = np.outer(lengths, lengths) * np.array(
        [[1.0, cos_gamma, cos_beta], [cos_gamma, 1.0, cos_alpha], [cos_beta, cos_alpha, 1.0]]
    )
    change = np.swapaxes(rotations, 1, 2) @ metric @ rotations - metric
    if (np.abs(change) / np.outer(lengths, lengths)).max() > METRIC_TOLERANCE:
        shown = ", ".join(f"{value:g}" for value in cell)
        raise SymmetryError(
            f"conflicting symmetry: the symmetry operations do not fit the cell ({shown})"
        )


def expand(
    frac: Array, lattice: Array, rotations: Array, translations: Array
) -> tuple[Array, npt.NDArray[np.intp]]:
    """All atoms of the cell: fractional coordinates (n, 3), and the site (n,) each is an image of.

    A site within SAME_ATOM of a special position is put on it exactly (the mean of the images
    that coincide), so that 0.3333 for 1/3 neither doubles the atom nor breaks the symmetry.
    """
    if len(rotations) == 1:
        return frac, np.arange(len(frac))
    shift = _images(frac, rotations, translations) - frac[:, None]
    shift -= np.rint(shift)
    stays = np.square(shift @ lattice).sum(axis=2) < SAME_ATOM**2
    multiple = stays.sum(axis=1)
    special = frac + (shift * stays[:, :, None]).sum(axis=1) / multiple[:, None]
    images = _images(special, rotations, translations)
    images -= np.floor(images)
    kept = np.ones(images.shape[:2], dtype=bool)
    sites = np.flatnonzero(multiple > 1)
    if len(sites):
        kept[sites] = _first_images(images[sites], multiple[sites])
    return images[kept], np.repeat(np.arange(len(frac)), kept.sum(axis=1))


def _images(frac: Array, rotations: Array, translations: Array) -> Array:
    """(n, m, 3): each of n points under each of m operations."""
    return np.ascontiguousarray((rotations @ frac.T).transpose(2, 0, 1)) + translations


def _first_images(images: Array, multiple: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """True for images (n, m, 3) that are the first of their site on a position; multiple (n,): how
    many coincide on each, as far as they are images under a group."""
    # Positions as whole numbers, which sort fast.
    places = np.floor(images * PLACES + PLACE_OFFSET).astype(np.int64) % PLACES
    keys = (places[:, :, 0] * PLACES + places[:, :, 1]) * PLACES + places[:, :, 2]
    order = np.argsort(keys, axis=1, kind="stable")
    ordered = np.take_along_axis(keys, order, axis=1)
    first_of_key = np.ones(keys.shape, dtype=bool)
    first_of_key[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.empty(keys.shape, dtype=bool)
    np.put_along_axis(first, order, first_of_key, axis=1)
    # Where rounding parted equal positions, or made different ones equal, counts differ.
    for site in np.flatnonzero(first.sum(axis=1) * multiple != keys.shape[1]):
        first[site] = _first_of_equal(images[site])
    return first


def _first_of_equal(images: Array) -> npt.NDArray[np.bool_]:
    """True for images (m, 3) that are the first of those on the same position."""
    equal = np.ones((len(images), len(images)), dtype=bool)
    # An axis at a time: numpy is slow on rows of three.
    for axis in images.T:
        apart = axis[:, None] - axis
        apart -= np.rint(apart)
        equal &= np.abs(apart) < 1e-6
    first: npt.NDArray[np.bool_] = equal.argmax(axis=1) == np.arange(len(images))
    return first


def _operation(text: str) -> gemmi.Op:
    if text.endswith(",") and text.count(",") < 3:
        raise SymmetryError(
            f"bad symmetry operation: '{text[:40]}' (one with blanks needs quotes: 'x, y, z')"
        )
    try:
        # Unusual cells have operations like "x, -y, 2x-z", as pymatgen writes them.
        op = gemmi.Op(re.sub(r"(\d)([xyzXYZ])", r"\1*\2", text.strip("'\" "))).wrap()
    except (RuntimeError, ValueError):
        raise SymmetryError(f"bad symmetry operation: '{text[:40]}'") from None
    # gemmi lets larger integers overflow to others.
    if _LARGE_INTEGER.search(text):
        raise SymmetryError(f"bad symmetry operation: '{text[:40]}' holds a huge number")
    if op.is_hkl() or abs(op.det_rot()) != gemmi.Op.DEN**3 or not re.search("[xX]", text):
        raise SymmetryError(f"bad symmetry operation: '{text[:40]}' is no operation on x, y, z")
    return op


def _closed_group(listed: Sequence[gemmi.Op]) -> gemmi.GroupOps:
    operations = {op.wrap().triplet(): op.wrap() for op in listed}
    group = gemmi.GroupOps(list(operations.values()))
    try:
        group.add_missing_elements()
    except RuntimeError as error:
        raise SymmetryError(
            f"incomplete symmetry: the listed operations form no group ({error})"
        ) from None
    complete = operation_set(group)
    if complete != set(operations):
        raise SymmetryError(
            f"incomplete symmetry: {len(operations)} operations are listed, the group they "
            f"generate has {len(complete)}"
        )
    if not _is_closed(group):
        raise SymmetryError(
            f"incomplete symmetry: the {len(operations)} listed operations form no group (some "
            "products of two of them are not listed)"
        )
    return group


def _is_closed(group: gemmi.GroupOps) -> bool:
    """True if products of operations are operations again.

    gemmi completes the rotations, and takes the centring vectors and translations on trust.
    """
    den = gemmi.Op.DEN
    # In units of 1/den, as gemmi has them: an orthohexagonal cell has rotations with halves.
    rotations = np.array([op.rot for op in group.sym_ops], dtype=np.int64)
    translations = np.array([op.tran for op in group.sym_ops], dtype=np.int64)
    centrings = np.array(group.cen_ops, dtype=np.int64) % den
    place = np.array([1, den, den * den])
    known = np.zeros(den**3, dtype=bool)
    known[centrings @ place] = True
    sums = (centrings[:, None] + centrings[None]) % den
    turned = np.einsum("rij,cj->rci", rotations, centrings)
    products = np.einsum("aij,bjk->abik", rotations, rotations)
    shifts = np.einsum("aij,bj->abi", rotations, translations)
    if (turned % den).any() or (products % den).any() or (shifts % den).any():
        return False
    turned, products, shifts = turned // den % den, products // den, shifts // den
    if not (known[sums @ place].all() and known[turned @ place].all()):
        return False
    weights = 7.0 ** np.arange(9)
    keys = rotations.reshape(-1, 9) @ weights
    order = np.argsort(keys)
    product_keys = products.reshape(*products.shape[:2], 9) @ weights
    found = order[np.searchsorted(keys, product_keys, sorter=order).clip(max=len(keys) - 1)]
    if not (rotations[found] == products).all():
        return False
    excess = shifts + translations[:, None] - translations[found]
    return bool(known[(excess % den) @ place].all())
