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
         "--device", "cpu", "--quick", "--batch-sizes", "4", "--seconds", "600"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    checks = {"correctness": 4, "graphs_against_eager": 4, "exact_resume": 4}
    for name, count in checks.items():
        assert len(result[name]) == count and all(row["passed"] for row in result[name]), name
    seen = {(row["algorithm"], row["level"], row["mode"]) for row in result["table"]}
    assert seen >= {("e3nn", "std", "eager"), ("e3nn", "std", "graphs")}
    assert all(row["crystals_per_second"] > 0 for row in result["table"])
    assert result["training"]["history"][0]["score"] > 0
