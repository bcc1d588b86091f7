"""Batch scripts in the form in which they are recorded."""

from pathlib import Path

from phase2hpc.utils.dependencies import modules


def recorded_form(script: str, folder: Path) -> str:
    """Without the folder of the test, and without the list of required packages, which changes
    with every new dependency."""
    for extra in ("train", "data"):
        script = script.replace(" ".join(["phase2hpc", *modules(extra)]), f"PACKAGES OF {extra}")
    return script.replace(str(folder), "/shared")
