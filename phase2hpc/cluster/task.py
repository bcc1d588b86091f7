"""Jobs that were queued by a version before 0.2: their pickles name this module.

Delete it, and ``shard_task``, when no such job can be left in a queue.
"""

from phase2hpc.cluster.node.train_task import prepare, train

__all__ = ["prepare", "train"]
