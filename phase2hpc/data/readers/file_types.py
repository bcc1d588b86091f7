"""File types by content: which reader takes a file, or what it is instead, and the remedy."""

from __future__ import annotations

import codecs
import io
import re

# First bytes of files that no reader takes -> what they are, and what to do.
_BINARY: tuple[tuple[bytes, str], ...] = (
    (b"PAR1", "a parquet table: write it as JSON, pandas.read_parquet(FILE).to_json(NEW, "
     "orient='split'), structures as dictionaries (Structure.as_dict())"),
    (b"ARROW1", "an Arrow or Feather table: write it as JSON with pandas, orient='split'"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file: a graph store is given to train by --store; crystals of "
     "another HDF5 file must be written as JSON lines or CIF"),
    (b"\x93NUMPY", "a numpy array: write the structures as JSON lines or CIF"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it and give the folder"),
    (b"Rar!", "a RAR archive: unpack it and give the folder"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it with unzstd"),
    (b"CDF\x01", "a NetCDF file: write the structures as CIF or extxyz"),
    (b"\x7fELF", "a program"),
    (b"- of Ulm", "an ASE trajectory: ase convert FILE NEW.extxyz"),
)  # fmt: skip
_PICKLE = (
    "a Python pickle, which is not loaded, since loading one runs its code: write it as JSON from "
    "the program that made it (a data frame: to_json(NEW, orient='split'), structures as "
    "dictionaries)"
)
# Text that ase has no name for.
_TEXT: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\s*<(?:!doctype\s+)?html", re.IGNORECASE), "a web page: the download failed"),
    (re.compile(rb"\s*<\?xml.*<modeling>", re.DOTALL), "a VASP vasprun.xml: give the CONTCAR of "
     "the same calculation, or ase convert FILE NEW.extxyz"),
    (re.compile(rb"\s*<"), "XML: write the structures as CIF"),
    (re.compile(rb"\s*vasp\.\d|.{0,300}?POTCAR:", re.DOTALL), "a VASP OUTCAR: give the CONTCAR of "
     "the same calculation, or ase convert FILE NEW.extxyz"),
    (re.compile(rb"ITEM: TIMESTEP"), "a LAMMPS dump: write the structures as extxyz"),
    (re.compile(rb"\(dp\d|\(lp\d|ccopy_reg"), _PICKLE),
    (re.compile(rb"HEADER|CRYST1|MODEL  |(?:ATOM  |HETATM) *\d"), "a PDB file: write it as CIF"),
    (re.compile(rb"[^\n]*\n *\d+\r?\n *\d+\w+ +\w+ *\d+ +-?\d+\.\d{3}"), "a GROMACS .gro file: "
     "write it as CIF"),
)  # fmt: skip
# Bytes that tell a text's format.
_BEGIN = 1 << 12


def foreign_binary(head: bytes) -> str | None:
    """Description and remedy of a binary file that no reader takes; None for any other."""
    for magic, text in _BINARY:
        if head.startswith(magic):
            return text
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return _PICKLE
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it and give the folder"
    return None


def is_sqlite(head: bytes) -> bool:
    return head.startswith(b"SQLite format 3\0")


def is_cif_text(head: bytes) -> bool:
    lower = head.removeprefix(codecs.BOM_UTF8).lower()
    return b"_cell" in lower and any(line.startswith(b"data_") for line in lower.splitlines())


def is_poscar_text(head: bytes) -> bool:
    """True for a text that begins as a POSCAR does: any line, a scale factor, three vectors."""
    lines = [line.split() for line in head[:_BEGIN].split(b"\n")[1:5]]
    wanted = zip(lines, (1, 3, 3, 3), strict=False)
    return len(lines) == 4 and all(
        len(words) >= n and all(map(_is_number, words[:n])) for words, n in wanted
    )


def _is_number(word: bytes) -> bool:
    try:
        float(word.replace(b"D", b"e").replace(b"d", b"e"))
    except ValueError:
        return False
    return True


def is_json_text(head: bytes) -> bool:
    return head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] in (b"{", b"[")


def is_json_document(head: bytes) -> bool:
    """True for JSON that is no JSON lines: an array, or an object over several lines."""
    lines = head.removeprefix(codecs.BOM_UTF8).split(b"\n", 1)
    first = lines[0].strip()
    return first[:1] == b"[" or (first == b"{" and len(lines) > 1)


def is_extxyz_text(head: bytes) -> bool:
    lines = head.split(b"\n", 2)
    return len(lines) > 1 and lines[0].strip().isdigit() and b"lattice=" in lines[1].lower()


def known_text(head: bytes) -> str | None:
    """Description and remedy of a text that no reader takes; None for any other."""
    for pattern, text in _TEXT:
        if pattern.match(head[:_BEGIN]):
            return text
    return None


def foreign_file(name: str, head: bytes) -> str | None:
    """Description and remedy of a file that no reader takes, where it is known; else None."""
    if text := foreign_binary(head) or known_text(head):
        return text
    if b"\0" in head:
        return "binary data of an unknown kind"
    return _known_to_ase(name, head)


def _known_to_ase(name: str, head: bytes) -> str | None:
    try:
        from ase.io.formats import UnknownFileTypeError, filetype, ioformats
    except ImportError:
        return None
    stream = io.BytesIO(head)
    stream.name = name
    try:
        kind = ioformats.get(filetype(stream))
    except UnknownFileTypeError:
        return None
    # Forms that ase shares with the readers here are not named after what they merely look like.
    if kind is None or kind.name in ("json", "xyz", "extxyz", "cif", "vasp", "db"):
        return None
    what = kind.description
    return f"a file of the format '{what}', by its name or content: ase convert FILE NEW.extxyz"
