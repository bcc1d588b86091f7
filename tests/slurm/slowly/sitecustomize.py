"""Read by every python of a job whose PYTHONPATH has this folder: training slow enough to be
interrupted, however fast the machine.

``STEP_SECONDS``: so long takes a step of a job's first life at least; later lives are not slowed.
``STUCK``: in no life does a step ever end.
``STEPS_IN``: a folder in which each process of each life lists the steps that it took, in
``LIFE-RANK``.
"""

import importlib.abc
import importlib.util
import os
import sys
import time


def slow_down(trainer):
    original = trainer.optimise
    life = os.environ.get("SLURM_RESTART_COUNT", "0")
    seconds = float(os.environ.get("STEP_SECONDS", 0)) if life == "0" else 0.0
    folder = os.environ.get("STEPS_IN")

    def optimise(*arguments, **options):
        while "STUCK" in os.environ:
            time.sleep(1)
        time.sleep(seconds)
        good = original(*arguments, **options)
        if folder:
            with open(f"{folder}/{life}-{os.environ['SLURM_PROCID']}", "a") as file:
                print(arguments[0].step, file=file)
        return good

    trainer.optimise = optimise


class AfterImport(importlib.abc.MetaPathFinder):
    """Slows the trainer's class down as soon as its module is there."""

    def find_spec(self, name, path, target=None):
        if name != "phase2hpc.training.trainer":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            slow_down(module.Trainer)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, AfterImport())
