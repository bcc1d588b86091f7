"""On what mount a folder lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from phase2hpc.utils.mounts import Mount, file_system, mount_of, nearest_folder

# A container whose root is a folder of the disk that the mounted folder lies on too.
MOUNTS = """\
/dev/vda / ext4 rw,relatime 0 0
tmpfs /dev tmpfs rw,nosuid 0 0
shm /dev/shm tmpfs rw 0 0
server:/home /home/my\\040data nfs4 rw 0 0
/dev/vda /work ext4 rw,relatime 0 0
/dev/vdb /work xfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "point", "kind"),
    [
        ("/opt/models", "/", "ext4"),
        ("/dev/shm/x", "/dev/shm", "tmpfs"),
        ("/home/my data/models", "/home/my data", "nfs4"),
        ("/home/my", "/", "ext4"),
        ("/work/models", "/work", "xfs"),
        ("/workshop", "/", "ext4"),
        ("/", "/", "ext4"),
    ],
)
def test_the_mount_of_a_folder(folder: str, point: str, kind: str, tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert mount_of(Path(folder), mounts) == Mount(Path(point), kind)


def test_where_nobody_tells(tmp_path: Path) -> None:
    assert mount_of(Path("/work"), tmp_path / "gone") is None


@pytest.mark.skipif(not Path("/proc/self/mounts").exists(), reason="no Linux")
def test_this_machine() -> None:
    assert file_system(Path("/proc")) == "proc"


def test_the_nearest_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in ("a/b", "file/c", ""):
        assert nearest_folder(tmp_path / path) == tmp_path.resolve()
