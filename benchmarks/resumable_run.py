"""Training runs of a benchmark by name: started, resumed, or those of an earlier call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import phase2hpc
from phase2hpc.runs.run_directory import RunDirectory, family_folder

# Settings that a resumed run takes from itself.
OF_THE_START = ("init_from", "freeze")


def trained(
    store: Path,
    models_dir: Path,
    name: str,
    *,
    algorithm: str = "e3nn",
    level: str = "std",
    **options: Any,
) -> RunDirectory:
    """The finished run ``name``. Raises InputError where it was started with other options."""
    run = RunDirectory(models_dir / family_folder(algorithm, level) / f"run_{name}")
    started = run.manifest.exists()
    if started:
        options = {key: value for key, value in options.items() if key not in OF_THE_START}
    return phase2hpc.train(
        store,
        algorithm=algorithm,
        level=level,
        models_dir=models_dir,
        run_id=name,
        resume=started,
        threads=1,
        **options,
    )
