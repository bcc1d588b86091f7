"""The rule by which tests are marked slow names tests that exist."""

from __future__ import annotations

import re

import pytest
from paths import ROOT


def test_the_slow_tests_are_there(pytestconfig: pytest.Config) -> None:
    conftest = pytestconfig.pluginmanager.getplugin(str(ROOT / "tests" / "conftest.py"))
    assert conftest is not None and len(conftest.SLOW) > 10
    for entry in conftest.SLOW:
        path, _, name = entry.partition("::")
        assert (ROOT / path).exists(), entry
        assert not name or re.search(rf"^def {name}", (ROOT / path).read_text(), re.MULTILINE), (
            entry
        )
