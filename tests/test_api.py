"""The public Python API on real pymatgen, ASE and torch_geometric objects."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import read as read_ase
from paths import EXAMPLES, ROOT
from pymatgen.core import Lattice, Molecule, Structure
from tiny import LITTLE, Tiny
from torch_geometric.loader import DataLoader

import phase2hpc
from phase2hpc.runs.run_directory import RunDirectory

CIFS = sorted(EXAMPLES.glob("*.cif"))
SALT = Structure(Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
HALF_OCCUPIED = """data_x
_cell_length_a 5.69
_cell_length_b 5.69
_cell_length_c 5.69
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na1 Na 0 0 0 0.5
K1 K 0 0 0 0.5
Cl1 Cl 0.5 0.5 0.5 1.0
"""


@pytest.fixture(scope="module")
def model(trained: dict[str, RunDirectory]) -> phase2hpc.Predictor:
    return phase2hpc.load_model(trained["cgcnn"])


def test_every_public_name_is_there_and_documented() -> None:
    assert sorted(phase2hpc.__all__) == sorted([*phase2hpc._MODULES, "__version__"])
    for name in phase2hpc._MODULES:
        assert getattr(phase2hpc, name).__doc__
    assert set(phase2hpc.__all__) <= set(dir(phase2hpc))
    with pytest.raises(AttributeError, match="'phase2hpc' has no attribute 'lode_model'"):
        phase2hpc.lode_model  # noqa: B018


def test_type_checkers_see_the_same_names(tmp_path: Path) -> None:
    program = tmp_path / "uses.py"
    program.write_text(
        "import phase2hpc\n"
        "reveal_type(phase2hpc.load_model('x'))\n"
        "reveal_type(phase2hpc.train('store.h5', lr=1e-3))\n"
        + "".join(f"phase2hpc.{name}\n" for name in phase2hpc.__all__)
        + "phase2hpc.load_model(device=1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=pyproject.toml", str(program)],
        capture_output=True, text=True, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert 'note: Revealed type is "phase2hpc.inference.predictor.Predictor"' in done.stdout
    assert 'note: Revealed type is "phase2hpc.runs.run_directory.RunDirectory"' in done.stdout
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1 and 'has incompatible type "int"' in errors[0], done.stdout


def test_import_is_light() -> None:
    program = (
        "import sys, phase2hpc; from phase2hpc import load_model, prepare, train, open_store;"
        "print([m for m in ('torch', 'numpy', 'pandas', 'h5py', 'pymatgen') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("statement", "module", "extra"),
    [
        ("phase2hpc.load_model('e3nn-std')", "torch", "train"),
        ("phase2hpc.train('x.h5')", "torch", "train"),
        ("phase2hpc.StoreDataset", "torch", "train"),
        ("phase2hpc.open_store('x.h5')", "h5py", "data"),
        ("phase2hpc.prepare('x.cif')", "numpy", "data"),
    ],
)
def test_without_an_extra(statement: str, module: str, extra: str) -> None:
    program = f"import sys; sys.modules[{module!r}] = None; import phase2hpc; {statement}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    name = statement.partition("(")[0]
    assert done.stderr.splitlines()[-1] == (
        f"ModuleNotFoundError: {name} needs {module}, which is not installed here: "
        f"pip install 'phase2hpc[{extra}]'"
    )


def test_python_dash_m() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "phase2hpc", "--version"], capture_output=True, text=True
    )
    assert done.stdout == f"phase2hpc {phase2hpc.__version__}\n"


# ---- predict -----------------------------------------------------------------------------------


def test_the_frame_is_the_csv(
    trained: dict[str, RunDirectory], command: Any, tmp_path: Path
) -> None:
    """Same rows, columns and numbers, of readable files and others."""
    run = trained["e3nn"]
    (tmp_path / "in").mkdir()
    for file in CIFS[:4]:
        (tmp_path / "in" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "in" / "empty.cif").touch()
    output = tmp_path / "out.csv"
    command("predict", "--dir", tmp_path / "in", "--run", run.path, "--output", output)
    model = phase2hpc.load_model(run.path, threads=1)
    frame = model.predict(tmp_path / "in")
    written = pd.read_csv(output, keep_default_na=False, dtype=str)
    assert list(frame.columns) == list(written.columns) and len(frame) == len(written) == 5
    assert set(frame["status"]) == {"ok", "failed"}
    for name in ("id", "input", "formula", "status", "reason"):
        assert frame[name].tolist() == written[name].tolist()
    for name in model.properties:
        for column in (name, f"{name}_sigma", f"{name}_low", f"{name}_high"):
            shown = ["" if np.isnan(value) else f"{value:.7g}" for value in frame[column]]
            assert shown == written[column].tolist()
        assert frame[name].dtype == frame[f"{name}_sigma"].dtype == np.float64
    assert frame["in_domain"].map({False: "false", True: "true"}).tolist() == (
        written["in_domain"].tolist()
    )


def test_a_mixed_list(model: phase2hpc.Predictor, tmp_path: Path) -> None:
    """pymatgen, ASE and paths in one list; each is the row that it is alone."""
    atoms = bulk("NaCl", "rocksalt", a=5.69)
    structures = [SALT, CIFS[0], atoms, str(CIFS[1]), bulk("Fm", "fcc", a=4.5)]
    frame = model.predict(structures)
    assert frame["status"].tolist() == ["ok"] * 5, frame["reason"].tolist()
    assert frame["id"].tolist() == [
        "structures#0", CIFS[0].stem, "structures#2", CIFS[1].stem, "structures#4",
    ]  # fmt: skip
    assert frame["input"].tolist()[:2] == ["structures#0", str(CIFS[0])]
    assert frame["formula"].tolist()[::2] == ["NaCl", "NaCl", "Fm"]
    assert not frame["in_domain"][4], "no fermium in training"
    for i, structure in enumerate(structures):
        alone = model.predict(structure)
        for name in model.properties:
            assert alone[name][0] == pytest.approx(frame[name][i], rel=1e-5, abs=1e-5)
    again = model.predict(iter(structures))
    pd.testing.assert_frame_equal(again, frame)
    empty = model.predict([])
    assert len(empty) == 0 and list(empty.columns) == list(frame.columns)


def test_an_object_predicts_as_its_file(model: phase2hpc.Predictor) -> None:
    files = model.predict(CIFS)
    for read in (Structure.from_file, read_ase):
        objects = model.predict([read(path) for path in CIFS])
        assert objects["status"].tolist() == ["ok"] * len(CIFS)
        assert objects["formula"].tolist() == files["formula"].tolist()
        for name in model.properties:
            # The order of atoms, and with it of sums, is another one.
            np.testing.assert_allclose(objects[name], files[name], rtol=1e-3, atol=1e-3)


def disordered_atoms() -> Atoms:
    atoms = read_ase(io.StringIO(HALF_OCCUPIED), format="cif")
    assert atoms.get_chemical_formula() == "ClK"  # what ASE makes of it
    return atoms


REJECTED = {
    "disordered Structure": (
        Structure(Lattice.cubic(5.69), [{"Na": 0.5, "K": 0.5}, "Cl"], [[0] * 3, [0.5] * 3]),
        "rejected", "disordered: site 1 (Na) has occupancy 0.5",
    ),
    "vacancy": (
        Structure(Lattice.cubic(5.69), [{"Na": 0.5}, "Cl"], [[0] * 3, [0.5] * 3]),
        "rejected", "disordered: site 1 (Na) has occupancy 0.5",
    ),
    "disordered Atoms": (disordered_atoms(), "rejected", "disordered: site 1 (Na)"),
    "dummy": (
        Structure(Lattice.cubic(5.69), ["X", "Cl"], [[0] * 3, [0.5] * 3]), "rejected",
        "unknown element",
    ),
    "slab": (bulk("NaCl", "rocksalt", a=5.69), "failed", "not periodic"),
    "molecule": (Molecule(["O", "C"], [[0, 0, 0], [0, 0, 1.1]]), "failed", "not periodic"),
    "Atoms without cell": (Atoms("CO", [[0, 0, 0], [0, 0, 1.1]]), "failed", "not periodic"),
    "no volume": (Atoms("C", cell=[1, 1, 0], pbc=True), "failed", "bad cell"),
    "infinite": (Atoms("C", cell=[np.inf, 1, 1], pbc=True), "failed", "bad cell"),
    "nan": (Atoms("C", [[np.nan] * 3], cell=[3, 3, 3], pbc=True), "rejected", "bad coordinates"),
    "empty": (Atoms(cell=[3, 3, 3], pbc=True), "rejected", "no atoms"),
    "too close": (
        Structure(Lattice.cubic(4), ["Na", "Cl"], [[0] * 3, [0.01, 0, 0]]), "rejected", "too close",
    ),
    "None": (None, "failed", "not a structure: NoneType"),
    "dict": ({"lattice": 1}, "failed", "not a structure: dict"),
}  # fmt: skip
REJECTED["slab"][0].pbc = [True, True, False]


@pytest.mark.parametrize("kind", REJECTED)
def test_what_cannot_be_predicted_is_a_row_with_its_reason(
    kind: str, model: phase2hpc.Predictor
) -> None:
    structure, status, reason = REJECTED[kind]
    frame = model.predict([SALT, structure, SALT])
    assert frame["status"].tolist() == ["ok", status, "ok"]
    assert frame["reason"][1].startswith(reason), frame["reason"][1]
    assert "\n" not in frame["reason"][1]
    assert frame[list(model.properties)].iloc[1].isna().all()
    features = model.features([SALT, structure, SALT])
    assert np.isnan(features[1]).all() and np.isfinite(features[::2]).all()


def test_a_substituted_site_of_a_cif_is_what_it_is_now(model: phase2hpc.Predictor) -> None:
    """ASE keeps the occupancies of the file that it read."""
    atoms = read_ase(io.StringIO(HALF_OCCUPIED.replace("0.5\nK1 K 0 0 0 0.5", "1")), format="cif")
    atoms.symbols[0] = "Li"
    assert model.predict(atoms)["formula"][0] == "LiCl"


def test_ids_of_objects(model: phase2hpc.Predictor) -> None:
    structure, atoms = SALT.copy(), bulk("NaCl", "rocksalt", a=5.69)
    structure.properties["material_id"] = "mp-1"
    atoms.info["id"] = "mine"
    bad = atoms.copy()
    bad.info["id"] = "two\nlines"
    frame = model.predict([structure, atoms, bad])
    assert frame["id"].tolist() == ["mp-1", "mine", "two\\nlines"]
    assert frame["status"].tolist() == ["ok", "ok", "failed"]


@pytest.mark.parametrize(
    ("structures", "error", "words"),
    [
        (5, TypeError, "int is not a structure"),
        ("gone.cif", phase2hpc.InputError, "gone.cif: no such file"),
        ([SALT, "gone.cif"], phase2hpc.InputError, "gone.cif: no such file"),
        (iter(["gone.cif"]), phase2hpc.InputError, "gone.cif: no such file"),
        ([__file__], phase2hpc.InputError, "Python file"),
    ],
)
def test_wrong_arguments(
    structures: Any, error: type[Exception], words: str, model: phase2hpc.Predictor
) -> None:
    with pytest.raises(error, match=words):
        model.predict(structures)


def test_a_folder_is_all_its_structures(model: phase2hpc.Predictor, tmp_path: Path) -> None:
    for file in CIFS[:2]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "id_prop.csv").write_text(f"{CIFS[0].name},1.0\n")
    assert len(model.predict(tmp_path)) == 2


# ---- features ----------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", LITTLE)
def test_features_are_what_the_heads_get(algorithm: str, trained: dict[str, RunDirectory]) -> None:
    from phase2hpc.data.convert import graphs_of
    from phase2hpc.data.graph_arrays import pack
    from phase2hpc.data.loader import collate
    from phase2hpc.data.readers.registry import read

    model = phase2hpc.load_model(trained[algorithm])
    vectors = model.features(CIFS)
    assert vectors.shape == (len(CIFS), LITTLE[algorithm]["out_features"])
    assert vectors.dtype == np.float32 and len(np.unique(vectors, axis=0)) == len(CIFS)
    trained_model = model.models[0]
    for path, vector in zip(CIFS, vectors, strict=True):
        arrays = pack(graphs_of(read(path), model.graph_settings))
        with torch.no_grad():
            batch = collate(arrays, [0])
            expected = trained_model.model.encoder(batch)[0]
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-4)
    assert model.features([]).shape == (0, LITTLE[algorithm]["out_features"])


# ---- load_model --------------------------------------------------------------------------------


def test_every_way_to_name_a_model(
    trained: dict[str, RunDirectory], command: Any, tmp_path: Path
) -> None:
    run = trained["cgcnn"]
    command("export", run.path, tmp_path / "exported")
    copied = tmp_path / "alone" / "best.pt"
    copied.parent.mkdir()
    copied.write_bytes(run.best.read_bytes())
    calibration = RunDirectory(copied.parent).calibration
    calibration.write_bytes(run.calibration.read_bytes())
    models_dir = run.path.parents[1]
    expected = phase2hpc.load_model(run).predict(SALT)
    for name in (run.id, run.path, str(run.path), run.best, tmp_path / "exported", copied):
        model = phase2hpc.load_model(name, models_dir=models_dir)
        pd.testing.assert_frame_equal(model.predict(SALT), expected)
    shipped = phase2hpc.load_model("e3nn-std", models_dir=tmp_path)
    assert shipped.properties == tuple(shipped.units) and shipped.units["band_gap"] == "eV"
    assert shipped.units["spillage"] == ""
    default = phase2hpc.load_model("e3nn-ensemble", models_dir=tmp_path)
    assert phase2hpc.load_model(models_dir=tmp_path).runs == default.runs


def test_several_runs_are_an_ensemble(
    train_tiny: Any, tmp_path: Path, trained: dict[str, RunDirectory]
) -> None:
    runs = [train_tiny(tmp_path, seed=seed, run_id=f"s{seed}", epochs=1) for seed in range(2)]
    model = phase2hpc.load_model(["s0", runs[1]], models_dir=tmp_path)
    frame = model.predict(SALT)
    single = [phase2hpc.load_model(run).predict(SALT) for run in runs]
    for name in model.properties:
        values = [one[name][0] for one in single]
        assert frame[name][0] == pytest.approx(np.mean(values))
    with pytest.raises(phase2hpc.InputError, match="vectors of 2 models are unrelated"):
        model.features(SALT)
    with pytest.raises(phase2hpc.InputError, match="they predict other properties"):
        phase2hpc.load_model([runs[0], trained["cgcnn"]])


def test_no_such_model(tmp_path: Path) -> None:
    for name in ("nobody", tmp_path / "gone" / "best.pt"):
        with pytest.raises(phase2hpc.InputError, match="no run"):
            phase2hpc.load_model(name, models_dir=tmp_path)
    with pytest.raises(phase2hpc.InputError, match="--device tpu"):
        phase2hpc.load_model("e3nn-std", device="tpu")


# ---- prepare, open_store, StoreDataset, train --------------------------------------------------


def test_from_crystals_to_a_model(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Any
) -> None:
    """The API gives what the command line gives."""
    monkeypatch.chdir(tmp_path)
    summary = phase2hpc.prepare(tiny.source, cutoff=5.0, max_neighbors=8, workers=1)
    assert summary.store == Path("data") / "tiny.h5" and summary.kept == 150
    store = phase2hpc.open_store("data/tiny.h5")
    assert store.graph_settings == phase2hpc.GraphSettings(5.0, 8)
    code, out, err = command(
        "prepare", tiny.source, "--cutoff", 5.0, "--max-neighbors", 8, "--workers", 1
    )
    assert code == 0 and "exists already" in out, err
    settings = {**LITTLE["cgcnn"], "epochs": 1}
    run = phase2hpc.train(
        "data/tiny.h5", algorithm="cgcnn", level="lite", properties=["band_gap", "ehull"],
        run_id="api", seed=3, **settings,
    )  # fmt: skip
    flags = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    code, _, err = command(
        "train", "--store", "data/tiny.h5", "--algorithm", "cgcnn", "--level", "lite",
        "--properties", "band_gap,ehull", "--run-id", "cli", "--seed", 3, *flags,
    )  # fmt: skip
    assert code == 0, err
    other = RunDirectory(run.path.parent / "run_cli")
    assert run.metrics_json.read_text() == other.metrics_json.read_text()
    assert phase2hpc.load_model("api").properties == ("band_gap", "ehull")
    warm = phase2hpc.train(
        "data/tiny.h5", algorithm="cgcnn", level="lite", properties="band_gap", init_from="api",
        **settings,
    )  # fmt: skip
    assert warm.read_config().init_from == str(run.path.resolve())


def test_wrong_requests(tiny: Tiny, tmp_path: Path) -> None:
    for arguments, words in (
        ({"level": "huge"}, "unknown level 'huge'"),
        ({"algorithm": "e4nn"}, "did you mean 'e3nn'"),
        ({"all_properties": True, "properties": "core4"}, "give only one of them"),
        ({"resume": True, "init_from": "x"}, "leave out --init-from"),
        ({"learning_rate": 1.0}, "unknown setting 'learning_rate'"),
        ({"lr": -1.0}, "'lr'"),
    ):
        with pytest.raises(phase2hpc.InputError, match=words):
            phase2hpc.train(tiny.store, models_dir=tmp_path, **arguments)
    with pytest.raises(phase2hpc.InputError, match="cutoff"):
        phase2hpc.prepare(tiny.source, tmp_path / "x.h5", cutoff=100.0)
    with pytest.raises(phase2hpc.InputError, match="no store at"):
        phase2hpc.open_store(tmp_path / "gone.h5")


def test_the_page_in_python(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EXAMPLES, "data/examples")
    shutil.copy(tiny.store, "my.h5")
    page = (ROOT / "docs" / "python-api.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["frame"]["status"].tolist() == ["ok"] * len(CIFS) and len(names["dataset"]) == 110
    assert names["vectors"].shape[0] == len(CIFS) and names["run"].metrics_json.exists()


def test_a_dataset_in_a_loader(tiny: Tiny) -> None:
    dataset = phase2hpc.StoreDataset(tiny.store, split="train", properties=["band_gap"])
    store = phase2hpc.open_store(tiny.store)
    assert len(dataset) == 110
    assert dataset.store_indices.tolist() == store.split_indices("train").tolist()
    (batch,) = DataLoader(dataset, batch_size=110)
    assert batch.y.shape == (110, 1) and batch.batch.max() == 109
    labels = torch.from_numpy(store.labels["band_gap"][dataset.store_indices])
    torch.testing.assert_close(batch.y[:, 0], labels, equal_nan=True)
    with pytest.raises(phase2hpc.InputError, match="unknown split 'training'"):
        phase2hpc.StoreDataset(tiny.store, split="training")
    with pytest.raises(phase2hpc.InputError, match="no label 'bandgap'"):
        phase2hpc.StoreDataset(tiny.store, properties=["bandgap"])
    with pytest.raises(phase2hpc.InputError, match="give one"):
        phase2hpc.StoreDataset(tiny.store, [0], split="train")
