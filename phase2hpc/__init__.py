"""Multi-task learning of crystal properties as batch jobs on HPC clusters.

Names of the public API are imported when they are first used, so that ``import phase2hpc`` is
quick and works where torch and numpy are not installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Module of each public name; TYPE_CHECKING below says the same to type checkers and editors.
_MODULES = {
    "Algorithm": "phase2hpc.config.algorithms",
    "Encoder": "phase2hpc.models.encoder",
    "GraphSettings": "phase2hpc.data.graph",
    "InputError": "phase2hpc.errors",
    "Level": "phase2hpc.config.algorithms",
    "ModelSettings": "phase2hpc.config.algorithms",
    "Phase2Error": "phase2hpc.errors",
    "Predictor": "phase2hpc.inference.predictor",
    "PrepareSummary": "phase2hpc.data.prepare",
    "Resources": "phase2hpc.config.algorithms",
    "RunDirectory": "phase2hpc.runs.run_directory",
    "StoppedEarly": "phase2hpc.errors",
    "Store": "phase2hpc.data.store.reader",
    "StoreDataset": "phase2hpc.data.dataset",
    "calibrate": "phase2hpc.api",
    "load_model": "phase2hpc.api",
    "open_store": "phase2hpc.api",
    "prepare": "phase2hpc.api",
    "train": "phase2hpc.api",
}

__all__ = [
    "Algorithm",
    "Encoder",
    "GraphSettings",
    "InputError",
    "Level",
    "ModelSettings",
    "Phase2Error",
    "Predictor",
    "PrepareSummary",
    "Resources",
    "RunDirectory",
    "StoppedEarly",
    "Store",
    "StoreDataset",
    "__version__",
    "calibrate",
    "load_model",
    "open_store",
    "prepare",
    "train",
]

if TYPE_CHECKING:
    from phase2hpc.api import calibrate, load_model, open_store, prepare, train
    from phase2hpc.config.algorithms import Algorithm, Level, ModelSettings, Resources
    from phase2hpc.data.dataset import StoreDataset
    from phase2hpc.data.graph import GraphSettings
    from phase2hpc.data.prepare import PrepareSummary
    from phase2hpc.data.store.reader import Store
    from phase2hpc.errors import InputError, Phase2Error, StoppedEarly
    from phase2hpc.inference.predictor import Predictor
    from phase2hpc.models.encoder import Encoder
    from phase2hpc.runs.run_directory import RunDirectory
else:

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from phase2hpc.utils.dependencies import missing_extra_errors

        with missing_extra_errors(f"{__name__}.{name}"):
            value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
