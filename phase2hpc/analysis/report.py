"""Report of runs as one HTML page that needs no network and no scripts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phase2hpc.analysis.run_results import (
    RunResults,
    check_same_tests,
    find_results,
    results_of_folder,
)
from phase2hpc.config.level_settings import overrides, preset_of
from phase2hpc.config.properties import columns_text, in_order
from phase2hpc.errors import InputError
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils import tables
from phase2hpc.utils.atomic_io import write_atomically
from phase2hpc.utils.error_text import first_line
from phase2hpc.utils.os_errors import path_error
from phase2hpc.utils.time_format import format_duration, format_time

if TYPE_CHECKING:
    from phase2hpc.analysis.error_analysis import Calibration, MeanError

log = logging.getLogger(__name__)

TEMPLATE = Path(__file__).with_name("report.html.jinja")
# As many as there are colours.
MAX_RUNS = 6
WORST = 8
# Fewer crystals with an element say little about it.
MIN_PER_ELEMENT = 5
# Error relative to the mean over all test crystals at which an element's colour is full.
FULL_COLOR = 3.0


def write_report_of(folder: RunDirectory) -> None:
    """Write report.html of a run or ensemble that has just ended; a failure is one warning."""
    try:
        write_atomically(folder.report, report_html([results_of_folder(folder)]))
    # Whatever it is: the run has its results, and is finished.
    except Exception as error:
        log.warning("%s: not written (%s)", folder.report, first_line(error))


def write_report(models_dir: Path, names: Sequence[str], output: Path | None) -> Path:
    """Write the report of runs and ensembles, and return its path.

    output: None for report.html in the run directory, of several runs in the working directory.
    Raises InputError for an unknown or unfinished run, and where the file cannot be written.
    """
    results = find_results(models_dir, names)
    single = output is None and len(results) == 1
    path = results[0].folder.report if single else output or Path(RunDirectory(Path()).report)
    page = report_html(results)
    try:
        write_atomically(path, page)
    except OSError as error:
        raise path_error(error, f"{path}: cannot be written; choose a file by --output") from None
    return path


def report_html(results: Sequence[RunResults]) -> str:
    """The page. Raises InputError for more runs than it can show."""
    from jinja2 import Environment, StrictUndefined

    from phase2hpc.analysis import plots
    from phase2hpc.inference.coverage import DEFAULT_COVERAGE

    if len(results) > MAX_RUNS:
        raise InputError(f"a report shows {MAX_RUNS} runs at most, these are {len(results)}")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                              lstrip_blocks=True)  # fmt: skip
    environment.filters["number"] = tables.number
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    properties = in_order(dict.fromkeys(name for one in results for name in one.properties))
    return template.render(
        title=" · ".join(one.id for one in results),
        runs=[_Run(one, color) for one, color in zip(results, plots.SERIES, strict=False)],
        different_tests=check_same_tests(results),
        facts=_facts(results),
        curves=_curves(results),
        properties=[_property(name, results) for name in properties],
        worst_count=WORST,
        min_per_element=MIN_PER_ELEMENT,
        nominal=DEFAULT_COVERAGE,
    )


@dataclass(frozen=True)
class _Run:
    results: RunResults
    color: str

    @property
    def name(self) -> str:
        return self.results.id

    @property
    def kind(self) -> str:
        config, members = self.results.config, len(self.results.members)
        kind = f"{config.algorithm} {config.level}"
        return f"{kind}, ensemble of {members}" if self.results.is_ensemble else kind


def _property(name: str, results: Sequence[RunResults]) -> dict[str, Any]:
    """All that the page shows of one property."""
    import numpy as np

    from phase2hpc.analysis import error_analysis, plots

    unit = next(one.unit(name) for one in results if name in one.properties)
    shown = f"{name} ({unit})" if unit else name
    found: dict[str, Any] = {"name": name, "unit": unit, "shown": shown, "runs": []}
    tests: list[tuple[dict[str, Any], Any, Any, str]] = []
    sizes: list[tuple[dict[str, MeanError], str]] = []
    calibrations: list[tuple[Calibration, str]] = []
    for one, color in zip(results, plots.SERIES, strict=False):
        if name not in one.properties:
            continue
        metrics = {
            split: {
                key: one.metric(name, key, split)
                for key in ("mae", "mae_se", "rmse", "r2", "n", "mad", "constant_mae")
            }
            for split in ("val", "test")
        }
        table = one.test if one.test is not None and name in one.test.properties else None
        entry: dict[str, Any] = {"name": one.id, "color": color, **metrics, "has": False,
                                 "interval": None}  # fmt: skip
        found["runs"].append(entry)
        if table is None or not (labelled := np.isfinite(table.error(name))).any():
            continue
        entry["has"] = True
        tests.append((entry, table.target[name][labelled], table.prediction[name][labelled], color))
        entry["elements"] = _element_cells(error_analysis.by_element(table, name), metrics["test"])
        entry["worst"] = error_analysis.worst(table, name, WORST)
        if size := error_analysis.by_size(table, name):
            sizes.append((size, color))
        entry["interval"] = error_analysis.interval_coverage(table, name)
        if calibration := error_analysis.calibration(table, name):
            calibrations.append((calibration, color))
            entry["calibration"] = calibration
    if tests:
        scales = {one.config.column(name).scale for one in results if name in one.properties}
        # Where it is learned on such a scale, most crystals would be in a corner of linear axes.
        sizes_of_labels = np.abs(tests[0][1][tests[0][1] != 0])
        curved = scales & {"asinh", "log"} and len(sizes_of_labels)
        width = float(np.median(sizes_of_labels)) if curved else None
        limits = plots.parity_limits([v for _, *pair, _ in tests for v in pair], width)
        for entry, target, prediction, color in tests:
            entry["parity"] = plots.parity(target, prediction, limits, color, width)
    label = f"MAE ({unit})" if unit else "MAE"
    found["sizes"] = plots.errors_by_group(sizes, label) if sizes else ""
    if calibrations:
        found["coverage"] = plots.coverage(calibrations)
        found["sigma"] = plots.error_against_sigma(calibrations, unit)
    return found


def _curves(results: Sequence[RunResults]) -> list[tuple[str, str]]:
    """Title and plot of each learning curve: loss, score, and val MAE by property."""
    from phase2hpc.analysis import plots

    def curves(value: Callable[[dict[str, Any]], float | None]) -> list[plots.Curve]:
        return [
            plots.Curve(
                [record["epoch"] for record in history],
                [value(record) for record in history],
                member.read_manifest().best_epoch,
                color,
            )
            for one, color in zip(results, plots.SERIES, strict=False)
            for member, history in zip(one.members, one.histories, strict=False)
        ]

    if not any(one.histories for one in results):
        return []
    losses, scores = curves(lambda r: r["train_loss"]), curves(lambda r: r["val_score"])
    found = [
        ("training loss", plots.learning_curves(losses, "loss", log=True)),
        ("val score: mean MAE / MAD", plots.learning_curves(scores, "MAE / MAD", log=False)),
    ]
    for name in in_order(dict.fromkeys(name for one in results for name in one.properties)):
        unit = next(one.unit(name) for one in results if name in one.properties)

        def mae(record: dict[str, Any], name: str = name) -> float | None:
            value = record["val_mae"].get(name)
            return None if value is None else float(value)

        label = f"MAE ({unit})" if unit else "MAE"
        found.append((f"val {name}", plots.learning_curves(curves(mae), label, log=False)))
    return found


def _element_cells(errors: dict[str, MeanError], metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Cells of the periodic table: position, symbol, and the error of its crystals."""
    from phase2hpc.data.elements import MAX_ATOMIC_NUMBER, SYMBOLS

    cells = []
    for number in range(1, MAX_ATOMIC_NUMBER + 1):
        symbol = SYMBOLS[number]
        row, column = place_in_periodic_table(number)
        found = errors.get(symbol)
        known = found is not None and found.n >= MIN_PER_ELEMENT and metrics["mae"]
        strength = min(1.0, found.mae / metrics["mae"] / FULL_COLOR) if found and known else None
        cells.append(
            {"symbol": symbol, "row": row, "column": column, "error": found, "strength": strength}
        )
    return cells


def place_in_periodic_table(number: int) -> tuple[int, int]:
    """Row (from 1, the f-block in 8 and 9) and column (1 to 18) of an element."""
    if 57 <= number <= 71:
        return 8, number - 57 + 3
    if 89 <= number <= 103:
        return 9, number - 89 + 3
    noble = (0, 2, 10, 18, 36, 54, 86, 118)
    row = next(i for i, last in enumerate(noble) if number <= last)
    place, length = number - noble[row - 1], noble[row] - noble[row - 1]
    if row == 1:
        return row, 1 if place == 1 else 18
    if place <= 2:
        return row, place
    return row, 18 - (length - place)


def _facts(results: Sequence[RunResults]) -> list[tuple[str, list[str]]]:
    """Rows of the table of settings and circumstances, one value a run."""
    columns = [_facts_of(one) for one in results]
    keys = dict.fromkeys(key for column in columns for key in column)
    return [(key, [column.get(key, tables.ABSENT) for column in columns]) for key in keys]


def _facts_of(one: RunResults) -> dict[str, str]:
    config, manifest = one.config, one.manifest
    counts = (manifest.training_crystals, manifest.val_crystals, manifest.test_crystals)
    changed = [f"{o.name} = {o.value} (level: {o.default})" for o in overrides(config)]
    seeds = ", ".join(str(run.read_config().seed) for run in one.members)
    facts = {
        "model": f"{config.algorithm} {config.level}, preset {preset_of(config)}",
        "auxiliary properties": ", ".join(config.auxiliary),
        "settings of columns": columns_text(config.columns),
        "settings that differ from the level": "\n".join(changed) or "none",
        "seed": seeds,
        "initial weights": config.init_from or "",
        "epochs": f"{manifest.epoch} of {manifest.epochs}, best {manifest.best_epoch or '-'}",
        "parameters": f"{manifest.parameters:,}" if manifest.parameters else "",
        "crystals train / val / test": " / ".join(f"{c:,}" if c else "?" for c in counts),
        "fold": str(config.fold or ""),
        "store": Path(manifest.store).name if manifest.store else "",
        "store content hash": (manifest.store_hash or "")[:16],
        "time of training": "" if one.seconds is None else format_duration(one.seconds),
        "crystals/s": f"{one.crystals_per_second:,.0f}" if one.crystals_per_second else "",
        "device": f"{manifest.device or '?'}, processes: {manifest.processes}",
        "created": format_time(manifest.created),
        "versions": ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
        "git commit": manifest.git_commit or "",
        "image": str(manifest.image or ""),
    }
    return {key: value for key, value in facts.items() if value}
