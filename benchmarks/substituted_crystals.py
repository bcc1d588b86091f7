"""Add crystals with exchanged elements to a joint file, for labels that models predict.

python benchmarks/substituted_crystals.py joint.jsonl.gz OUT.jsonl.gz COUNT [SEED]

All records of joint.jsonl.gz, then COUNT copies of its train crystals in which at least one element
is another, of its group or next to it in the order of Pettifor (Mendeleev numbers); the cell is
scaled by volumes of the elements that are fitted to the train crystals. They have no label: give
them some with soft_labels.py. No compound of val or test is among them, as the formula says which
split it is of.
"""

from __future__ import annotations

import gzip
import json
import sys
from typing import Any

import numpy as np
from pymatgen.core.periodic_table import Element
from scipy.optimize import nnls

from phase2hpc.data.splits import formula_split

NEAR = 2  # in Mendeleev numbers
CHANCE = 0.5  # of each element to be exchanged

Record = dict[str, Any]


def element_volumes(records: list[Record]) -> dict[str, float]:
    """Volume of an atom of each element in A^3, fitted to the volumes of the cells."""
    symbols = sorted({symbol for record in records for symbol in record["species"]})
    column = {symbol: i for i, symbol in enumerate(symbols)}
    counts = np.zeros((len(records), len(symbols)))
    cells = np.empty(len(records))
    for row, record in enumerate(records):
        for symbol in record["species"]:
            counts[row, column[symbol]] += 1 / len(record["species"])
        cells[row] = abs(np.linalg.det(record["lattice"])) / len(record["species"])
    return dict(zip(symbols, nnls(counts, cells)[0].tolist(), strict=True))


def exchanges(symbols: list[str]) -> dict[str, list[str]]:
    """What each element may be exchanged for."""
    elements = [Element(symbol) for symbol in symbols]
    return {
        one.symbol: [
            other.symbol
            for other in elements
            if other != one
            and (other.group == one.group or abs(other.mendeleev_no - one.mendeleev_no) <= NEAR)
        ]
        for one in elements
    }


def substituted(
    record: Record,
    allowed: dict[str, list[str]],
    volumes: dict[str, float],
    generator: np.random.Generator,
) -> Record | None:
    """The crystal with other elements; None where none was exchanged or two became one."""
    present = sorted(set(record["species"]))
    new = {
        symbol: str(generator.choice(allowed[symbol]))
        if allowed[symbol] and generator.random() < CHANCE
        else symbol
        for symbol in present
    }
    species = [new[symbol] for symbol in record["species"]]
    if len(set(new.values())) < len(present) or species == record["species"]:
        return None
    if formula_split([Element(symbol).Z for symbol in species]) != "train":
        return None
    ratio = sum(map(volumes.__getitem__, species)) / sum(
        map(volumes.__getitem__, record["species"])
    )
    lattice = (np.array(record["lattice"]) * np.cbrt(ratio)).round(6).tolist()
    return {
        "lattice": lattice,
        "species": species,
        "frac_coords": record["frac_coords"],
        "properties": {},
        "split": "train",
    }


def main() -> None:
    source, out, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    generator = np.random.default_rng(int(sys.argv[4]) if len(sys.argv) > 4 else 0)
    with gzip.open(source, "rt") as lines, gzip.open(out, "wt", compresslevel=3) as file:
        train = []
        for line in lines:
            file.write(line)
            record = json.loads(line)
            if record["split"] == "train":
                train.append(record)
        volumes = element_volumes(train)
        allowed = exchanges(list(volumes))
        made = 0
        while made < count:
            record = train[generator.integers(len(train))]
            new = substituted(record, allowed, volumes, generator)
            if new is not None:
                made += 1
                print(json.dumps(new | {"id": f"{record['id']}-substituted-{made}"}), file=file)


if __name__ == "__main__":
    main()
