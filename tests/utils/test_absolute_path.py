"""Absolute paths keep links, and lead to the same file."""

from __future__ import annotations

from pathlib import Path

import pytest

from phase2hpc.utils.absolute_path import absolute_path


@pytest.fixture
def link(tmp_path: Path) -> Path:
    """``link -> real/deep``."""
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/deep")
    return tmp_path / "link"


def test_links_stay(link: Path) -> None:
    assert absolute_path(link / "models") == link / "models"
    assert absolute_path(link / "run" / "../array") == link / "array"


def test_up_from_a_link_is_the_folder_of_its_target(link: Path, tmp_path: Path) -> None:
    assert absolute_path(link / "../models") == (tmp_path / "real" / "models").resolve()


def test_relative_paths_begin_where_the_shell_is(
    link: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(link)
    monkeypatch.setenv("PWD", str(link))
    assert absolute_path(Path("models")) == link / "models"
    # A PWD of somewhere else is not believed.
    monkeypatch.setenv("PWD", str(tmp_path))
    assert absolute_path(Path("models")) == link.resolve() / "models"
    monkeypatch.setenv("HOME", str(link))
    assert absolute_path(Path("~/models")) == link / "models"
