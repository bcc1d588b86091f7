"""Crystals of the sample data set, other descriptions of the same crystal, and what models make
of them: the whole chain from raw crystal to prediction."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from paths import SAMPLE
from pymatgen.core import Lattice, Structure
from torch_geometric.data import Data

from phase2hpc.config.algorithms import ALGORITHMS
from phase2hpc.data.convert import Rejection, graphs_of
from phase2hpc.data.crystal import RawCrystal
from phase2hpc.data.graph import GraphSettings
from phase2hpc.data.graph_arrays import GraphArrays, pack
from phase2hpc.data.loader import collate
from phase2hpc.models.multitask import MultiTaskModel, build_model

# By id, what each stands for. All but the last four have atoms whose 12th and 13th neighbour tie,
# or vectors that sum to zero by symmetry.
IDS = {
    "JVASP-816": "Al, fcc, one atom",
    "JVASP-1014": "Ta, bcc, one atom",
    "JVASP-91": "C, diamond",
    "JVASP-14545": "US, rocksalt",
    "JVASP-16336": "TiFeSb, half-Heusler, no inversion",
    "JVASP-1127": "KTaO3, perovskite",
    "JVASP-19917": "Cr3Rh, A15",
    "JVASP-36137": "WH, hexagonal",
    "JVASP-93506": "NdNi5, hexagonal",
    "JVASP-10": "VSe2, layered",
    "JVASP-4101": "Bi2Te2Se, rhombohedral, layered",
    "JVASP-12320": "Pb2C4N4S4, monoclinic",
    "JVASP-119470": "CeRhO3, orthorhombic, 20 atoms",
    "JVASP-13359": "Na4S2O5, triclinic, no symmetry",
    "JVASP-96960": "Dy5Sn11, triclinic",
}
LOW_SYMMETRY = "JVASP-13359"
LONELY = RawCrystal("lonely", "test", np.eye(3) * 9.9, ["Ar"], [[0.5, 0.0, 0.0]])
PROPERTIES = ("formation_energy", "band_gap", "bulk_modulus")

Transform = Callable[[RawCrystal], RawCrystal]


@cache
def sample_crystals() -> tuple[RawCrystal, ...]:
    """The crystals of IDS, in that order."""
    found = {}
    with gzip.open(SAMPLE, "rt") as handle:
        for line in handle:
            if line[7 : line.index('"', 7)] in IDS:
                record = json.loads(line)
                found[record["id"]] = RawCrystal(
                    record["id"],
                    "sample",
                    np.array(record["lattice"]),
                    record["species"],
                    np.array(record["frac_coords"]),
                )
    return tuple(found[name] for name in IDS)


def rotation(seed: int) -> npt.NDArray[np.float64]:
    """A random proper rotation, (3, 3)."""
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return matrix * np.sign(np.linalg.det(matrix))


def rotated(raw: RawCrystal, matrix: npt.NDArray[np.float64]) -> RawCrystal:
    return replace(raw, lattice=np.asarray(raw.lattice) @ matrix.T)


def reordered(raw: RawCrystal) -> RawCrystal:
    order = np.random.default_rng(5).permutation(len(raw.species))
    return replace(
        raw, species=[raw.species[i] for i in order], frac_coords=np.asarray(raw.frac_coords)[order]
    )


def shifted(raw: RawCrystal) -> RawCrystal:
    shift = np.array([0.137, -0.611, 0.4999])
    return replace(raw, frac_coords=np.asarray(raw.frac_coords) + shift)


def in_other_cell(raw: RawCrystal, transformation: Sequence[Sequence[int]]) -> RawCrystal:
    """The crystal in the cell of an integer transformation (rows), which may be a supercell."""
    matrix = np.array(transformation)
    determinant = round(np.linalg.det(matrix))
    # frac @ inverse / determinant, with an inverse of integers: no rounding before the division.
    adjugate = np.rint(np.linalg.inv(matrix) * determinant).astype(int)
    reach = int(np.abs(matrix).sum())
    points = {
        tuple((np.array(n) @ adjugate) % abs(determinant)): n
        for n in itertools.product(range(reach + 1), repeat=3)
    }
    assert len(points) == abs(determinant)
    frac = [f + n for n in points.values() for f in np.asarray(raw.frac_coords)]
    return replace(
        raw,
        lattice=matrix @ np.asarray(raw.lattice),
        species=list(raw.species) * len(points),
        frac_coords=np.array(frac) @ adjugate / determinant,
    )


TRANSFORMS: dict[str, Transform] = {
    "rotation": lambda raw: rotated(raw, rotation(1)),
    "inversion": lambda raw: rotated(raw, -np.eye(3)),
    "improper rotation": lambda raw: rotated(raw, -rotation(2)),
    "atom order": reordered,
    "origin": shifted,
    "left-handed cell": lambda raw: in_other_cell(raw, [[0, 1, 0], [1, 0, 0], [0, 0, 1]]),
    "skewed cell": lambda raw: in_other_cell(raw, [[1, 1, 0], [0, 1, 0], [2, -1, 1]]),
    "2x2x1": lambda raw: in_other_cell(raw, np.diag([2, 2, 1])),
    "2x2x2": lambda raw: in_other_cell(raw, np.diag([2, 2, 2])),
    "skewed supercell": lambda raw: in_other_cell(raw, [[1, 1, 0], [-1, 1, 0], [1, 0, 1]]),
    "all at once": lambda raw: rotated(
        reordered(in_other_cell(shifted(raw), [[2, 0, 1], [0, 1, 1], [0, 0, 1]])), -rotation(3)
    ),
}


def arrays_of(raws: Sequence[RawCrystal], settings: GraphSettings, *, float64: bool) -> GraphArrays:
    """Through validation to graphs; float32 coordinates as in a store unless ``float64``."""
    pairs = []
    for result in graphs_of(raws, settings):
        assert not isinstance(result, Rejection), result
        pairs.append(result)
    return pack(pairs, float64=float64)


def spacegroup(group: str, lattice: Lattice, *sites: tuple[str, list[float]]) -> Structure:
    """A crystal of a space group from its element and coordinates by orbit."""
    species, coords = zip(*sites, strict=True)
    return Structure.from_spacegroup(group, lattice, species, coords)


def batch_of(
    raws: Sequence[RawCrystal],
    settings: GraphSettings = GraphSettings(),  # noqa: B008
    dtype: torch.dtype = torch.float64,
) -> Data:
    """One batch of these crystals."""
    arrays = arrays_of(raws, settings, float64=dtype == torch.float64)
    return collate(arrays, np.arange(len(raws)), dtype=dtype)


def random_model(
    algorithm: str, settings: GraphSettings, dtype: torch.dtype, preset: str = "medium"
) -> MultiTaskModel:
    """An algorithm's model in which no weight is zero or one, as after a long training."""
    torch.manual_seed(0)
    chosen = ALGORITHMS[algorithm]
    model = build_model(
        chosen, chosen.settings.model_validate(chosen.presets[preset]), settings, PROPERTIES
    )
    with torch.no_grad():
        for parameter in model.parameters():
            size = parameter.std() if parameter.numel() > 1 else 0.0
            parameter += (0.1 + 0.3 * size) * torch.randn_like(parameter)
    model.to(dtype)
    collect_statistics(model, settings, dtype)
    return model.eval()


@torch.no_grad()
def collect_statistics(model: MultiTaskModel, settings: GraphSettings, dtype: torch.dtype) -> None:
    """Running statistics of batch normalisation, where a model has it: the sample crystals'."""
    layers = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    if not layers:
        return
    # Layer by layer: each sees what the layers before it make with their own statistics.
    model.eval()
    for layer in layers:
        momentum, layer.momentum = layer.momentum, 1.0
        layer.train()
        model(batch_of(sample_crystals(), settings, dtype))
        layer.eval()
        layer.momentum = momentum


@torch.inference_mode()
def predictions(
    model: MultiTaskModel, raws: Sequence[RawCrystal], settings: GraphSettings, dtype: torch.dtype
) -> npt.NDArray[np.float64]:
    """(n, P), all in one batch."""
    return model(batch_of(raws, settings, dtype)).double().numpy()
