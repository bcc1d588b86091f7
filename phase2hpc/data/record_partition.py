"""Which part of the sources a reader takes, when several processes share them."""

from __future__ import annotations


class RecordPartition:
    """Counts the units of all sources, one after another, and says which are this reader's.

    A unit is what a source is stepped over by: a line, a record, a row, a frame; in a folder a
    file. ``block`` units in a row go to one of ``shards`` readers, the next to the next reader,
    and so on in turn: nobody has to know beforehand how many there are. Every reader steps past
    all units, so that errors in a source are met, and its count is the same, in each of them.

    count: units passed so far. current: number of the block that the item read last is of.
    """

    def __init__(self, shard: int = 0, shards: int = 1, block: int = 1) -> None:
        self.count = 0
        self.current = 0
        self._shard, self._shards, self._block = shard, shards, block

    def take(self) -> bool:
        """Step to the next unit: whether it is one of this reader's."""
        self.current = self.count // self._block
        self.count += 1
        return self.current % self._shards == self._shard
