"""Jobs of ``--shards`` that were queued by a version before 0.2: their pickles name it."""

from phase2hpc.cluster.node.shard_task import (
    join_predictions,
    merge_prepared,
    predict_shard,
    prepare_shard,
)

__all__ = ["join_predictions", "merge_prepared", "predict_shard", "prepare_shard"]
