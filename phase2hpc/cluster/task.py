"""Alias of ``cluster.node.train_task`` for jobs queued by version 0.1, whose pickles name it.

Remove it and ``shard_task`` when no such job can be left in a queue.
"""

from phase2hpc.cluster.node.train_task import run_preparation as prepare
from phase2hpc.cluster.node.train_task import run_training as train

__all__ = ["prepare", "train"]
