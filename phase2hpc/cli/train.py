"""``train``."""

from __future__ import annotations

from phase2hpc.cli.options import RunOptions, SettingOptions, train_request


def train(run: RunOptions, settings: SettingOptions) -> None:
    """Train a model, or continue an interrupted run.

    Example: phase2hpc train --algorithm e3nn --level lite --store data/mine.h5
    """
    request = train_request(run, settings)
    # This takes seconds, so it comes after what can be wrong in the request.
    from phase2hpc.training.runner import train as run_train

    run_train(request)
