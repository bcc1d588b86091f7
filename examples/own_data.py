"""Write a folder of 300 CIF files with a table of labels, as an example of data of your own.

    python examples/own_data.py FOLDER

The crystals and labels are real, from the sample that phase2hpc ships. The table, measured.csv, is
written as spreadsheets of many countries write it: semicolons, decimal commas, units in the
header, missing values, and two cells that are not numbers.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
from pathlib import Path
from typing import Any

from pymatgen.core import Lattice, Structure

from phase2hpc.utils.package_files import sample_source

COUNT, MAX_ATOMS = 300, 8
FIELDS = {"bulk": "bulk_modulus_kv", "eps": "dfpt_piezo_max_dielectric", "gap": "optb88vdw_bandgap"}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "measured.csv").open("w", newline="") as file:
        table = csv.writer(file, delimiter=";")
        table.writerow(["file", "K (GPa)", "eps", "metal"])
        for number, record in enumerate(crystals()):
            structure = Structure(
                Lattice(record["lattice"]), record["species"], record["frac_coords"]
            )
            name = f"{record['id']}.cif"
            (folder / name).write_text(structure.to(fmt="cif"))
            bulk = {10: "<5", 20: "120 GPa"}.get(number, cell(record, "bulk"))
            gap = record["properties"].get(FIELDS["gap"])
            table.writerow([name, bulk, cell(record, "eps"), str(gap == 0).lower()])


def crystals() -> list[dict[str, Any]]:
    """The first COUNT small crystals of the sample with a bulk modulus."""
    found: list[dict[str, Any]] = []
    with gzip.open(sample_source(), "rt") as lines:
        for line in lines:
            record = json.loads(line)
            if FIELDS["bulk"] in record["properties"] and len(record["species"]) <= MAX_ATOMS:
                found.append(record)
            if len(found) == COUNT:
                break
    return found


def cell(record: dict[str, Any], label: str) -> str:
    """A label with a decimal comma, "N/A" where there is none."""
    value = record["properties"].get(FIELDS[label])
    return "N/A" if value is None else f"{value:.2f}".replace(".", ",")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
