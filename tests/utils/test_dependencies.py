"""Requirements by extra, from pyproject.toml and from a wheel's metadata."""

import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from paths import ROOT

from phase2hpc.utils import dependencies
from phase2hpc.utils.dependencies import extra_with, installed_versions, modules, requirements


@pytest.fixture
def fresh():
    requirements.cache_clear()
    yield
    requirements.cache_clear()


def listed(extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return {Requirement(line).name.lower() for line in lines} - {"phase2hpc"}


def names(extra):
    return {requirement.name for requirement in requirements(extra)}


def test_each_extra_has_what_pyproject_lists():
    for extra in ("", "data", "train", "tune"):
        assert names(extra) == listed(extra)
    assert "torch" in names("train") and "numpy" not in names("train")


def test_metadata_of_a_wheel_says_the_same(monkeypatch, fresh):
    before = {extra: names(extra) for extra in ("", "data", "train")}
    lines = [*listed(""), *(f"{name} ; extra == 'data'" for name in listed("data"))]
    # hatchling writes an extra within an extra out.
    lines += [f"{name}; extra == 'train'" for name in listed("data") | listed("train")]
    lines += ["pytest>=8; extra == 'dev'", "tomli; python_version < '3'"]
    monkeypatch.setattr(dependencies, "is_checkout", lambda: False)
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    requirements.cache_clear()
    assert {extra: names(extra) for extra in ("", "data", "train")} == before


def test_modules_can_be_imported_and_are_found_again():
    everything = modules("train")
    assert {"yaml", "torch_geometric", "numpy", "submitit"} <= set(everything)
    code = f"import importlib.util as u; print([m for m in {everything} if not u.find_spec(m)])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert modules("data")[: len(modules(""))] == modules("")
    assert [extra_with(m) for m in ("yaml", "h5py", "torch_geometric")] == ["", "data", "train"]
    assert extra_with("pytest") is None and extra_with("") is None


def test_versions_of_what_is_installed(monkeypatch):
    versions = installed_versions()
    assert {"python", "phase2hpc", "torch", "e3nn", "numpy"} <= versions.keys()
    assert versions["numpy"] == metadata.version("numpy")
    found = metadata.version

    def without_h5py(name):
        if name == "h5py":
            raise metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(metadata, "version", without_h5py)
    assert "h5py" not in installed_versions()
