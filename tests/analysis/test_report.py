"""The report: one page without network or scripts, of one run or several, that fails no run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phase2hpc.analysis import report
from phase2hpc.analysis.error_analysis import calibration, interval_coverage
from phase2hpc.analysis.report import place_in_periodic_table, report_html, write_report_of
from phase2hpc.analysis.run_results import results_of_run
from phase2hpc.errors import InputError
from phase2hpc.inference.labelled_predictions import read_labelled_predictions
from phase2hpc.runs.run_directory import RunDirectory

Command = Callable[..., tuple[int, str, str]]
MAX_BYTES = 3_000_000


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def check_self_contained(html: str) -> Page:
    page = Page(html)
    assert not page.count("script") and not page.count("link") and not page.count("img")
    for tag, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            if key in ("src", "href"):
                assert value and re.match(r"#|data:image/png;base64,", value), (tag, value)
    assert not re.search(r"url\((?!#)|@import", html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    # What matplotlib draws is in the colours of the page.
    assert "var(--ink)" in html and "#010203" not in html
    return page


@pytest.fixture
def copied(trained: dict[str, RunDirectory], tmp_path: Path) -> RunDirectory:
    """A finished run of nine properties that a test may change."""
    source = trained["cgcnn"]
    target = tmp_path / source.family / source.path.name
    shutil.copytree(source.path, target)
    return RunDirectory(target)


def test_nine_properties(copied: RunDirectory, command: Command) -> None:
    code, out, err = command("report", copied.path)
    assert (code, err) == (0, "") and out == f"report: {copied.report}\n"
    html = copied.report.read_text()
    assert len(html.encode()) < MAX_BYTES
    page = check_self_contained(html)
    results = results_of_run(copied)
    assert len(results.properties) == 9
    for name in results.properties:
        assert name in page.text
    table = read_labelled_predictions(copied.predictions_test)
    size = np.abs(table.error("band_gap"))
    worst = table.ids[int(np.nanargmax(size))]
    assert worst in page.text and table.formulas[int(np.nanargmax(size))] in page.text
    # Parity of each property with labels, its errors by size, coverage and error against sigma; and
    # loss, score and MAE by epoch.
    labelled = sum(bool(results.metric(name, "n")) for name in results.properties)
    calibrated = sum(calibration(table, name) is not None for name in table.properties)
    assert calibrated > 3 and page.count("svg") == 2 * labelled + 2 * calibrated + 2 + 9
    for words in ("epochs = 3 (level: 40)", copied.read_manifest().store_hash[:16], "crystals/s"):
        assert words in page.text
    assert "No sigma" not in page.text
    covered = interval_coverage(table, "band_gap")
    assert covered is not None and "in 90% interval" in page.text
    assert f"{100 * covered.share:.1f}% \u00b1 {100 * covered.se:.1f}" in page.text
    assert "\u03c1 = " in page.text and "nominal coverage" in page.text


def test_without_sigma(copied: RunDirectory) -> None:
    table = read_labelled_predictions(copied.predictions_test)
    replace(table, sigma={}, low={}, high={}).write(copied.predictions_test)
    page = check_self_contained(report_html([results_of_run(copied)]))
    assert "90% interval" not in page.text
    assert "No sigma" in page.text and "nominal coverage" not in page.text


def test_several_runs(trained: dict[str, RunDirectory], command: Command, tmp_path: Path) -> None:
    output = tmp_path / "two.html"
    models = trained["e3nn"].path.parents[1]
    names = ("e3nn", "cgcnn")
    code, _, err = command("report", *names, "--models-dir", models, "--output", output)
    assert (code, err) == (0, "")
    page = check_self_contained(output.read_text())
    assert "do not rank" not in page.text
    assert page.text.count("e3nn lite") >= 1 and page.text.count("cgcnn lite") >= 1


def test_runs_of_different_stores_are_not_ranked(
    trained: dict[str, RunDirectory], copied: RunDirectory
) -> None:
    copied.update_manifest(store_hash="another")
    page = check_self_contained(report_html(list(map(results_of_run, [trained["e3nn"], copied]))))
    assert "different stores" in page.text and "do not rank" in page.text
    with pytest.raises(InputError, match="6 runs at most"):
        report_html([results_of_run(copied)] * 7)


@pytest.mark.parametrize("name", ["e3nn-std", "e3nn-ensemble"])
def test_a_shipped_model_has_metrics_only(command: Command, tmp_path: Path, name: str) -> None:
    output = tmp_path / "shipped.html"
    assert command("report", name, "--output", output)[0] == 0
    page = check_self_contained(output.read_text())
    assert "only their metrics are known" in page.text and "formation_energy" in page.text


def test_crowded_and_hostile(copied: RunDirectory) -> None:
    """13,000 crystals, with names that are markup and mathematical text."""
    rng = np.random.default_rng(0)
    table = read_labelled_predictions(copied.predictions_test)
    rows = rng.integers(len(table), size=13_000)
    names = {name: values[rows] for name, values in table.target.items()}
    many = replace(
        table,
        ids=[f"<script>alert({i})</script>$x_" for i in range(len(rows))],
        formulas=[table.formulas[row] for row in rows],
        atoms=table.atoms[rows],
        target=names,
        prediction={name: v + 0.3 * rng.normal(size=len(v)) for name, v in names.items()},
        sigma={name: np.full(len(v), 0.3) for name, v in names.items()},
        low={name: v - 0.5 for name, v in names.items()},
        high={name: v + 0.5 for name, v in names.items()},
    )
    many.write(copied.predictions_test)
    html = report_html([results_of_run(copied)])
    assert len(html.encode()) < MAX_BYTES
    page = check_self_contained(html)
    assert "<script>alert(" in page.text


def test_a_run_writes_its_report_and_survives_its_failure(
    train_tiny: Callable[..., RunDirectory],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = train_tiny(tmp_path, properties="band_gap", epochs=1, at_end=write_report_of)
    assert "band_gap" in check_self_contained(run.report.read_text()).text and not caplog.records

    def fail(results: Any) -> str:
        raise RuntimeError("no font\nhere")

    monkeypatch.setattr(report, "report_html", fail)
    run = train_tiny(tmp_path, run_id="two", epochs=1, at_end=write_report_of)
    assert run.read_manifest().state == "finished" and not run.report.exists()
    (record,) = caplog.records
    assert record.getMessage() == f"{run.report}: not written (no font)"


def test_an_unfinished_run_has_none(copied: RunDirectory, command: Command) -> None:
    copied.update_manifest(state="stopped")
    code, _, err = command("report", copied.path)
    assert code == 2 and "is not finished" in err and err.count("\n") == 1
    code, _, err = command("report", copied.path, "--output", "page.pdf")
    assert code == 2 and "name a .html" in err


def test_periodic_table() -> None:
    places = {"H": (1, 1), "He": (1, 18), "B": (2, 13), "Sc": (4, 3), "La": (8, 3), "Lu": (8, 17),
              "Hf": (6, 4), "Rn": (6, 18), "U": (9, 6), "Lr": (9, 17)}  # fmt: skip
    numbers = {"H": 1, "He": 2, "B": 5, "Sc": 21, "La": 57, "Lu": 71, "Hf": 72, "Rn": 86, "U": 92,
               "Lr": 103}  # fmt: skip
    assert {symbol: place_in_periodic_table(z) for symbol, z in numbers.items()} == places
    assert len({place_in_periodic_table(z) for z in range(1, 104)}) == 103
