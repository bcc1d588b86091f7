"""``evaluate``: the errors of a run on its own test crystals are those it has written."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phase2hpc.runs.run_directory import RunDirectory

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def source(tiny: Any, tmp_path: Path) -> Path:
    """The test crystals of the store, and a structure that is none."""
    path = tmp_path / "test.jsonl"
    records = [*tiny.of_split("test"), {**tiny.of_split("test")[0], "id": "bad", "species": []}]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_the_errors_of_the_test_split(
    trained: dict[str, RunDirectory], source: Path, command: Command, tmp_path: Path
) -> None:
    run, output = trained["e3nn"], tmp_path / "errors.csv"
    code, out, err = command("evaluate", run.path, source, "--output", output)
    assert code == 0 and "1 rejected" in err and str(output) in err
    metrics = json.loads(run.metrics_json.read_text())["test"]
    with output.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 21 and rows[-1]["status"] == "rejected"
    for name, known in metrics.items():
        errors = [abs(float(row[f"{name}_error"])) for row in rows if row[f"{name}_error"]]
        assert len(errors) == known["n"]
        if errors:
            assert sum(errors) / len(errors) == pytest.approx(known["mae"], rel=1e-4)
            assert any(line.startswith(name) for line in out.splitlines())
    first = next(row for row in rows if row["band_gap_target"])
    wanted = float(first["band_gap"]) - float(first["band_gap_target"])
    assert float(first["band_gap_error"]) == pytest.approx(wanted, abs=1e-5)
    code, out, _ = command("evaluate", run.path, source, "--json")
    found = json.loads(out)["metrics"]
    assert found["band_gap"]["mae"] == pytest.approx(metrics["band_gap"]["mae"], rel=1e-4)


def test_a_few_structures_are_listed(
    trained: dict[str, RunDirectory], tiny: Any, command: Command, tmp_path: Path
) -> None:
    path = tmp_path / "few.jsonl"
    records = tiny.of_split("test")[:2]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    code, out, _ = command("evaluate", trained["cgcnn"].path, path)
    assert code == 0
    lines = [line for line in out.splitlines() if line.startswith(records[0]["id"])]
    assert len(lines) >= 1 and "label  prediction" in out


def table(tmp_path: Path, header: str) -> Path:
    """A folder of two structures, and a table of their labels."""
    folder = tmp_path / "cifs"
    folder.mkdir(exist_ok=True)
    for name, a in (("a", 4.0), ("b", 5.6)):
        (folder / f"{name}.vasp").write_text(
            f"NaCl\n{a}\n0 .5 .5\n.5 0 .5\n.5 .5 0\nNa Cl\n1 1\nDirect\n0 0 0\n.5 .5 .5\n"
        )
    labels = tmp_path / "labels.csv"
    labels.write_text(f"id,{header}\na,1.0\nb,none yet\n")
    return labels


def test_columns_of_other_names_and_units(
    trained: dict[str, RunDirectory], command: Command, tmp_path: Path
) -> None:
    run, folder = trained["cgcnn"].path, tmp_path / "cifs"
    labels = table(tmp_path, "gap")
    code, _, err = command("evaluate", run, folder, "--labels", labels)
    assert code == 2 and "label columns: gap" in err and "--rename COLUMN=PROPERTY" in err
    code, out, err = command(
        "evaluate", run, folder, "--labels", labels, "--rename", "gap=band_gap"
    )
    assert code == 0 and "1 of 2 cells is not a number" in err and "no label" in out
    code, _, err = command("evaluate", run, folder, "--labels", labels, "--rename", "x=band_gap")
    assert code == 2 and "no label column 'x'" in err
    labels = table(tmp_path, "band_gap (meV)")
    code, _, err = command("evaluate", run, folder, "--labels", labels)
    assert code == 2 and "band_gap has another unit here" in err and err.count("\n") == 1


def test_a_store_is_a_source(
    trained: dict[str, RunDirectory], tiny: Any, command: Command, tmp_path: Path, caplog: Any
) -> None:
    """Its labelled test crystals, with the errors that training wrote; its own coordinates."""
    run, output = trained["e3nn"], tmp_path / "errors.json"
    code, out, _ = command("evaluate", run.path, tiny.store, "--json", "--output", output)
    assert code == 0 and not caplog.records
    metrics = json.loads(run.metrics_json.read_text())["test"]
    found = json.loads(out)["metrics"]
    for name, known in metrics.items():
        assert found[name]["n"] == known["n"]
        if known["n"]:
            assert found[name]["mae"] == pytest.approx(known["mae"], rel=1e-4, abs=1e-6)
    rows = json.loads(output.read_text())
    assert [row["id"] for row in rows] == [r["id"] for r in tiny.of_split("test")]
    assert rows[0]["input"].startswith("tiny.h5#") and rows[0]["band_gap_target"] is not None
    counts = {}
    for split in ("val", "all"):
        code, out, _ = command("evaluate", run.path, tiny.store, "--split", split, "--json")
        assert code == 0 and "the model" in caplog.text
        caplog.clear()
        counts[split] = json.loads(out)["metrics"]["ehull"]["n"]
    assert counts["val"] == 20 and counts["all"] > 100


def test_what_a_store_cannot_give(
    trained: dict[str, RunDirectory], tiny: Any, command: Command, tmp_path: Path
) -> None:
    run = trained["cgcnn"].path
    cases = [
        ((tiny.store, "--split", "some"), "choose train, val, test or all"),
        ((tiny.source, "--split", "val"), "only with a store (.h5)"),
        ((tiny.source, "--labels", tiny.source), "name one folder as SOURCE"),
    ]
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(tiny.store.read_bytes()[:3000])
    cases.append(((damaged,), "damaged.h5"))
    other = tmp_path / "other.h5"
    write_salts(tmp_path, other)
    cases.append(((other,), "label columns: hardness"))
    for arguments, words in cases:
        code, _, err = command("evaluate", run, *arguments)
        assert code == 2 and words in err and err.count("\n") == 1, err
    code, out, _ = command("evaluate", run, other, "--rename", "hardness=band_gap", "--json")
    assert code == 0 and json.loads(out)["metrics"]["band_gap"]["n"] == 1


def write_salts(folder: Path, store: Path) -> None:
    """A store of three crystals, one in each split, with a column of its own."""
    from phase2hpc.data.prepare import prepare_store

    records = [
        {"id": split, "lattice": [[a, 0, 0], [0, a, 0], [0, 0, a]], "species": ["Cs", "Cl"],
         "frac_coords": [[0, 0, 0], [0.5, 0.5, 0.5]], "properties": {"hardness": 1.0},
         "split": split}
        for split, a in (("train", 4.0), ("val", 4.1), ("test", 4.2))
    ]  # fmt: skip
    source = folder / "salts.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    prepare_store([source], store, workers=1)
