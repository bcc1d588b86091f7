"""Alias of ``cluster.node.shard_task`` for jobs queued by version 0.1, whose pickles name it."""

from phase2hpc.cluster.node.shard_task import (
    join_predictions,
    merge_prepared,
    predict_shard,
    prepare_shard,
)

__all__ = ["join_predictions", "merge_prepared", "predict_shard", "prepare_shard"]
