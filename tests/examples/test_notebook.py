"""The notebook of examples/ is executed, and its numbers are those of the shipped model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from paths import ROOT

from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils.package_files import pretrained_models

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOK = ROOT / "examples" / "predict-and-compare.ipynb"


def test_it_is_committed_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells and not any(cell.outputs or cell.execution_count for cell in cells)


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("print(errors['MAE'].to_json())"))
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    images = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(images) == 1
    said_on_stderr = [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    assert not [text for text in said_on_stderr if "phase2hpc" in text]
    found = json.loads(outputs[-1]["text"])
    (shipped,) = (path for path in pretrained_models() if path.name == "e3nn-std")
    said = json.loads(RunDirectory(shipped).metrics_json.read_text())["test"]
    for name, mae in found.items():
        # 200 of some 1,500 crystals, or fewer: within a factor.
        assert 0.4 * said[name]["mae"] < mae < 2.5 * said[name]["mae"], name
