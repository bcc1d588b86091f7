"""Functions of the public Python API, exported by ``import phase2hpc``.

Arguments have the names and defaults of the command line. torch and numpy are imported when a
function is called.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phase2hpc.errors import InputError
from phase2hpc.inference.coverage import DEFAULT_COVERAGE
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils.dependencies import missing_extra_errors
from phase2hpc.utils.terminal import accept_any_text

if TYPE_CHECKING:
    from phase2hpc.data.prepare import PrepareSummary
    from phase2hpc.data.store.reader import Store
    from phase2hpc.inference.predictor import Predictor

PathLike = str | os.PathLike[str]
Run = PathLike | RunDirectory


@missing_extra_errors("phase2hpc.load_model")
def load_model(
    run: Run | Sequence[Run] | None = None,
    *,
    models_dir: PathLike = "models",
    device: str = "auto",
    threads: int | None = None,
    max_atoms: int | None = None,
    interval: float = DEFAULT_COVERAGE,
) -> Predictor:
    """Load a trained model, or several as an ensemble, for prediction.

    Args:
        run: a run id, a run directory, a folder made by ``export``, the path of a best.pt, the
            name of a shipped model ("e3nn-std"), or "best" (best validation score); the id or
            folder of an ensemble, or a sequence of these, predict together. None: the newest
            finished run at level std, pro or max, else the shipped model.
        models_dir: folder of all runs, in which ids are looked up.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads of torch in this process; None leaves them as they are. The command
            line uses 1.
        max_atoms: structures with more atoms in the cell are rejected. None: 1000.
        interval: share of crystals whose true value lies between ``<property>_low`` and
            ``<property>_high``, as far as they are like the validation crystals.

    Returns:
        The model, with ``predict``, ``features``, ``properties`` and ``units``.

    Raises:
        InputError: there is no such run, its weights are missing or damaged, or the members of an
            ensemble differ in properties or graph settings.
    """
    from phase2hpc.inference.predictor import load_predictor
    from phase2hpc.runs.model_selection import runs_to_predict_with

    runs = runs_to_predict_with(Path(models_dir), _names(run))
    return load_predictor(runs, device, threads, max_atoms, interval)


def _names(run: Run | Sequence[Run] | None) -> list[str] | None:
    if run is None:
        return None
    several = [run] if isinstance(run, (str, os.PathLike, RunDirectory)) else list(run)
    return [str(one.path) if isinstance(one, RunDirectory) else os.fspath(one) for one in several]


@missing_extra_errors("phase2hpc.calibrate")
def calibrate(
    run: Run,
    store: PathLike | None = None,
    *,
    models_dir: PathLike = "models",
    device: str = "auto",
    threads: int | None = None,
) -> Path:
    """Measure a finished model's errors in validation and its distance to training crystals.

    Training does this at its end. A model of an older version needs it once for sigma, intervals
    and the whole of ``in_domain``.

    Args:
        run: as of ``load_model``, one run.
        store: the store it was trained on. None: as recorded by the run.
        models_dir: folder of all runs, in which ids are looked up.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads of torch in this process; None leaves them as they are.

    Returns:
        The file that was written beside the model's weights, ``calibration.safetensors``.

    Raises:
        InputError: there is no such run or store, or the store has other graphs.
    """
    from phase2hpc.inference.calibrate import calibrate as calibrate_run
    from phase2hpc.runs.registry import find_run

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    found = run if isinstance(run, RunDirectory) else find_run(Path(models_dir), os.fspath(run))
    calibrate_run(found, None if store is None else Path(store), device=device)
    return found.calibration


@missing_extra_errors("phase2hpc.open_store")
def open_store(path: PathLike | None = None) -> Store:
    """Open a graph store for reading; its content is verified unless it was before.

    Args:
        path: the store (.h5). None: the store of the shipped sample.

    Raises:
        InputError: the file does not exist, is damaged, or is not a store.
    """
    from phase2hpc.data.store.reader import Store
    from phase2hpc.data.store.verify import verify_once
    from phase2hpc.utils.package_files import default_store

    target = default_store() if path is None else Path(path)
    verify_once(target)
    return Store.open(target)


@missing_extra_errors("phase2hpc.prepare")
def prepare(
    sources: PathLike | Sequence[PathLike] | None = None,
    store: PathLike | None = None,
    *,
    cutoff: float | None = None,
    max_neighbors: int | None = None,
    split: PathLike | None = None,
    seed: int = 0,
    folds: int | None = None,
    labels: PathLike | None = None,
    columns: Sequence[str] | None = None,
    rename: Sequence[str] | None = None,
    workers: int | None = None,
    float64: bool = False,
    max_atoms: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> PrepareSummary:
    """Read crystals, validate them, build their graphs and write one graph store (HDF5).

    Args:
        sources: files and folders to read, or "jarvis:dft_3d". None: the shipped sample.
        store: the file to write. None: ``data/<name of the first source>.h5``.
        cutoff: longest edge, angstrom. None: 6.
        max_neighbors: neighbours of an atom up to which edges are kept, 0 for no limit. None: 12.
        split: "formula", "random" (each also with shares, "formula:70/15/15"), "column", or the
            path of a CSV of id and split. None: the column of the source if it has one, else by
            formula.
        seed: of a random split.
        folds: number of cross-validation folds by formula (3 to 100), for ``train(fold=...)``.
        labels: table of labels of the folder among the sources. None: its id_prop.csv.
        columns: settings of label columns, as "gap:unit=eV,min=0,scale=asinh".
        rename: new names of label columns, as "old=new" or "source file:old=new".
        workers: processes. None: the cores, up to 8.
        float64: keep coordinates in double precision.
        max_atoms: crystals with more atoms in the cell are rejected. None: 1000.
        overwrite: replace an existing store that was made otherwise.
        progress: called with the number of crystals done since the last call.

    Returns:
        Counts by split and label, and the path of the store and of the report of rejected
        crystals. An existing store made from the same sources and settings is left as it is.

    Raises:
        InputError: a source cannot be read, a setting is not valid, another store is there, or no
            crystal or split is left.
    """
    from phase2hpc.config.properties import parse_columns, parse_renames
    from phase2hpc.data.graph import GraphError, GraphSettings
    from phase2hpc.data.prepare import prepare_store
    from phase2hpc.data.validation import DEFAULT_LIMITS
    from phase2hpc.utils.package_files import sample_source

    several = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources or ())
    try:
        settings = GraphSettings(**graph_settings_given(cutoff, max_neighbors))
    except GraphError as error:
        raise InputError(str(error)) from None
    return prepare_store(
        [os.fspath(source) for source in several] or [sample_source()],
        store_of(several, store),
        settings,
        split=None if split is None else os.fspath(split),
        seed=seed,
        float64=float64,
        max_atoms=DEFAULT_LIMITS.max_atoms if max_atoms is None else max_atoms,
        labels=labels,
        rename=parse_renames(rename or ()),
        columns=parse_columns(columns or ()),
        folds=folds,
        workers=workers,
        overwrite=overwrite,
        progress=progress,
    )


def graph_settings_given(cutoff: float | None, max_neighbors: int | None) -> dict[str, Any]:
    """Graph settings that differ from their defaults, by name; ``max_neighbors`` 0: no limit."""
    given: dict[str, Any] = {}
    if cutoff is not None:
        given["cutoff"] = cutoff
    if max_neighbors is not None:
        given["max_neighbors"] = max_neighbors or None
    return given


def store_of(sources: Sequence[PathLike], store: PathLike | None = None) -> Path:
    """The store that ``prepare`` writes: ``store``, else data/<name of the first source>.h5 in the
    working directory, else that of the shipped sample."""
    from phase2hpc.utils.package_files import default_store

    if store is not None:
        return Path(store)
    if not sources:
        return default_store()
    name = Path(os.fspath(sources[0]).replace(":", "_")).name
    return Path("data") / f"{name.split('.')[0] or name}.h5"


@missing_extra_errors("phase2hpc.train")
def train(
    store: PathLike | None = None,
    *,
    algorithm: str = "e3nn",
    level: str = "std",
    properties: str | Sequence[str] | None = None,
    all_properties: bool = False,
    auxiliary: str | Sequence[str] | None = None,
    column: Sequence[str] | None = None,
    fold: int | None = None,
    models_dir: PathLike = "models",
    resume: bool = False,
    run_id: str | None = None,
    init_from: Run | None = None,
    freeze: str | None = None,
    seed: int | None = None,
    seeds: str | Sequence[int] | None = None,
    accept_changes: bool = False,
    **settings: Any,
) -> RunDirectory:
    """Train a model, or resume an interrupted run, in this process.

    Args:
        store: graph store. None: that of the shipped sample, prepared if it is not there.
        algorithm: "e3nn", "cgcnn" or that of an installed plug-in.
        level: "smoke", "lite", "std", "pro" or "max".
        properties: a group ("core4", "priority7", "secondary2", "all9") or names. None: those of
            the group of the level that the store has; all its columns if it has none of them.
        all_properties: the same as ``properties="all9"``.
        auxiliary: label columns that are trained but neither scored nor reported.
        column: settings of label columns over those of the store, as of ``prepare``.
        fold: fold to test on (from 1), of a store prepared with folds.
        models_dir: folder of all runs.
        resume: continue the run ``run_id``, or the newest unfinished one.
        run_id: name of the run. None: a new one.
        init_from: run, shipped model ("e3nn-std") or exported model whose weights to start from.
        freeze: "encoder" keeps the weights of its encoder, "encoder:5" for 5 epochs.
        seed: of weights, order and dropout. None: 0, or with ``resume`` that of the run.
        seeds: of an ensemble, one run each ("0-4", or a sequence); named ``run_id``.
        accept_changes: resume although settings, store or code change the result.
        **settings: any setting by name (``phase2hpc levels --settings``), ``preset`` among them.

    Returns:
        The run directory, with the trained model in ``best.pt`` and its errors in
        ``metrics.json``; of an ensemble the folder of its results, which ``load_model`` takes.

    Raises:
        InputError: a setting, the store or the run is not valid.
        StoppedEarly: a signal or ``max_hours`` stopped training; the state is saved.
    """
    from phase2hpc.training.request import train_request

    request = train_request(
        algorithm=algorithm, level=level, store=store, models_dir=models_dir,
        properties=properties, all_properties=all_properties, auxiliary=auxiliary, column=column,
        fold=fold, resume=resume, run_id=run_id,
        init_from=init_from, freeze=freeze, seed=seed, seeds=seeds, accept_changes=accept_changes,
        settings=settings,
    )  # fmt: skip
    # Imported after the request is checked: this takes seconds.
    from phase2hpc.analysis.report import write_report_of
    from phase2hpc.training.runner import train as run_training

    # A script's stdout may not take the tables that training prints.
    accept_any_text()
    return run_training(request, at_end=write_report_of)
