"""Files by content: each is read as what it is, or named with the remedy; folders name the rest."""

from __future__ import annotations

import gzip
import io
import json
import logging
import pickle
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from ase.build import bulk, molecule
from ase.io import write
from paths import EXAMPLES

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.readers.registry import read
from phase2hpc.errors import InputError

SALT = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
RECORD = {"id": "x", "lattice": (4 * np.eye(3)).tolist(), "species": ["Cu"],
          "frac_coords": [[0, 0, 0]]}  # fmt: skip
XML = '<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n <generator/>\n</modeling>\n'
OUTCAR = " vasp.6.3.0 20Jan22 (build Feb 1 2022) complex\n\n executed on LinuxIFC\n"
GRO = "water\n    3\n    1SOL     OW    1   0.126   1.624   1.679\n"


def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.add(EXAMPLES / "C-diamond.cif", "C.cif")
    return stream.getvalue()


def _zip(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, (EXAMPLES / "C-diamond.cif").read_bytes())
    return stream.getvalue()


def _hdf5() -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["a"] = [1]
    return stream.getvalue()


def _npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.eye(3))
    return stream.getvalue()


def _pdb() -> bytes:
    stream = io.StringIO()
    write(stream, molecule("H2O"), format="proteindatabank")
    return stream.getvalue().encode()


NAMED: dict[str, tuple[str, bytes, str]] = {
    "pickle": ("a.pkl", pickle.dumps([1]), "a Python pickle, which is not loaded"),
    "pickle of a frame as JSON": ("a.json", pickle.dumps(pd.DataFrame()), "a Python pickle"),
    "pickle of protocol 0": ("a.pickle", pickle.dumps([1, 2], 0), "a Python pickle"),
    "pickle, compressed": ("a.pkl.gz", gzip.compress(pickle.dumps([1])), "a Python pickle"),
    "parquet": ("a.parquet", b"PAR1\x15\x04", "a parquet table"),
    "parquet by the name of a table": ("a.csv", b"PAR1\x15\x04", "a parquet table"),
    "HDF5": ("a.h5", _hdf5(), "train by --store"),
    "HDF5 by another name": ("a.db", _hdf5(), "an HDF5 file"),
    "numpy": ("a.npy", _npy(), "a numpy array"),
    "PDF": ("a.txt", b"%PDF-1.7\n", "a PDF document"),
    "tar": ("a.tar.gz", _tar(), "a tar archive: unpack it"),
    "zstd": ("a.json.zst", b"\x28\xb5\x2f\xfd\0", "unzstd"),
    "zip of many": ("a.zip", _zip("a.cif", "b.cif"), "found 2: unpack it and give its folder"),
    "vasprun.xml": ("vasprun.xml", XML.encode(), "a VASP vasprun.xml: give the CONTCAR"),
    "vasprun by another name": ("run1.dat", XML.encode(), "a VASP vasprun.xml"),
    "OUTCAR": ("OUTCAR", OUTCAR.encode(), "a VASP OUTCAR: give the CONTCAR"),
    "web page": ("a.cif.html", b"<!DOCTYPE html><html>", "a web page: the download failed"),
    "PDB": ("a.pdb", _pdb(), "a PDB file"),
    "GROMACS": ("a.gro", GRO.encode(), "a GROMACS .gro file"),
    "LAMMPS": ("a.dump", b"ITEM: TIMESTEP\n0\n", "a LAMMPS dump"),
    "XSF, known to ase": ("a.xsf", b"CRYSTAL\nPRIMVEC\n", "XCrySDen"),
    "SHELX, known to ase": ("a.res", b"TITL x\nCELL 0.7 4 4 4 90 90 90\n", "SHELX"),
    "binary": ("a.bin", bytes(range(256)) * 4, "binary data of an unknown kind"),
    "text": ("a.txt", b"hello\n", "unknown format; a source is JSON lines"),
    "empty": ("a.txt", b"", "unknown format"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NAMED)
def test_files_that_no_reader_takes_are_named(tmp_path: Path, kind: str) -> None:
    name, content, expected = NAMED[kind]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(read(path))
    message = str(caught.value)
    assert expected in message and str(path) in message and message.isprintable()


def _extxyz() -> bytes:
    stream = io.StringIO()
    write(stream, SALT, format="extxyz")
    return stream.getvalue().encode()


READ: dict[str, tuple[str, bytes]] = {
    "JSON array": ("a.txt", json.dumps([RECORD]).encode()),
    "JSON lines": ("download", json.dumps(RECORD).encode() + b"\n" + json.dumps(RECORD).encode()),
    "JSON in UTF-16": ("a.json", json.dumps([RECORD]).encode("utf-16")),
    "JSON with a mark": ("download", b"\xef\xbb\xbf" + json.dumps([RECORD]).encode()),
    "extended XYZ": ("trajectory.dat", _extxyz()),
    "zip of one CIF": ("a.zip", _zip("C.cif")),
    "zip of one CIF by name": ("a.cif.zip", _zip("C.cif")),
    "zip with a folder of macOS": ("a.zip", _zip("C.cif", "__MACOSX/._C.cif")),
    "CIF, compressed, without its name": (
        "a.cif", gzip.compress((EXAMPLES / "C-diamond.cif").read_bytes())),
    "CIF by another name": ("a.txt.gz", gzip.compress((EXAMPLES / "C-diamond.cif").read_bytes())),
}  # fmt: skip


@pytest.mark.parametrize("kind", READ)
def test_files_that_are_read_by_content(tmp_path: Path, kind: str) -> None:
    name, content = READ[kind]
    path = tmp_path / name
    path.write_bytes(content)
    items = list(read(path))
    assert items and all(isinstance(item, RawCrystal) for item in items)


def test_a_structure_file_of_another_kind_is_named_in_its_row(tmp_path: Path) -> None:
    for name, content in (("a.vasp", OUTCAR.encode()), ("b.cif", pickle.dumps([1])),
                          ("c.vasp", XML.encode()), ("d.cif.bz2", b"BZh9 broken")):  # fmt: skip
        (tmp_path / name).write_bytes(content)
    reasons = [item.reason for item in read(tmp_path) if isinstance(item, UnreadableRecord)]
    assert len(reasons) == 4
    for reason, expected in zip(reasons, ("OUTCAR", "pickle", "vasprun", ""), strict=True):
        assert expected in reason
    assert reasons[0].startswith("not a structure file: it is a VASP OUTCAR")


def test_a_folder_says_which_files_it_did_not_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "C.cif").write_bytes((EXAMPLES / "C-diamond.cif").read_bytes())
    with caplog.at_level(logging.WARNING):
        assert len(list(read(tmp_path))) == 1
    assert not caplog.records
    for name in ("OUTCAR", "a.json", "b.txt", "\x1b.txt", ".hidden", "id_prop.csv"):
        (tmp_path / name).write_text("x")
    (tmp_path / "calc1").mkdir()
    with caplog.at_level(logging.WARNING):
        assert len(list(read(tmp_path, id_prop=False))) == 1
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{tmp_path}: 5 not read, not named as CIF or POSCAR: \\x1b.txt, OUTCAR, a.json, ..."
    )
    (tmp_path / "C.cif").unlink()
    with pytest.raises(InputError, match=r"no CIF or POSCAR file in this folder \(5 not read"):
        read(tmp_path, id_prop=False)
