"""Sources to a store: what is kept, rejected, counted, repeated, interrupted."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import SAMPLE

from phase2hpc.config.properties import ColumnSettings
from phase2hpc.data.composition import composition_key
from phase2hpc.data.convert import Converter, Rejection, graphs_of
from phase2hpc.data.elements import ATOMIC_NUMBERS
from phase2hpc.data.graph import GraphSettings
from phase2hpc.data.prepare import prepare_store
from phase2hpc.data.readers.json_records import raw_crystal
from phase2hpc.data.splits import SPLITS
from phase2hpc.data.store import verify
from phase2hpc.data.store.info import read_info
from phase2hpc.data.store.merge import merge_stores
from phase2hpc.data.store.reader import Store
from phase2hpc.data.store.verify import verify_store
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.utils.worker_pool import Worker, WorkerDied, ordered_map


def records(count: int) -> list[dict[str, Any]]:
    with gzip.open(SAMPLE, "rt") as lines:
        return [json.loads(line) for line in itertools.islice(lines, count)]


def write_source(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """400 crystals of the sample, of which five cannot be used."""
    rows = records(400)
    rows[20]["frac_coords"][0][0] = float("nan")
    rows[50]["species"][0] = "Xx"
    rows[90]["id"] = rows[10]["id"]
    rows[200]["lattice"] = [[0, 0, 0]] * 3
    rows[300]["frac_coords"] = [[0.1, 0.1, 0.1]] * len(rows[300]["species"])
    rows[301]["properties"]["huge"] = 1e300
    return write_source(tmp_path / "in.jsonl", rows)


def test_kept_and_rejected(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "out" / "s.h5"
    seen: list[int] = []
    summary = prepare_store([source], path, workers=1, progress=seen.append)
    assert sum(seen) == summary.read == 400
    assert summary.kept == 394 == sum(summary.splits.values())
    assert sum(summary.rejected.values()) == 6
    assert summary.rejected["duplicate id"] == 1
    rows = records(400)
    bad = [20, 50, 90, 200, 300, 301]
    store = Store.open(path)
    kept = [i for i in range(400) if i not in bad]
    assert store.ids(np.arange(len(store))) == [rows[i]["id"] for i in kept]
    with summary.rejects_report.open() as report:
        rejects = list(csv.DictReader(report))
    assert [row["id"] for row in rejects] == [rows[10 if i == 90 else i]["id"] for i in bad]
    assert list(rejects[0]) == ["id", "reason", "input"] and all(row["reason"] for row in rejects)
    assert "Xx" in rejects[1]["reason"]
    known = [i for i in kept if rows[i]["split"] == "train"]
    labelled = sum("bulk_modulus_kv" in rows[i]["properties"] for i in known)
    assert summary.labels["bulk_modulus"]["train"] == labelled > 0
    text = str(summary)
    assert "394" in text and "duplicate id" in text and "bulk_modulus (GPa)" in text
    assert verify_store(path).ok


def test_workers_do_not_change_what_is_written(source: Path, tmp_path: Path) -> None:
    hashes = set()
    reports = set()
    for workers in (1, 2, 3):
        summary = prepare_store([source], tmp_path / f"{workers}.h5", workers=workers)
        hashes.add(summary.content_hash)
        reports.add(summary.rejects_report.read_text())
        assert read_info(summary.store).content_hash == summary.content_hash
    assert len(hashes) == len(reports) == 1


def test_already_there(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    first = prepare_store([source], path, workers=1)
    before = path.stat()
    moved = source.rename(tmp_path / "moved.jsonl")
    again = prepare_store([moved], path, workers=2)
    assert again.already_there and "exists already" in again.lines()[0]
    assert (again.kept, again.labels) == (first.kept, first.labels)
    assert again.content_hash == first.content_hash
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    for options, word in (
        (
            {"settings": GraphSettings(cutoff=4.0)},
            "made with --cutoff 6, now --cutoff 4: replace it with ",
        ),
        ({"max_atoms": 50}, "made with --max-atoms 1000, now --max-atoms 50: "),
        ({"split": "random"}, "made without --split random, now with it; without --seed 0"),
        ({"float64": True}, "made without --float64, now with it: "),
        ({"rename": {("", "band_gap"): "Eg"}}, "made without --rename band_gap=Eg, now with it: "),
        (
            {"columns": {"band_gap": ColumnSettings(unit="eV", lower_bound=0.0)}},
            "made without --column band_gap:unit=eV,min=0.0, now with it: ",
        ),
    ):
        with pytest.raises(InputError, match=word) as refusal:
            prepare_store([moved], path, workers=1, **options)  # type: ignore[arg-type]
        assert "--overwrite" in str(refusal.value)
    more = write_source(tmp_path / "more.jsonl", records(2))
    with pytest.raises(InputError, match="made from other sources: "):
        prepare_store([moved, more], path, workers=1)
    other = prepare_store([moved], path, GraphSettings(cutoff=4.0), workers=1, overwrite=True)
    assert other.content_hash != first.content_hash and not other.already_there
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="remove it"):
        prepare_store([moved], path, GraphSettings(cutoff=4.0), workers=1)


def test_a_merged_store_is_told(tmp_path: Path) -> None:
    rows = records(120)
    stores = []
    for name, part in (("a", rows[:60]), ("b", rows[60:])):
        source = write_source(tmp_path / f"{name}.jsonl", part)
        stores.append(prepare_store([source], tmp_path / f"{name}.h5", workers=1).store)
    merge_stores(stores, tmp_path / "both.h5")
    with pytest.raises(InputError, match="merged from 2 stores: replace it with --overwrite"):
        prepare_store([tmp_path / "a.jsonl"], tmp_path / "both.h5", workers=1)


def test_a_failed_overwrite_leaves_store_and_report(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    report = prepare_store([source], path, workers=1).rejects_report
    before = path.read_bytes(), report.read_bytes()
    rows = records(3)
    for row in rows:
        row["species"] = ["Qq"] * len(row["species"])
    bad = write_source(tmp_path / "bad.jsonl", rows)
    failed = tmp_path / "s.h5.failed.rejects.csv"
    with pytest.raises(InputError, match="none of 3 crystals") as failure:
        prepare_store([bad], path, workers=1, overwrite=True)
    assert str(failed) in str(failure.value) and failed.read_text().count("Qq") == 3
    assert (path.read_bytes(), report.read_bytes()) == before
    again = prepare_store([source], path, workers=1, overwrite=True)
    assert again.rejects_report == report and not failed.exists()


def test_one_bad_record_does_not_stop_the_others(tmp_path: Path) -> None:
    rows = records(150)
    rows[7]["split"] = "foo"
    rows[9]["id"] = "x\ud800"
    rows[11]["split"] = "\ud800"
    rows[13]["properties"]["."] = 2.5
    source = write_source(tmp_path / "a.jsonl", rows)
    for rule in (None, "column"):
        summary = prepare_store([source], tmp_path / f"{rule}.h5", workers=2, split=rule)
        assert summary.kept == 147 and summary.rejected == {"split": 2, "bad id": 1}
        with summary.rejects_report.open(encoding="utf-8") as report:
            rejects = {row["id"]: row for row in csv.DictReader(report)}
        assert list(rejects) == [rows[7]["id"], "x\\ud800", rows[11]["id"]]
        wrong = rejects[rows[7]["id"]]
        assert wrong["reason"].startswith("split: unknown split 'foo'")
        assert wrong["input"] == f"{source}:8"
        assert summary.labels["."] == dict.fromkeys(SPLITS, 0) | {rows[13]["split"]: 1}
    by_chance = prepare_store([source], tmp_path / "s.h5", workers=1, split="random")
    assert by_chance.rejected == {"bad id": 1}


def test_labels_matter_to_prepare_alone() -> None:
    record = records(1)[0]
    record["properties"] = {"huge": 1e300}
    raw = raw_crystal(record, "a", "here")
    (result,) = graphs_of([raw], GraphSettings())
    assert not isinstance(result, Rejection)
    arrays, (rejection,), count, _ = Converter(GraphSettings())([raw])
    assert (len(arrays), rejection.kind, count) == (0, "label", 1)


def test_a_prepared_store_is_trusted(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHASE2HPC_CACHE", str(tmp_path / "cache"))
    summary = prepare_store([source], tmp_path / "s.h5", workers=1)
    monkeypatch.setattr(verify, "verify_store", lambda path: pytest.fail("verified again"))
    verify.verify_once(summary.store)


def test_several_sources_join(tmp_path: Path) -> None:
    rows = records(120)
    a = write_source(tmp_path / "a.jsonl", rows[:80])
    b = write_source(tmp_path / "b.jsonl", rows[60:])
    summary = prepare_store([a, b], tmp_path / "s.h5", workers=1)
    assert summary.kept == 120 and summary.rejected == {"duplicate id": 20}
    store = Store.open(tmp_path / "s.h5")
    assert store.ids(np.arange(120)) == [row["id"] for row in rows]


def test_split_rules(tmp_path: Path) -> None:
    rows = records(150)
    source = write_source(tmp_path / "a.jsonl", rows)
    by_column = prepare_store([source], tmp_path / "column.h5", workers=1, split="column")
    by_formula = prepare_store([source], tmp_path / "formula.h5", workers=1, split="formula")
    # The sample's own split is this hash.
    assert by_column.content_hash == by_formula.content_hash
    by_chance = prepare_store([source], tmp_path / "random.h5", workers=1, split="random", seed=3)
    assert by_chance.content_hash != by_formula.content_hash
    table = tmp_path / "split.csv"
    names = ["train", "val", "test"]
    table.write_text("".join(f"{row['id']},{names[i % 3]}\n" for i, row in enumerate(rows)))
    prepare_store([source], tmp_path / "file.h5", workers=2, split=str(table))
    split = Store.open(tmp_path / "file.h5").split
    assert split.tolist() == [i % 3 for i in range(150)]
    table.write_text(table.read_text().split("\n", 1)[1])
    with pytest.raises(InputError, match=rows[0]["id"]):
        prepare_store([source], tmp_path / "file2.h5", workers=2, split=str(table))
    with pytest.raises(InputError, match="nonsense"):
        prepare_store([source], tmp_path / "file2.h5", workers=1, split="nonsense")
    assert not list(tmp_path.glob("*file2*.h5")) and not list(tmp_path.glob(".*.partial"))


def test_compounds_in_train_and_test_by_own_splits_are_said(tmp_path: Path) -> None:
    rows = records(150)
    a = write_source(tmp_path / "a.jsonl", rows)
    train = next(row for row in rows if row["split"] == "train")
    again = [{**train, "id": f"again-{part}", "split": part} for part in ("train", "test")]
    b = write_source(tmp_path / "b.jsonl", again)
    formula = composition_key([ATOMIC_NUMBERS[symbol] for symbol in train["species"]])
    summary = prepare_store([a, b], tmp_path / "joint.h5", workers=1)
    (note,) = summary.notes
    assert "1 compound in train and in val or test" in note and f"example {formula}:" in note
    # Alone neither has it, nor have both by formula.
    assert not prepare_store([a], tmp_path / "a.h5", workers=1).notes
    b.write_text(b.read_text().splitlines()[0] + "\n")
    assert not prepare_store([a, b], tmp_path / "same.h5", workers=1).notes
    write_source(b, again)
    by_formula = prepare_store([a, b], tmp_path / "formula.h5", workers=1, split="formula")
    assert not by_formula.notes


def test_empty_splits_and_no_crystal(tmp_path: Path) -> None:
    rows = records(3)
    for row in rows:
        row["split"] = "train"
    source = write_source(tmp_path / "a.jsonl", rows)
    with pytest.raises(InputError, match="split val and test would be empty"):
        prepare_store([source], tmp_path / "s.h5", workers=1)
    for row in rows:
        row["species"] = ["Qq"] * len(row["species"])
    write_source(source, rows)
    with pytest.raises(InputError, match="none of 3 crystals") as failure:
        prepare_store([source], tmp_path / "s.h5", workers=1)
    report = tmp_path / "s.h5.rejects.csv"
    assert str(report) in str(failure.value) and report.read_text().count("Qq") == 3
    assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "s.h5.rejects.csv"}
    with pytest.raises(InputError, match="no source"):
        prepare_store([], tmp_path / "s.h5")
    with pytest.raises(InputError, match="nowhere"):
        prepare_store([tmp_path / "nowhere"], tmp_path / "s.h5")


def test_lonely_atoms_are_kept(tmp_path: Path) -> None:
    rows = records(120)
    source = write_source(tmp_path / "a.jsonl", rows)
    summary = prepare_store([source], tmp_path / "s.h5", GraphSettings(cutoff=1.0), workers=1)
    store = Store.open(tmp_path / "s.h5")
    assert summary.kept == 120
    assert (np.diff(store.edge_ptr) == 0).sum() > 50
    assert verify_store(tmp_path / "s.h5").ok


PREPARE = """
import sys
import time
from phase2hpc.data.prepare import prepare_store
print("begin", flush=True)
print(prepare_store([sys.argv[1]], sys.argv[2], workers=2).content_hash)
"""


def start(source: Path, store: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PREPARE, str(source), str(store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Where tests run in the background of a shell, SIGINT is ignored, and children inherit it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_two_at_once(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    both = [start(source, path), start(source, path)]
    hashes = []
    for process in both:
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        hashes.append(out.split()[-1])
    assert hashes[0] == hashes[1] == Store.open(path).content_hash
    assert not list(tmp_path.glob(".*"))


def test_map_is_ordered_bounded_and_tells_errors() -> None:
    drawn: list[int] = []

    def tasks() -> Any:
        for number in range(50):
            drawn.append(number)
            yield number

    results = ordered_map(float, tasks(), 2)
    for number, result in enumerate(results):
        assert result == float(number)
        assert len(drawn) <= number + 6
    with pytest.raises(RuntimeError, match="could not convert"):
        list(ordered_map(float, ["1", "x"], 2))
    with pytest.raises(WorkerDied, match="exit code 7"):
        list(ordered_map(os._exit, [7, 7], 2))
    # More in both directions than a pipe holds.
    big = [b"x" * 3_000_000] * 6
    assert list(ordered_map(bytes.upper, big, 2)) == [item.upper() for item in big]


def test_a_killed_worker_is_told() -> None:
    worker = Worker(time.sleep)
    worker.send(30)
    worker._process.send_signal(signal.SIGKILL)
    with pytest.raises(Phase2Error, match="SIGKILL"):
        worker.receive()
    worker.close()


def test_the_limit_of_atoms_is_a_setting(tmp_path: Path, command: Any) -> None:
    rows = records(200)
    source, path = write_source(tmp_path / "in.jsonl", rows), tmp_path / "s.h5"
    few = sum(len(row["species"]) <= 8 for row in rows)
    summary = prepare_store([source], path, max_atoms=8, split="random", workers=1)
    assert (summary.kept, summary.rejected) == (few, {"too many atoms": 200 - few})
    assert prepare_store([source], path, max_atoms=8, split="random", workers=1).already_there
    other = tmp_path / "t.h5"
    for further in ((), ("--shards", 2)):
        code, out, _ = command("prepare", source, "--store", other, "--max-atoms", 8,
                               "--split", "random", "--overwrite", *further)  # fmt: skip
        assert code == 0 and f"kept {few}" in out
    report = (tmp_path / "t.h5.rejects.csv").read_text()
    assert "in the cell, at most 8 are taken (--max-atoms)" in report


def test_a_store_of_an_earlier_version_names_no_limit_of_atoms(tmp_path: Path) -> None:
    from phase2hpc.data.preparation_difference import difference

    old = {"sources": ["x"], "float64": False}
    assert difference(old, {**old, "max_atoms": 1000}) == ""
    assert difference(old, {**old, "max_atoms": 2000}) == (
        "made with --max-atoms 1000, now --max-atoms 2000"
    )


def test_the_content_of_a_store_stays_the_same(tmp_path: Path) -> None:
    """Recorded before validation and graph shared a search. It depends on the graphs to their last
    edge: a change of it is a change of every store, to be said in the changelog."""
    source = write_source(tmp_path / "in.jsonl", records(200))
    expected = "96d8d522fab8b251613565040987159e1983aec7b9e4fa6e8e45024765e6328a"
    for workers in (1, 2):
        summary = prepare_store([source], tmp_path / f"{workers}.h5", workers=workers)
        assert summary.content_hash == expected
