"""Prediction into a table that goes on where it was interrupted, in one or several processes.

Finished chunks of structures go into a journal beside the table. The table appears when all are
done, so that nobody reads half of it. A chunk holds the same structures in the same batches
whichever process predicts it, so that the table is the same, byte by byte.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from phase2hpc.inference.prediction_request import PredictionRequest
from phase2hpc.inference.prediction_table import as_records, columns, counted
from phase2hpc.utils.chunk_journal import ChunkJournal, JournalWriter
from phase2hpc.utils.progress import Progress
from phase2hpc.utils.record_files import write_records
from phase2hpc.utils.worker_pool import Worker

log = logging.getLogger(__name__)


def predict_table(request: PredictionRequest, output: Path, workers: int = 1) -> Counter[str]:
    """Write the table of predictions, and return counts as of ``count_record``.

    workers: processes that each read, build graphs and predict; 1: this one. Rows and their order
    do not depend on it. What an interrupted call with the same inputs, models and settings
    finished is used; what one with others left is removed. Both are said.
    """
    with ChunkJournal(output, request.made_from()) as journal:
        done = sum(len(content[1]) for _, content in journal.chunks())
        if journal.replaced:
            log.warning(
                "%s: what an interrupted prediction left is of other inputs, models or settings: "
                "it starts anew",
                output,
            )
        if done:
            log.warning("%s: going on after %d structures of an interrupted call", output, done)
        parts = journal.new_parts(workers)
        tasks = [
            _Part(request, str(path), number, workers, journal.finished)
            for number, path in enumerate(parts)
        ]
        with Progress("predicting", None, "structures", done=done) as progress:
            if workers == 1:
                for count in tasks[0].counts():
                    progress.advance(count)
            else:
                _run_workers(tasks, progress)
        counts: Counter[str] = Counter()
        in_journal = (content[0] for _, content in journal.chunks())
        properties = next(in_journal, None) or request.properties()
        chunks = (records for _, (_, records) in journal.chunks())
        write_records(output, counted(chunks, counts), columns(properties))
        journal.remove()
    return counts


@dataclass
class _Part:
    """The chunks of one process. Called, it predicts the next one and returns the number of its
    structures, None after the last."""

    request: PredictionRequest
    path: str
    worker: int
    workers: int
    finished: frozenset[int]
    _counts: Iterator[int] | None = field(default=None, init=False)

    def __call__(self, _: None) -> int | None:
        if self._counts is None:
            if self.worker:
                # All of them read the same sources, and would say the same.
                logging.disable(logging.WARNING)
            self._counts = self.counts()
        return next(self._counts, None)

    def counts(self) -> Iterator[int]:
        """Number of structures of each chunk once it is in the journal."""
        predictor = self.request.load()
        chunks = predictor.predict_chunks(
            self.request.inputs,
            id_prop=self.request.id_prop,
            shard=self.worker,
            shards=self.workers,
            finished=self.finished,
            quiet=True,
        )
        writer = JournalWriter(Path(self.path))
        try:
            for number, rows in chunks:
                records = list(as_records(rows, predictor.properties))
                writer.append(number, [list(predictor.properties), records])
                yield len(rows)
        finally:
            writer.close()


def _run_workers(tasks: list[_Part], progress: Progress) -> None:
    running: list[Worker] = []
    try:
        for task in tasks:
            running.append(Worker(task, torch=True))
            running[-1].send(None)
        waiting = list(running)
        while waiting:
            for worker in Worker.ready(waiting):
                count = worker.receive()
                if count is None:
                    waiting.remove(worker)
                else:
                    progress.advance(count)
                    worker.send(None)
    finally:
        for worker in running:
            worker.close()
