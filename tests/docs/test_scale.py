"""The tables of the page Scale are those that benchmarks/scale.py computes."""

from __future__ import annotations

import runpy

import pytest
from paths import ROOT


def test_the_table_of_the_page_is_computed(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "benchmarks" / "scale.py"), run_name="__main__")
    page = (ROOT / "docs" / "scale.md").read_text()
    table = page.split("<!-- begin of scale.py -->")[1].split("<!-- end of scale.py -->")[0]
    assert table.strip() == capsys.readouterr().out.strip()
