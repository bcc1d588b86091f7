"""The plug-in of examples/, installed for real: submitted, resumed and used to predict, each in a
process of its own."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paths import EXAMPLES, ROOT
from tiny import Tiny

PLUGIN = ROOT / "examples" / "plugin-schnet"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with the plug-in, built by pip from a copy of its source."""
    source = tmp_path_factory.mktemp("source") / PLUGIN.name
    shutil.copytree(PLUGIN, source)
    target = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet",
         "--no-deps", "--no-build-isolation", "--no-index", "--target", target, source],
        check=True,
    )  # fmt: skip
    return target


def phase2hpc(site: Path | None, folder: Path, *words: object) -> tuple[int, str, str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if site is not None:
        paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    done = subprocess.run(
        [sys.executable, "-m", "phase2hpc", *map(str, words)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_from_submission_to_prediction(installed: Path, tiny: Tiny, tmp_path: Path) -> None:
    code, out, err = phase2hpc(installed, tmp_path, "levels")
    rows = [line.split()[:2] for line in out.splitlines()]
    assert code == 0 and not err and ["schnet", "lite"] in rows and ["schnet", "pro"] not in rows

    which = ("--algorithm", "schnet", "--level", "lite", "--store", tiny.store)
    few = ("--max-samples", 32, "--set", "hidden=16", "--epochs", 1)
    code, out, err = phase2hpc(
        installed, tmp_path, "submit", *which, *few, "--run-id", "one", "--profile", "local"
    )
    run = tmp_path / "models" / "multitask_lite_schnet" / "run_one"
    assert code == 0 and (run / "metrics.json").exists(), out + err

    code, out, err = phase2hpc(
        installed, tmp_path, "train", *which, "--resume", "--run-id", "one", "--epochs", 2
    )
    assert code == 0 and "resuming from step 2 of 4" in out, out + err

    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["versions"]["phase2hpc-schnet"] == "0.1.0"
    assert manifest["training_crystals"] == 32

    output = tmp_path / "preds.csv"
    predict = ("predict", "--dir", EXAMPLES, "--run", run, "--output", output)
    code, out, err = phase2hpc(installed, tmp_path, *predict)
    assert code == 0 and "by schnet lite, multitask_lite_schnet/one" in err, err
    with output.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(list(EXAMPLES.iterdir()))
    assert all(row["status"] == "ok" and row["bulk_modulus"] for row in table)

    # Where the plug-in is not installed, the run cannot be used and says why.
    code, out, err = phase2hpc(None, tmp_path, *predict)
    assert (code, out) == (2, "") and err.count("\n") == 1, err
    assert "unknown algorithm 'schnet'" in err and "must be installed here" in err


def test_the_encoder_has_the_symmetries_of_a_crystal(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supercell, another order of atoms and a rotation give the same vector."""
    monkeypatch.syspath_prepend(str(installed))
    import numpy as np
    import torch
    from phase2hpc_schnet import SCHNET
    from pymatgen.core import Structure

    from phase2hpc.data.convert import graphs_of
    from phase2hpc.data.graph import GraphSettings
    from phase2hpc.data.graph_arrays import pack
    from phase2hpc.data.loader import collate
    from phase2hpc.data.readers.in_memory import read_object
    from phase2hpc.models.encoder import make_encoder

    settings = SCHNET.settings.model_validate(SCHNET.presets["small"])
    torch.manual_seed(0)
    encoder = make_encoder(SCHNET, settings, GraphSettings()).double().eval()
    structure = Structure.from_file(EXAMPLES / "BaTiO3-tetragonal.cif")
    turned = structure.copy()
    turned.lattice = type(structure.lattice)(structure.lattice.matrix[:, [1, 2, 0]])
    others = [structure, structure[::-1], structure * (2, 1, 1), turned]
    others[1] = Structure.from_sites(others[1])
    raws = [read_object(one, f"structures#{i}") for i, one in enumerate(others)]
    arrays = pack(graphs_of(raws, GraphSettings()), float64=True)
    with torch.no_grad():
        vectors = encoder(collate(arrays, range(4), dtype=torch.float64)).numpy()
    assert np.abs(vectors).max() > 0
    np.testing.assert_allclose(vectors[1:], vectors[[0, 0, 0]], rtol=0, atol=1e-10)
