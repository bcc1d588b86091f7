"""What a journal of finished chunks keeps, and when it starts anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from phase2hpc.errors import InputError
from phase2hpc.utils.chunk_journal import ChunkJournal, JournalWriter


def write(journal: ChunkJournal, numbers: list[int]) -> Path:
    (path,) = journal.new_parts(1)
    writer = JournalWriter(path)
    for number in numbers:
        writer.append(number, f"chunk {number}")
    writer.close()
    return path


def test_chunks_of_several_processes_and_calls_are_in_order(tmp_path: Path) -> None:
    with ChunkJournal(tmp_path / "out.csv", {"a": 1}) as journal:
        assert journal.finished == frozenset()
        for path, numbers in zip(journal.new_parts(2), ([0, 2, 4], [1]), strict=True):
            writer = JournalWriter(path)
            for number in numbers:
                writer.append(number, f"chunk {number}")
            writer.close()
    with ChunkJournal(tmp_path / "out.csv", {"a": 1}) as again:
        assert again.finished == {0, 1, 2, 4} and not again.replaced
        write(again, [3, 5])
        assert list(again.chunks()) == [(n, f"chunk {n}") for n in range(6)]
        again.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_line_that_is_cut_does_not_count(tmp_path: Path, cut: int) -> None:
    with ChunkJournal(tmp_path / "out.csv", {}) as journal:
        path = write(journal, [0, 1, 2])
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    with ChunkJournal(tmp_path / "out.csv", {}) as again:
        assert again.finished == {0, 1}
        write(again, [2])
        assert [number for number, _ in again.chunks()] == [0, 1, 2]


def test_chunks_made_from_something_else_are_removed(tmp_path: Path) -> None:
    with ChunkJournal(tmp_path / "out.csv", {"model": 1}) as journal:
        write(journal, [0])
    with ChunkJournal(tmp_path / "out.csv", {"model": 2}) as other:
        assert other.replaced and other.finished == frozenset()


def test_nothing_is_left_where_no_chunk_was_finished(tmp_path: Path) -> None:
    with ChunkJournal(tmp_path / "out.csv", {}):
        pass
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_write_one_table(tmp_path: Path) -> None:
    with ChunkJournal(tmp_path / "out.csv", {}) as journal:
        write(journal, [0])
        with pytest.raises(InputError, match="another process is writing it"):
            ChunkJournal(tmp_path / "out.csv", {})
    with ChunkJournal(tmp_path / "out.csv", {}) as again:
        assert again.finished == {0}
