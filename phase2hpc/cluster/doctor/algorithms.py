"""Check of the installed algorithms."""

from __future__ import annotations

from phase2hpc.cluster.doctor.check import Check, ok, warn
from phase2hpc.config.algorithm_registry import algorithms


def algorithm_checks() -> list[Check]:
    """The algorithms that can be used, and one warning for each plug-in that cannot."""
    found, problems = algorithms()
    names = [
        name if algorithm.provider == "phase2hpc" else f"{name} ({algorithm.provider})"
        for name, algorithm in found.items()
    ]
    advice = "the other algorithms are not affected"
    return [
        ok("algorithms", ", ".join(names)),
        *(warn("algorithms", problem, advice) for problem in problems),
    ]
