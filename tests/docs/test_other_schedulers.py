"""Job scripts of docs/other-schedulers.md, run by a shell: stopped, requeued and finished."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

from phase2hpc.runs.run_directory import RunDirectory

PAGE = (ROOT / "docs" / "other-schedulers.md").read_text()
SCRIPTS = {
    re.search(r"^#(PBS|BSUB|\$) ", text, re.M)[1]: text  # type: ignore[index]
    for text in re.findall(r"^```bash\n(.*?)^```$", PAGE, re.M | re.S)
}
SMALL = (
    "--algorithm cgcnn --level lite --store {store} --device cpu --set hidden=16 --epochs 2 "
    "--max-samples 16 --batch-size 8 --properties band_gap"
)


def run(kind: str, hours: str, folder: Path, store: Path) -> subprocess.CompletedProcess[str]:
    """The script as on the page, but for a small model and other hours."""
    text = SCRIPTS[kind]
    for old, new in (
        ("--algorithm e3nn --level std", SMALL.format(store=store)),
        ("hours=11.75", f"hours={hours}"),
        ("source ~/phase2hpc/bin/activate\n", ""),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    bin_of_tests = folder / "bin"
    bin_of_tests.mkdir(exist_ok=True)
    (bin_of_tests / "qsub").write_text(f'#!/bin/sh\necho "qsub $*" >> {folder}/calls\n')
    (bin_of_tests / "qsub").chmod(0o755)
    variables = {
        "PATH": f"{bin_of_tests}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PBS_O_WORKDIR": str(folder), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return subprocess.run(
        ["bash", "-c", text],
        cwd=folder, capture_output=True, text=True, timeout=300, env=os.environ | variables,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "stopped", "calls"), [("PBS", 0, "qsub train.pbs\n"), ("BSUB", 75, ""), ("$", 99, "")]
)
def test_stopped_requeued_and_finished(
    kind: str, stopped: int, calls: str, tiny: Any, tmp_path: Path
) -> None:
    first = run(kind, "1e-6", tmp_path, tiny.store)
    assert first.returncode == stopped and "state saved at step" in first.stderr, first.stderr
    made = RunDirectory(tmp_path / "models" / "multitask_cgcnn_lite" / "run_my-run")
    assert made.read_manifest().state == "stopped"
    again = run(kind, "1", tmp_path, tiny.store)
    assert again.returncode == 0 and "resuming from step" in again.stdout, again.stderr
    assert made.read_manifest().state == "finished"
    asked = tmp_path / "calls"
    assert (asked.read_text() if asked.exists() else "") == calls


def test_the_page_has_one_script_for_each() -> None:
    assert set(SCRIPTS) == {"PBS", "BSUB", "$"}
    # LSF itself requeues by the exit code.
    assert '#BSUB -Q "75"' in SCRIPTS["BSUB"]
