"""Only regular files are opened, and none is waited for."""

import os
import socket
import tempfile
from pathlib import Path

import pytest

from phase2hpc.utils import regular_file
from phase2hpc.utils.regular_file import NotRegularFile, open_regular


def make_socket(path):
    # A socket's name is limited to about 100 characters.
    with socket.socket(socket.AF_UNIX) as server, tempfile.TemporaryDirectory(dir="/tmp") as folder:
        short = Path(folder) / "s"
        server.bind(str(short))
        os.rename(short, path)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (os.mkdir, "folder"),
        (os.mkfifo, "named pipe"),
        (make_socket, "socket"),
        (lambda path: path.symlink_to("/dev/zero"), "device"),
        (lambda path: path.symlink_to(path.parent), "folder"),
    ],
)
def test_what_is_not_a_file_is_refused(tmp_path, make, kind):
    make(tmp_path / "x")
    with pytest.raises(NotRegularFile, match=f"not a file: it is a {kind}") as caught:
        open_regular(tmp_path / "x")
    assert caught.value.filename == str(tmp_path / "x")
    assert caught.value.reason == f"not a file: it is a {kind}"


def test_a_file_and_a_link_to_one(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"content"
    with pytest.raises(NotRegularFile, match="symbolic link"):
        open_regular(tmp_path / "link", follow_symlinks=False)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")


@pytest.mark.parametrize("follow", [True, False])
def test_a_file_that_becomes_a_pipe_after_the_first_look(tmp_path, monkeypatch, follow):
    path = tmp_path / "x"
    path.touch()

    def stat_then_replace(name, *, follow_symlinks):
        found = os.lstat(name)
        path.unlink()
        os.mkfifo(path)
        return found

    monkeypatch.setattr(regular_file.os, "stat", stat_then_replace)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(NotRegularFile, match="named pipe"):
        open_regular(path, follow_symlinks=follow)
    assert os.listdir("/proc/self/fd") == before
