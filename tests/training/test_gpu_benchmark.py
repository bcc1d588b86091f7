"""benchmarks/gpu.py runs from end to end on the CPU, so that it is ready where there is a GPU."""

from __future__ import annotations

import json
import subprocess
import sys

from paths import ROOT


def test_a_small_case_of_everything(tiny, tmp_path) -> None:
    out = tmp_path / "gpu.json"
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "gpu.py", "--store", tiny.store, "--out", out,
         "--device", "cpu", "--quick", "--batch-sizes", "4", "--seconds", "60"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    assert all(row["passed"] for row in result["correctness"] + result["exact_resume"])
    assert len(result["correctness"]) == 4 and len(result["exact_resume"]) == 2
    assert {(row["algorithm"], row["level"]) for row in result["table"]} >= {("e3nn", "std")}
    assert all(row["crystals_per_second"] > 0 for row in result["table"])
    assert result["training"]["history"][0]["score"] > 0
