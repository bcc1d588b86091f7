"""Write the frozen files of the current schema version, from the repository's root:

    PYTHONPATH=tests/helpers python tests/checkpointing/frozen/make.py

once a version, before the first release that writes it; existing files are never replaced.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import torch
from tiny import prepare_tiny

from phase2hpc.checkpointing.schema import SCHEMA_VERSION
from phase2hpc.training.request import TrainRequest
from phase2hpc.training.runner import train

HERE = Path(__file__).parent
STEP = 4  # of 9: in the middle of the second epoch
SETTINGS = {
    "hidden": 8, "layers": 1, "out_features": 4, "head_hidden": 4, "dropout": 0.1,
    "head_dropout": 0.1, "max_samples": 24, "batch_size": 8, "epochs": 3, "lr": 1e-2,
    "checkpoint_steps": 1, "keep_checkpoints": 20,
}  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tiny = prepare_tiny(Path(folder))
        models = Path(folder) / "models"
        run = train(
            TrainRequest(
                "cgcnn", "lite", models, store=tiny.store, properties="core4", overrides=SETTINGS
            )
        )
        for source, kind in (
            (run.best, "best_v{}.pt"),
            (run.checkpoint_of(STEP), "checkpoint_v{}.pt"),
            (run.history, "history_v{}.json"),
            (run.predictions_test, "predictions_v{}.csv"),
        ):
            target = HERE / kind.format(SCHEMA_VERSION)
            if target.exists():
                sys.exit(f"{target} is frozen already")
            shutil.copyfile(source, target)


if __name__ == "__main__":
    main()
