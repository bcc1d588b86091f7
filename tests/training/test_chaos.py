"""A sample of ``make chaos``: runs that are killed at any moment end as those that are not."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from paths import HELPERS, ROOT


def test_killed_runs_end_the_same(tmp_path) -> None:
    """Some ten kills of one case of each algorithm."""
    ended = subprocess.run(
        [
            sys.executable, ROOT / "benchmarks" / "chaos.py",
            *("--cases", "2", "--kills", "10", "--seconds", "120", "--jobs", "2"),
        ],
        env=os.environ | {"PYTHONPATH": str(HELPERS), "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = re.search(r"^(\d+) kills in \d+ runs", ended.stdout, re.MULTILINE)
    assert found and int(found[1]) >= 10, ended.stdout
    assert "lost or different: 0" in ended.stdout
    assert not list(tmp_path.glob("chaos-*"))
