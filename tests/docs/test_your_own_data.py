"""Execution of the commands of docs/your-own-data.md."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from paths import ROOT

PAGE = (ROOT / "docs" / "your-own-data.md").read_text()
BLOCK = re.compile(r"<!-- run in CI -->\n```bash\n(.*?)```", re.DOTALL)


def test_the_commands_run_as_they_stand(tmp_path: Path) -> None:
    (commands,) = BLOCK.findall(PAGE)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    bin_folder = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{commands}"],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert (
        "K: 2 of 300 cells are not a number, first '<5' in line 12 of measured.csv" in done.stdout
    )
    assert "metal: 300 cells true or false, read as 1 or 0" in done.stdout
    assert "K (GPa)" in done.stdout and "scale auto" in done.stdout
    assert "cgcnn lite, 3 folds" in done.stdout
    with (tmp_path / "own.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 300 and {row["status"] for row in rows} == {"ok"}
    assert min(float(row["K"]) for row in rows) >= 0
    assert min(float(row["eps"]) for row in rows) >= 1
    with (tmp_path / "models/multitask_lite_e3nn/run_own-aux/metrics.csv").open() as file:
        scored = list(csv.DictReader(file))
    assert {(row["property"], row["unit"]) for row in scored} == {("K", "GPa")}
