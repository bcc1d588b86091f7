"""Partition of the records of all sources among several reader processes."""

from __future__ import annotations

from collections.abc import Container


class RecordPartition:
    """Round-robin assignment of records to ``shards`` readers, in blocks of ``block`` records.

    A record is a line, JSON record, row or frame of a source, or a file of a folder. The number of
    records need not be known. Every reader steps over all records of all sources, so that each of
    them sees the errors of a source and counts the same.

    finished: block numbers that nobody reads. count: records passed so far. current: block number
    of the last record.
    """

    def __init__(
        self,
        shard: int = 0,
        shards: int = 1,
        block: int = 1,
        finished: Container[int] = frozenset(),
    ) -> None:
        self.count = 0
        self.current = 0
        self._shard, self._shards, self._block = shard, shards, block
        self._finished = finished

    def take(self) -> bool:
        """Step to the next record; True if it is this reader's."""
        self.current = self.count // self._block
        self.count += 1
        mine = self.current % self._shards == self._shard
        return mine and self.current not in self._finished
