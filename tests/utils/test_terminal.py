"""Output of any text on a terminal of any encoding."""

from __future__ import annotations

import io
import sys

import pytest

from phase2hpc.errors import InputError
from phase2hpc.utils.tables import with_error
from phase2hpc.utils.terminal import accept_any_text, check_readable


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("utf-8", "0.5000 ± 0.10 – é ł \\udcff"),
        ("ascii", "0.5000 +- 0.10 - \\xe9 \\u0142 \\udcff"),
        ("iso8859-2", "0.5000 +- 0.10 - é ł \\udcff"),
        ("latin-1", "0.5000 ± 0.10 - é \\u0142 \\udcff"),
    ],
)
def test_what_cannot_be_encoded_is_written_in_ascii(encoding, written, monkeypatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, errors="strict"))
    accept_any_text()
    print(with_error(0.5, 0.1), "–", "é ł", "\udcff", end="", flush=True)
    assert raw.getvalue().decode(encoding) == written


def test_streams_that_are_closed_or_a_notebooks(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    accept_any_text()


def test_names_that_no_file_of_a_run_could_hold() -> None:
    check_readable(["train", "--store", "kryształ.h5"])
    with pytest.raises(InputError, match="LC_ALL"):
        check_readable(["train", "--store", "\udce9.h5"])
