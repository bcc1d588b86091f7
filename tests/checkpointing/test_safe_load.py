"""Files with valid checksums and hostile content: nothing but tensors and plain values is read."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import SEALS, state_of, torch_saved

from phase2hpc.checkpointing.manager import load_best, load_newest, save_checkpoint
from phase2hpc.checkpointing.safe_load import check_archive
from phase2hpc.errors import InputError
from phase2hpc.runs.run_directory import RunDirectory


class Code:
    def __init__(self, function: Any = os.mkdir, *arguments: Any) -> None:
        self.call = function, arguments or ("executed",)

    def __reduce__(self) -> Any:
        return self.call


def archive_with(pickled: bytes, compression: int = zipfile.ZIP_STORED, **records: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in {"version": b"3\n", **records}.items():
            archive.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def tensor_pickle(numel: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A state whose tensor claims another size than its record of 8 bytes."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + b"0"
    storage += b"X\x03\0\0\0cpu" + pickle.dumps(numel, 2)[2:-1] + b"tQ"
    shape = pickle.dumps(size, 2)[2:-1] + pickle.dumps(stride, 2)[2:-1]
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0" + shape + hooks + b"tR"
    return b"\x80\x02}X\x01\0\0\0a" + tensor + b"s."


HOSTILE: dict[str, Callable[[], bytes]] = {
    "a call in a zip": lambda: torch_saved({"a": Code()}),
    "a call nested deep": lambda: torch_saved({"a": [{"b": (1, [Code()])}]}),
    "a call in the legacy format": lambda: torch_saved(
        {"a": Code()}, _use_new_zipfile_serialization=False
    ),
    "plain values in the legacy format": lambda: torch_saved(
        {"a": 1}, _use_new_zipfile_serialization=False
    ),
    "a bare pickle": lambda: pickle.dumps({"a": Code()}),
    "a tar": lambda: tar_with(pickle.dumps({"a": Code()})),
    "builtins.eval": lambda: torch_saved({"a": Code(eval, "__import__('os').mkdir('executed')")}),
    "a function of torch": lambda: torch_saved({"a": Code(torch.ones, (2,))}),
    "torch's own load": lambda: torch_saved({"a": Code(torch.load, "x")}),
    "a set": lambda: torch_saved({"a": {1, 2}}),
    "no dict": lambda: torch_saved([1, 2]),
    "an item set on a tensor": lambda: archive_with(
        tensor_pickle(2, (2,), (1,))[:-2] + b"K\0K\1ss.", **{"data/0": bytes(8)}
    ),
    "a storage beyond its record": lambda: archive_with(
        tensor_pickle(2**30, (2,), (1,)), **{"data/0": bytes(8)}
    ),
    "a storage without a record": lambda: archive_with(tensor_pickle(2, (2,), (1,))),
    "a tensor beyond its storage": lambda: archive_with(
        tensor_pickle(2, (2**30,), (1,)), **{"data/0": bytes(8)}
    ),
    "a negative stride": lambda: archive_with(
        tensor_pickle(2, (2,), (-1,)), **{"data/0": bytes(8)}
    ),
    "a memo of many gigabytes": lambda: archive_with(b"\x80\x02}r\xff\xff\xff\xff."),
    "a packed record": lambda: archive_with(pickle.dumps({}, 2), zipfile.ZIP_DEFLATED),
    "a foreign record": lambda: archive_with(pickle.dumps({}, 2), **{"code/__init__.py": b"1"}),
    "an archive behind another": lambda: torch_saved({"a": 1}) + torch_saved({"a": 2}),
    "an archive before a comment": lambda: with_comment(torch_saved({"a": 1})),
    "an empty pickle": lambda: archive_with(b""),
    "no pickle": lambda: archive_with(b"\x80\x02garbage"),
}  # fmt: skip


def with_comment(archive: bytes) -> bytes:
    comment = torch_saved({"a": 2})
    return archive[:-2] + struct.pack("<H", len(comment)) + comment


def tar_with(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_the_screen_passes_what_is_whole() -> None:
    """The hostile archives above differ from these by what they are hostile in."""
    check_archive(archive_with(tensor_pickle(2, (2,), (1,)), **{"data/0": bytes(8)}))
    check_archive(
        archive_with(pickle.dumps({"a": [1, 2.5, None, True, (1, 2, 3, 4), "x", -(2**70)]}, 2))
    )
    check_archive(
        torch_saved({"a": [torch.zeros(0), torch.zeros(2, 3).T, torch.ones(2, dtype=bool)]})
    )


@pytest.mark.parametrize("file_format", SEALS)
@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_but_tensors_and_plain_values_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, file_format: str
) -> None:
    """Such a file is refused, or set aside for the checkpoint before it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    run = RunDirectory(tmp_path)
    save_checkpoint(run, state_of(1), 1, keep=2)
    save_checkpoint(run, state_of(2), 2, keep=2)
    content = SEALS[file_format](HOSTILE[kind](), step=9)
    run.best.write_bytes(content)
    with pytest.raises(InputError, match="best.pt: damaged, or not written by phase2hpc") as caught:
        load_best(run.best)
    assert "\n" not in str(caught.value)
    run.checkpoint.write_bytes(content)
    found = load_newest(run)
    assert found is not None and found[1] == 1
    assert (run.path / "checkpoint.pt.damaged").read_bytes() == content
    assert not Path("executed").exists()


@pytest.mark.parametrize("file_format", SEALS)
def test_a_plain_state_in_the_same_files_is_read(tmp_path: Path, file_format: str) -> None:
    """The hostile files are refused for their content, not for how they are made."""
    run = RunDirectory(tmp_path)
    state = {"kind": "checkpoint", "schema_version": 3, **state_of(9)}
    run.checkpoint.write_bytes(SEALS[file_format](torch_saved(state), step=9))
    found = load_newest(run)
    assert found is not None and found[1:] == (9, run.checkpoint)
