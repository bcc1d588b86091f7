"""Shipped files are found in a checkout and in an installed wheel."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from phase2hpc.errors import Phase2Error
from phase2hpc.utils import package_files as resources


@pytest.fixture(autouse=True)
def no_cache_variables(monkeypatch):
    monkeypatch.delenv(resources.CACHE_VARIABLE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


def layout(tmp_path, monkeypatch, installed):
    """A package with sample data in ``tmp_path``, as a checkout or as a wheel lays it out."""
    package = tmp_path / "site" / "phase2hpc"
    data = package / "_shared" / "data" if installed else tmp_path / "site" / "data"
    data.mkdir(parents=True)
    (data / f"{resources.SAMPLE}.jsonl.gz").touch()
    monkeypatch.setattr(resources, "_PACKAGE", package)
    monkeypatch.setattr(resources, "_SHARED", package / "_shared")
    return data


def test_this_checkout():
    assert resources.is_checkout()
    assert resources.sample_source() == ROOT / "data" / "jarvis_dft3d_15k.jsonl.gz"
    assert resources.sample_source().stat().st_size > 2_000_000
    assert len(list(resources.shared_path("data/examples").glob("*.cif"))) == 10


def test_what_is_missing_is_named():
    with pytest.raises(Phase2Error, match=r"nothing\.cif.*install phase2hpc again") as caught:
        resources.shared_path("data/examples/nothing.cif")
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("installed", [False, True])
def test_both_layouts(tmp_path, monkeypatch, installed):
    data = layout(tmp_path, monkeypatch, installed)
    assert resources.is_checkout() is not installed
    assert resources.sample_source() == data / "jarvis_dft3d_15k.jsonl.gz"


def test_the_store_lies_beside_the_sample_in_a_checkout(tmp_path, monkeypatch):
    data = layout(tmp_path, monkeypatch, installed=False)
    assert resources.default_store() == data / "jarvis_dft3d_15k.h5"


def test_the_store_of_an_installed_wheel_lies_in_the_cache(tmp_path, monkeypatch):
    layout(tmp_path, monkeypatch, installed=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resources.default_store() == tmp_path / ".cache/phase2hpc/jarvis_dft3d_15k.h5"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert resources.default_store() == tmp_path / "xdg/phase2hpc/jarvis_dft3d_15k.h5"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert resources.default_store() == tmp_path / ".cache/phase2hpc/jarvis_dft3d_15k.h5"


@pytest.mark.parametrize("installed", [False, True])
def test_the_cache_variable_beats_all(tmp_path, monkeypatch, installed):
    layout(tmp_path, monkeypatch, installed)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv(resources.CACHE_VARIABLE, str(tmp_path / "mine"))
    assert resources.default_store() == tmp_path / "mine" / "jarvis_dft3d_15k.h5"


def test_a_read_only_checkout_keeps_its_store_but_gets_no_new_one(tmp_path, monkeypatch):
    data = layout(tmp_path, monkeypatch, installed=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    # Not by the folder's mode: a test run as root may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != data)
    assert resources.default_store() == tmp_path / ".cache/phase2hpc/jarvis_dft3d_15k.h5"
    (data / "jarvis_dft3d_15k.h5").touch()
    assert resources.default_store() == data / "jarvis_dft3d_15k.h5"


def test_it_imports_nothing_heavy():
    program = (
        "import sys; import phase2hpc.utils.package_files;"
        "print([m for m in ('numpy', 'pydantic', 'torch', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
