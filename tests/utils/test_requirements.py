"""Requirements of the installed distribution are those of pyproject.toml."""

import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from paths import ROOT

from phase2hpc.utils import requirements as module
from phase2hpc.utils.requirements import (
    EXTRAS,
    extra_of_module,
    installed_version,
    problems,
    required_packages,
    requirements,
)


@pytest.mark.parametrize("extra", EXTRAS)
def test_each_extra_adds_what_pyproject_lists(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = project["optional-dependencies"][extra] if extra else project["dependencies"]
    # As a build back-end writes them, one extra inside another among them.
    lines = list(project["dependencies"])
    for name, needed in project["optional-dependencies"].items():
        lines += [f"{line}; extra == '{name}'" for line in needed]
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    requirements.cache_clear()
    try:
        names = {Requirement(line).name for line in listed} - {"phase2hpc"}
        assert {found.name for found in requirements(extra)} == names
        assert set(required_packages("train")) >= names
    finally:
        requirements.cache_clear()


def test_the_extra_of_a_module() -> None:
    assert extra_of_module("h5py") == "data" and extra_of_module("torch_geometric") == "train"
    assert extra_of_module("no_such_thing") is None


def test_what_is_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = (Requirement("pydantic>=999"), Requirement("no-such-thing"), Requirement("typer"))
    monkeypatch.setattr(module, "requirements", lambda extra: wanted)
    assert [str(problem) for problem in problems("data")] == [
        f"pydantic {installed_version('pydantic')} (needs >=999)", "no-such-thing",
    ]  # fmt: skip


def test_a_checkout_without_metadata_has_no_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", absent)
    requirements.cache_clear()
    try:
        assert required_packages("train") == [] and extra_of_module("torch") is None
    finally:
        requirements.cache_clear()
