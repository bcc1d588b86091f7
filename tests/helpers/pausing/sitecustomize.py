"""Read by every python whose PYTHONPATH has this folder: one call of a function waits for a signal.

``PAUSE_AT``: ``module:attribute.path#N``, the N-th call in a process. ``PAUSED``: a file that
appears at that call, which then waits for a signal that the process handles.
"""

import importlib.abc
import importlib.util
import itertools
import operator
import os
import select
import signal
import sys
from pathlib import Path

MODULE, _, _rest = os.environ["PAUSE_AT"].partition(":")
ATTRIBUTE, _, NUMBER = _rest.partition("#")


def pause() -> None:
    arrived, arrives = os.pipe()
    os.set_blocking(arrives, False)
    signal.set_wakeup_fd(arrives)
    Path(os.environ["PAUSED"]).touch()
    select.select([arrived], [], [])
    signal.set_wakeup_fd(-1)


def patch(module) -> None:
    parent, _, name = ATTRIBUTE.rpartition(".")
    owner = operator.attrgetter(parent)(module) if parent else module
    original, calls = getattr(owner, name), itertools.count(1)

    def paused(*arguments, **options):
        if next(calls) == int(NUMBER):
            pause()
        return original(*arguments, **options)

    setattr(owner, name, paused)


class AfterImport(importlib.abc.MetaPathFinder):
    """Patches the function as soon as its module is there."""

    def find_spec(self, name, path, target=None):
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            patch(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, AfterImport())
