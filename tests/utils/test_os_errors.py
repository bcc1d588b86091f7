"""A failure of the system is one line with its file and a remedy."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.utils.os_errors import path_error, with_path, write_error


def failure(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path)


def test_the_file_the_reason_and_the_remedy() -> None:
    error = write_error(failure(errno.EDQUOT, "/a/b"), then="go on", note="all is well")
    assert str(error) == (
        "/a/b: disk quota exceeded: make room, or ask for a larger quota, then go on; all is well"
    )
    assert error.exit_code == 1
    assert str(write_error(failure(errno.ENOSPC))).startswith(
        "the output cannot be written: no space"
    )
    assert "ulimit -n" in str(write_error(failure(errno.EMFILE)))
    assert "\n" not in str(write_error(OSError("two\nlines")))


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.EACCES, 2), (errno.EROFS, 2), (errno.ENOTDIR, 2), (errno.ENOSPC, 1), (errno.EIO, 1)],
)
def test_a_wrong_place_is_the_users_and_a_full_one_the_machines(number: int, code: int) -> None:
    error = path_error(failure(number), "/a/b")
    assert error.exit_code == code
    assert isinstance(error, InputError if code == 2 else Phase2Error)


def test_naming(tmp_path: Path) -> None:
    with pytest.raises(OSError) as raised, with_path(tmp_path):
        raise failure(errno.ENOSPC)
    assert raised.value.filename == str(tmp_path)


def test_in_a_container_its_user_and_its_mounts_are_what_helps(in_image) -> None:
    in_image()
    user = f"{os.getuid()}:{os.getgid()}"
    said = str(path_error(failure(errno.EACCES), "/a/b"))
    assert f"let this container's user {user} write there (docker --user" in said
    assert "name a folder that is mounted" in str(path_error(failure(errno.EROFS), "/a/b"))
    assert "make room" in str(path_error(failure(errno.ENOSPC), "/a/b"))
