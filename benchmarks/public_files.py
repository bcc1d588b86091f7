"""Structure files of other packages, read here and by pymatgen or ASE, compared crystal by crystal.

    python benchmarks/public_files.py FOLDER... [--list]

Counts, for each folder, the files read exactly as the reference reads them, refused with a reason,
and read differently; ``--list`` names the last two. The reference is pymatgen's CifParser, Poscar
and Structure, for extended XYZ ASE.
"""

from __future__ import annotations

import argparse
import gzip
import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from monty.json import MontyDecoder
from pymatgen.core import DummySpecies, Structure
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.cif import CifParser
from pymatgen.io.vasp import Poscar

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.readers.cif.structures import structures_in_cif
from phase2hpc.data.readers.poscar import structure_in_poscar
from phase2hpc.data.readers.registry import read
from phase2hpc.data.validation import Limits, Rejected, reason_kind, validate
from phase2hpc.errors import InputError

KINDS = {
    "CIF": (".cif", ".mcif"),
    "POSCAR": (".vasp", ".poscar", ".contcar"),
    "XYZ": (".extxyz", ".xyz"),
    "JSON": (".json",),
}
LIMITS = Limits(max_atoms=20_000)
MAX_NEIGHBOURS = 2000
DISTANCE = 5e-3


def kind_of(path: Path) -> str | None:
    name = path.name.lower().removesuffix(".gz")
    if name.startswith(("poscar", "contcar")) and not name.endswith(".py"):
        return "POSCAR"
    return next((kind for kind, ends in KINDS.items() if name.endswith(ends)), None)


def reference(path: Path, kind: str) -> list[Structure]:
    """The structures that the reference library reads; raises whatever it raises."""
    if kind == "CIF":
        return CifParser(path).parse_structures(primitive=False, on_error="raise")
    if kind == "POSCAR":
        return [Poscar.from_file(path, check_for_potcar=False).structure]
    if kind == "XYZ":
        frames = ase.io.read(path, index=":")
        return [AseAtomsAdaptor.get_structure(atoms) for atoms in frames if atoms.pbc.all()]
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return list(_structures(MontyDecoder().process_decoded(json.loads(text))))


def _structures(value: Any) -> Iterator[Structure]:
    if isinstance(value, Structure):
        yield value
    elif hasattr(value, "structure"):
        yield from _structures(value.structure)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _structures(part)
    elif isinstance(value, list):
        for part in value:
            yield from _structures(part)


def ours(path: Path) -> list[Structure | str]:
    """Structures, and the reason in the place of each that is refused."""
    # CIF and POSCAR in this process: a sandbox for each file costs more than reading it.
    if kind_of(path) in ("CIF", "POSCAR"):
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        if kind_of(path) == "CIF":
            return [_validated(item) for item in structures_in_cif(data, path.name, str(path))]
        return [_validated(structure_in_poscar(data, path.name, str(path)))]
    results: list[Structure | str] = []
    try:
        for item in read(path):
            results.append(_validated(item))
    except InputError as error:
        results.append(f"input: {error}")
    return results


def _validated(item: RawCrystal | UnreadableRecord) -> Structure | str:
    if isinstance(item, UnreadableRecord):
        return item.reason
    try:
        crystal = validate(item, LIMITS)
    except Rejected as error:
        return str(error)
    return Structure(crystal.lattice, crystal.numbers.tolist(), crystal.frac_coords)


def same(first: Structure, second: Structure) -> str | None:
    """None for one crystal: equal atoms, volume and distances up to 4 A; else what differs."""
    if not second.is_ordered or any(isinstance(s.specie, DummySpecies) for s in second):
        return "the reference has partial occupancies or dummy atoms"
    numbers = [sorted(site.specie.Z for site in s) for s in (first, second)]
    if numbers[0] != numbers[1]:
        return f"{first.formula} here, {second.formula} there"
    if abs(first.volume / second.volume - 1.0) > 1e-4:
        return f"volume {first.volume:.4f} here, {second.volume:.4f} there"
    pairs = [np.sort(s.get_neighbor_list(4.0)[3])[:MAX_NEIGHBOURS] for s in (first, second)]
    k = min(map(len, pairs))
    if k < 0.95 * max(map(len, pairs)) or np.abs(pairs[0][:k] - pairs[1][:k]).max(initial=0.0) > (
        DISTANCE
    ):
        return "distances differ"
    return None


def compare(path: Path, kind: str) -> tuple[str, str]:
    """Class of a file and what is to be said of it."""
    try:
        expected = reference(path, kind)
    except Exception as error:  # whatever a parser raises on a file that is not for it
        expected, why = [], f"{type(error).__name__}: {error}"
    else:
        why = "it holds no structure"
    found = ours(path)
    refused = [result for result in found if isinstance(result, str)]
    structures = [result for result in found if not isinstance(result, str)]
    if not expected:
        if not structures:
            return "no structure for either", refused[0] if refused else ""
        return "read here only", why.replace("\n", " ")[:150]
    if not structures:
        return "refused", refused[0] if refused else "nothing read"
    if len(found) != len(expected):
        if refused and len(structures) == len(expected):
            found = list(structures)
        elif kind == "CIF" and len(expected) == 1:
            found = found[:1]
        else:
            return "different", f"{len(found)} items here, {len(expected)} there"
    for mine, theirs in zip(found, expected, strict=True):
        if isinstance(mine, str):
            return "refused", mine
        difference = same(mine, theirs)
        if difference is not None:
            return "different", difference
    return "same", ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--list", action="store_true", help="name the files of each class")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    classes = ("same", "refused", "different", "read here only", "no structure for either")
    print("| package | format | files | " + " | ".join(classes) + " |")
    print("|---|---|" + "--:|" * (1 + len(classes)))
    reasons: Counter[tuple[str, str]] = Counter()
    named: dict[str, list[str]] = defaultdict(list)
    for folder in arguments.folders:
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for path in sorted(folder.rglob("*")):
            kind = kind_of(path) if path.is_file() else None
            if kind is None:
                continue
            result, detail = compare(path, kind)
            counts[kind][result] += 1
            if result == "refused":
                reasons[kind, reason_kind(detail)] += 1
            if result != "same":
                named[result].append(f"{path.relative_to(folder.parent)}: {detail}")
        for kind, found in sorted(counts.items()):
            row = " | ".join(str(found[name]) for name in classes)
            print(f"| {folder.name} | {kind} | {sum(found.values())} | {row} |", flush=True)
    print(
        "\nRefused: " + ", ".join(f"{kind} {why} {n}" for (kind, why), n in reasons.most_common())
    )
    if arguments.list:
        for name in classes[1:]:
            print(f"\n{name}:", *named[name], sep="\n  ")


if __name__ == "__main__":
    main()
