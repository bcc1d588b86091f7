"""Prediction: a row for every input in its order, whatever happens to it."""

from __future__ import annotations

import csv
import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import EXAMPLES, ROOT

from phase2hpc.config.properties import PROPERTIES
from phase2hpc.data.elements import atomic_number
from phase2hpc.data.prepare import prepare_store
from phase2hpc.inference import predictor as module
from phase2hpc.inference.predictor import Predictor
from phase2hpc.inference.trained_model import TrainedModel

ALL9 = tuple(PROPERTIES)
COLUMNS = (
    "id", "input", "formula", "status", "reason",
    *(f"{name}{kind}" for name in ALL9 for kind in ("", "_sigma", "_low", "_high")),
    "in_domain",
)  # fmt: skip


def cif(name: str, a: float, atoms: list[tuple[str, float, float, float]]) -> str:
    """A cubic cell without symmetry."""
    head = [f"data_{name}", *(f"_cell_length_{axis} {a}" for axis in "abc")]
    head += [f"_cell_angle_{angle} 90" for angle in ("alpha", "beta", "gamma")]
    head += ["loop_", "_atom_site_label", "_atom_site_type_symbol"]
    head += [f"_atom_site_fract_{axis}" for axis in "xyz"]
    sites = [f"{s}{i} {s} {x} {y} {z}" for i, (s, x, y, z) in enumerate(atoms)]
    return "\n".join([*head, *sites]) + "\n"


def rocksalt(a: float, cells: int, *symbols: str) -> list[tuple[str, float, float, float]]:
    n = 2 * cells
    grid = [(i, j, k) for i in range(n) for j in range(n) for k in range(n)]
    return [(symbols[(i + j + k) % 2], i / n, j / n, k / n) for i, j, k in grid]


SALT = [("Na", 0.0, 0.0, 0.0), ("Cl", 0.5, 0.5, 0.5)]


@pytest.fixture
def folder(tmp_path: Path, tiny) -> Path:
    """All kinds of inputs; their names say the order."""
    path = tmp_path / "in"
    path.mkdir()
    files = {
        "a_good.cif": (EXAMPLES / "C-diamond.cif").read_text(),
        "b_empty.cif": "",
        "c_cut.cif": (EXAMPLES / "KTaO3-perovskite.cif").read_text()[:300],
        "d_words.cif": "this is no CIF at all\n",
        "e_two.cif": cif("one", 3.9, SALT) + cif("two", 4.0, SALT),
        "f_close.cif": cif("close", 4.0, [("Na", 0, 0, 0), ("Cl", 0.01, 0, 0)]),
        "g_lonely.cif": cif("lonely", 9.0, [("Na", 0.0, 0.0, 0.0)]),
        "h_unseen.cif": cif("unseen", 5.0, [("Fm", 0.0, 0.0, 0.0), ("O", 0.5, 0.5, 0.5)]),
        "i_large.cif": cif("large", 16.8, rocksalt(16.8, 3, "Na", "Cl")),
        "j_xx.cif": cif("xx", 4.0, [("Xx", 0, 0, 0), ("Cl", 0.5, 0.5, 0.5)]),
        "k_good.cif": (EXAMPLES / "HfN-rocksalt.cif").read_text(),
        "notes.txt": "not looked at",
    }
    for name, text in files.items():
        (path / name).write_text(text)
    (path / "l_bytes.cif").write_bytes(b"\xff\xfe\x00data_\x00\x81")
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(params=["e3nn", "cgcnn"])
def run(request, trained):
    return trained[request.param]


def test_a_row_for_every_input(run, folder, command, tmp_path, caplog) -> None:
    output = tmp_path / "out" / "preds.csv"
    code, _, err = command("predict", "--dir", folder, "--run", run.path, "--output", output)
    assert code == 0 and "Traceback" not in err
    rows = read_csv(output)
    assert tuple(rows[0]) == COLUMNS
    inputs = [Path(row["input"].split("#")[0]).name for row in rows]
    assert inputs == sorted(inputs)
    assert inputs == sorted([p.name for p in folder.glob("*.cif")] + ["e_two.cif"])
    by_file = {}
    for name, row in zip(inputs, rows, strict=True):
        by_file.setdefault(name[0], []).append(row)
    assert [row["id"] for row in by_file["e"]] == ["e_two#one", "e_two#two"]
    for letter, rows_of in by_file.items():
        for row in rows_of:
            good = letter in "aeghik"
            assert (row["status"] == "ok") == good, row
            # Of the other crystals some are far from the few that these models were trained on.
            outside = letter in "gh" or row["reason"].startswith("unlike the training crystals")
            assert bool(row["reason"]) == (outside or not good) and "\n" not in row["reason"]
            values = [row[name] for name in ALL9]
            assert all(map(bool, values)) if good else not any(values)
            assert all(math.isfinite(float(value)) for value in values if value)
            assert row["in_domain"] == ("true" if good and not outside else "false")
    assert by_file["h"][0]["reason"].startswith("never occurred in training: Fm")
    assert "no neighbour: atom 1 (Na) has none within 6 A" in by_file["g"][0]["reason"]
    assert by_file["f"][0]["status"] == "rejected" and by_file["f"][0]["formula"] == "NaCl"
    assert by_file["b"][0]["status"] == "failed"
    assert [by_file[k][0]["formula"] for k in "aegik"] == ["C", "NaCl", "Na", "NaCl", "HfN"]
    assert err.splitlines()[-1].startswith(f"{len(rows)} structures: 7 ok, ")
    outside = [row for row in rows if row["status"] == "ok" and row["in_domain"] == "false"]
    assert f", {len(outside)} outside the domain of training; by " in err.splitlines()[-1]
    assert f"{folder}: 1 not read, not named as CIF or POSCAR: notes.txt" in caplog.text


def test_bounds_hold(run, folder, command, tmp_path, monkeypatch) -> None:
    """A model that says -1e3 everywhere is clipped where physics says so, and only there."""
    monkeypatch.setattr(
        "phase2hpc.inference.target_scaler.TargetScaler.inverse",
        lambda self, scaled: scaled * 0 - 1e3,
    )
    output = tmp_path / "preds.csv"
    command("predict", "--cif", folder / "a_good.cif", "--run", run.path, "--output", output)
    (row,) = read_csv(output)
    for name, known in PROPERTIES.items():
        bound = -1e3 if known.lower_bound is None else known.lower_bound
        assert float(row[name]) == bound, name


def test_alone_as_in_a_folder(run, folder, command, tmp_path) -> None:
    together, alone = tmp_path / "together.csv", tmp_path / "alone.csv"
    command("predict", "--dir", folder, "--run", run.path, "--output", together)
    for row in read_csv(together):
        if row["status"] == "ok" and "#" not in row["id"]:
            command("predict", "--cif", row["input"], "--run", run.path, "--output", alone)
            (other,) = read_csv(alone)
            for name in ALL9:
                assert float(row[name]) == pytest.approx(float(other[name]), rel=1e-5, abs=1e-6)


def test_json(run, folder, command, tmp_path) -> None:
    as_csv, as_json = tmp_path / "p.csv", tmp_path / "p.JSON"
    for output in (as_csv, as_json):
        assert command("predict", "--dir", folder, "--run", run.path, "--output", output)[0] == 0
    records = json.loads(as_json.read_text(), parse_constant=pytest.fail)
    for record, row in zip(records, read_csv(as_csv), strict=True):
        assert tuple(record) == COLUMNS
        for key, value in record.items():
            if isinstance(value, float):
                assert float(row[key]) == pytest.approx(value, rel=1e-6)
            elif isinstance(value, bool):
                assert row[key] == str(value).lower()
            else:
                assert row[key] == (value or "")


def test_duplicate_names_are_rows_of_their_own(trained, tiny, command, tmp_path) -> None:
    source = tmp_path / "twice.jsonl"
    first, second = (json.dumps(record) for record in tiny.records[:2])
    source.write_text("\n".join([first, second, first, "{broken", first]) + "\n")
    output = tmp_path / "p.csv"
    arguments = ("--run", trained["e3nn"].path, "--output", output)
    assert command("predict", source, source, *arguments)[0] == 0
    rows = read_csv(output)
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "failed", "ok"] * 2
    assert rows[0]["id"] == rows[2]["id"] == rows[5]["id"] == tiny.records[0]["id"]
    assert len({row["band_gap_mbj"] for row in (rows[0], rows[2], rows[5])}) == 1


@pytest.mark.parametrize(
    ("algorithm", "precision"),
    [("e3nn", None), ("cgcnn", None), ("cgcnn", "bf16"), ("e3nn", "float64")],
)
def test_metrics_recomputed_are_those_of_the_run(
    algorithm, precision, trained, train_tiny, tiny, command, tmp_path
) -> None:
    run = trained[algorithm]
    if precision:
        run = train_tiny(
            tmp_path, algorithm, properties="all9", precision=precision, epochs=1, max_samples=16
        )
    source, output = tmp_path / "test.jsonl", tmp_path / "p.json"
    records = tiny.of_split("test")
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert command("predict", source, "--run", run.path, "--output", output)[0] == 0
    rows = json.loads(output.read_text())
    written = read_csv(run.predictions_test)
    assert [row["id"] for row in rows] == [row["id"] for row in written]
    metrics = json.loads(run.metrics_json.read_text())["test"]
    for name, known in PROPERTIES.items():
        pairs = [
            (row[name], np.float32(record["properties"][known.jarvis_field]))
            for row, record in zip(rows, records, strict=True)
            if known.jarvis_field in record["properties"]
        ]
        error = np.array([float(p) - float(t) for p, t in pairs])
        assert metrics[name]["n"] == len(pairs) > 0
        # A store keeps single precision coordinates, a source has more digits.
        assert np.abs(error).mean() == pytest.approx(metrics[name]["mae"], rel=1e-6)
        assert np.sqrt(np.square(error).mean()) == pytest.approx(metrics[name]["rmse"], rel=1e-6)
        for row, line in zip(rows, written, strict=True):
            assert row[name] == pytest.approx(float(line[name]), rel=2e-6, abs=2e-6)


def test_several_runs_are_their_mean_and_spread(train_tiny, folder, command, tmp_path) -> None:
    models = tmp_path / "models"
    runs = [train_tiny(models, seed=seed, run_id=f"s{seed}", epochs=1) for seed in range(3)]
    rows = {}
    for names in ("s0", "s1", "s2", "s0,s1,s2"):
        output = tmp_path / f"{names}.json"
        code, _, err = command(
            "predict", "--dir", folder, "--run", names, "--models-dir", models, "--output", output
        )
        assert code == 0, err
        rows[names] = json.loads(output.read_text())
    for members in zip(*rows.values(), strict=True):
        *single, together = members
        if together["status"] != "ok":
            continue
        for name in ("formation_energy", "bulk_modulus"):
            values = [row[name] for row in single]
            assert together[name] == pytest.approx(np.mean(values), rel=1e-12)
            assert together[f"{name}_sigma"] > 0
    code, out, _ = command(
        "predict", "--cif", folder / "a_good.cif", "--run", "s0,s1", "--models-dir", models
    )
    assert code == 0 and "sigma" in out
    assert len(runs) == 3


def test_runs_of_other_properties_do_not_mix(
    trained, train_tiny, folder, command, tmp_path
) -> None:
    other = train_tiny(tmp_path, properties="band_gap", epochs=1)
    code, _, err = command(
        "predict", "--dir", folder, "--run", f"{trained['cgcnn'].path},{other.path}"
    )
    assert code == 2 and err.count("\n") == 1 and "other properties" in err


def test_a_failure_of_the_model_loses_no_other(
    trained, folder, command, tmp_path, monkeypatch
) -> None:
    """Sodium is too much for this model, alone or in company."""
    sodium = atomic_number("Na")
    original = TrainedModel.load

    def load(path, device="cpu"):
        best = original(path, device)

        def refuse(model, arguments):
            if (arguments[0].z == sodium).any():
                raise RuntimeError("out of memory\nsecond line")

        best.model.encoder.register_forward_pre_hook(refuse)
        return best

    monkeypatch.setattr(TrainedModel, "load", load)
    output = tmp_path / "p.csv"
    run = trained["cgcnn"].path
    assert command("predict", "--dir", folder, "--run", run, "--output", output)[0] == 0
    for row in read_csv(output):
        if "Na" in row["formula"] and row["status"] != "rejected":
            assert row["status"] == "failed" and not row["band_gap"]
            assert row["reason"] == "the model failed on it: out of memory"
        elif row["formula"] in ("C", "HfN"):
            assert row["status"] == "ok" and row["band_gap"]


def test_a_value_that_is_not_finite_fails(trained, folder, command, tmp_path, monkeypatch) -> None:
    original = module.infer_each

    def broken(*arguments, **settings):
        outputs = original(*arguments, **settings)
        outputs[0].scaled[0, 3] = np.nan
        return outputs

    monkeypatch.setattr(module, "infer_each", broken)
    output = tmp_path / "p.json"
    run = trained["cgcnn"].path
    assert command("predict", "--dir", folder, "--run", run, "--output", output)[0] == 0
    first, *others = json.loads(output.read_text())
    assert first["status"] == "failed" and first["reason"] == "the model's prediction is not finite"
    assert first["band_gap"] is None and any(row["status"] == "ok" for row in others)


def test_all_inputs_bad(run, folder, command, tmp_path) -> None:
    output = tmp_path / "p.csv"
    code, out, err = command(
        "predict", "--cif", folder / "d_words.cif", "--run", run.path, "--output", output
    )
    assert (code, out) == (2, "") and err.count("\n") == 1 and "1 failed" in err
    (row,) = read_csv(output)
    assert row["status"] == "failed" and row["reason"]


def test_an_isolated_atom_is_outside_the_domain(run, command, tmp_path) -> None:
    """Its images lie at the cutoff itself, where an edge has no weight."""
    case = ROOT / "tests" / "data" / "readers" / "cases" / "isolated_H_box6.vasp"
    output = tmp_path / "p.csv"
    code, _, _ = command("predict", case, "--run", run.path, "--output", output)
    (row,) = read_csv(output)
    assert (code, row["status"], row["in_domain"]) == (0, "ok", "false")
    assert "no neighbour: atom 1 (H) has none within 6 A" in row["reason"]
    code, out, _ = command("predict", case, "--run", run.path)
    assert "isolated_H_box6: outside the model's domain (" in out and row["reason"] in out


def test_the_limit_of_atoms_is_a_setting(run, folder, command, tmp_path) -> None:
    output, large = tmp_path / "p.csv", folder / "i_large.cif"
    for limit, status in ((20, "rejected"), (300, "ok")):
        command("predict", "--cif", large, "--run", run.path, "--output", output,
                "--max-atoms", limit)  # fmt: skip
        (row,) = read_csv(output)
        assert row["status"] == status
    assert "max-atoms" not in row["reason"]


def test_the_table(run, folder, command) -> None:
    code, out, _ = command("predict", "--cif", folder / "a_good.cif", "--run", run.path)
    header = ["prediction", "sigma", "90%", "interval", "unit"]
    assert code == 0 and out.splitlines()[0].split()[-5:] == header
    assert all(name in out for name in ALL9)
    code, out, _ = command("predict", "--dir", folder, "--run", run.path)
    assert code == 0 and "h_unseen" in out and "never occurred in training" in out
    assert "rejected: " in out and "failed: " in out


def test_a_lite_run_is_not_the_default(trained, folder, command, caplog) -> None:
    models = trained["cgcnn"].path.parents[1]
    code, out, err = command("predict", "--cif", folder / "a_good.cif", "--models-dir", models)
    assert code == 0 and "piezoelectric" in out
    assert "for the newest one): predicting with the shipped model e3nn-ensemble" in caplog.text
    assert "; by e3nn pro, the mean of ensemble e3nn-ensemble/e3nn of 2 runs (12,576 train" in err


def test_the_line_names_the_model(trained, folder, command) -> None:
    run = trained["cgcnn"]
    _, _, err = command("predict", "--cif", folder / "a_good.cif", "--run", run.path)
    mae = json.loads(run.metrics_json.read_text())["test"]["formation_energy"]["mae"]
    assert err.startswith("1 structure: 1 ok")
    assert (
        "; by cgcnn lite, multitask_cgcnn_lite/cgcnn (40 training crystals; "
        f"test MAE formation_energy {mae:#.3g} eV/atom, "
    ) in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dir", "{folder}", "--cif", "x.cif"], "give one of"),
        ([], "give one of"),
        (["--cif", "{folder}/gone.cif"], "gone.cif"),
        (["--cif", "{folder}"], "a folder"),
        (["--dir", "{folder}/a_good.cif"], "no such folder"),
        (["{folder}/notes.txt"], "unknown format"),
        (["{folder}/a_good.cif", "{folder}/gone.cif"], "gone.cif"),
        (["--cif", "{folder}/a_good.cif", "--run", "nobody"], "no run 'nobody'"),
        (["--cif", "{folder}/a_good.cif", "--run", ","], "--run"),
        (["--cif", "{folder}/a_good.cif", "--device", "tpu"], "--device tpu"),
        (["--cif", "{folder}/a_good.cif", "--threads", "0"], "--threads"),
        (["--cif", "{folder}/a_good.cif", "--output", "{folder}"], "this is a folder"),
        (["--cif", "{folder}/a_good.cif", "--output", "{folder}/notes.txt/p.csv"], "--output"),
        (["--cif", "{folder}/a_good.cif", "--output", "/proc/p.csv"], "cannot be written"),
    ],
)
def test_errors_are_one_line(arguments, words, trained, folder, command) -> None:
    models = trained["cgcnn"].path.parents[1]
    given = [argument.format(folder=folder) for argument in arguments]
    code, out, err = command("predict", *given, "--models-dir", models)
    assert (code, out) == (2, "") and err.count("\n") == 1 and words in err, err


def test_no_model_at_all(folder, command, monkeypatch) -> None:
    monkeypatch.setattr("phase2hpc.runs.model_selection.pretrained_models", list)
    code, out, err = command("predict", "--cif", folder / "a_good.cif", "--models-dir", folder)
    assert (code, out) == (2, "") and err.count("\n") == 1 and "no finished run" in err, err


def test_graph_settings_are_those_of_training(train_tiny, tiny, tmp_path) -> None:
    """A store with other graphs than the default: predict builds them as training had them."""
    from phase2hpc.data.graph import GraphSettings

    store = tmp_path / "other.h5"
    settings = GraphSettings(cutoff=4.0, max_neighbors=6)
    prepare_store([tiny.source], store, settings, workers=1)
    run = train_tiny(tmp_path / "models", store=store, epochs=1)
    predictor = Predictor([run], torch.device("cpu"))
    assert predictor.graph_settings == settings
    from phase2hpc.data.readers.registry import read

    rows = {row.id: row for row in predictor.predict_raw(read(tiny.source))}
    for line in read_csv(run.predictions_test):
        for name in predictor.properties:
            value = rows[line["id"]].values[name]
            assert value == pytest.approx(float(line[name]), rel=1e-5, abs=1e-5)


def test_a_source_that_breaks_off_keeps_what_came_before(tiny, trained, command, tmp_path) -> None:
    whole = tiny.source.read_text().splitlines(keepends=True)[:5]
    packed = tmp_path / "cut.jsonl.gz"
    data = gzip.compress("".join(whole).encode())
    packed.write_bytes(data[: len(data) * 9 // 10])
    output = tmp_path / "out.csv"
    run = trained["e3nn"].path
    code, _, err = command("predict", packed, tiny.source, "--run", run, "--output", output)
    assert code == 0 and "Traceback" not in err
    rows = list(csv.DictReader(output.open()))
    broken = [row for row in rows if row["status"] == "failed"]
    assert len(broken) == 1 and "cut.jsonl.gz" in broken[0]["reason"]
    assert rows.index(broken[0]) < 5
    assert len(rows) == rows.index(broken[0]) + 1 + len(tiny.records)
