"""buildah, podman and Apptainer on this machine, with all their state in one folder.

Nothing of the machine's own images, containers or settings is touched. The Dockerfile's base image
cannot be pulled everywhere, so a stand-in is made by debootstrap and pushed to a registry of this
machine that mirrors docker.io: builds are unmodified and pull for real. What a second session may
use again (base, layers, wheels) stays in ``$PHASE2HPC_CONTAINER_TESTS``, else the user's cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from paths import ROOT

BASE = "docker.io/library/python:3.11-slim-bookworm"
COMMANDS = ("buildah", "podman", "runc", "docker-registry", "debootstrap")
FOLDER_VARIABLE = "PHASE2HPC_CONTAINER_TESTS"
# Where a folder of wheels is seen while an image is built: it exists in every base.
WHEELS = "/mnt"
CERTIFICATES = Path("usr/local/share/ca-certificates")
BUILD_SECONDS = 1500


def missing() -> str:
    """Why there can be no containers here; nothing where there can."""
    absent = [command for command in COMMANDS if shutil.which(command) is None]
    if absent:
        return f"no {', '.join(absent)} here: `make container-test` installs what it needs"
    return "" if os.geteuid() == 0 else "building and running containers here needs root"


class Engine:
    """``start()``, then commands, at the end ``stop()``."""

    def __init__(self) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.folder = Path(
            os.environ.get(FOLDER_VARIABLE) or cache / "phase2hpc-containers"
        ).resolve()
        # Of the same folder always the same, as podman wants it; and short: with a path of more
        # than 50 characters it waits 20 s at the end of each container.
        name = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:8]
        self.state = Path("/run") / f"phase2hpc-containers-{name}"
        settings = self.folder / "settings"
        self.environment = os.environ | {
            "CONTAINERS_STORAGE_CONF": str(settings / "storage.conf"),
            "CONTAINERS_CONF": str(settings / "containers.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(settings / "registries.conf"),
            "BUILDAH_ISOLATION": "chroot",
            "APPTAINER_CACHEDIR": str(self.folder / "apptainer"),
            "APPTAINER_TMPDIR": str(self.folder / "temporary"),
            "TMPDIR": str(self.folder / "temporary"),
        }
        self._registry: subprocess.Popen[bytes] | None = None

    # ---- life --------------------------------------------------------------------------------

    def start(self) -> None:
        for name in ("settings", "apptainer", "temporary", "registry"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.port = _free_port()
        self._write_settings()
        self._forget_other_dependencies()
        self._make_base()
        self._start_registry()

    def stop(self) -> None:
        self.run("podman", "rm", "--all", "--force", "--time=0", check=False)
        if self._registry is not None:
            self._registry.terminate()
            self._registry.wait(30)
        os.close(self._lock)

    def _write_settings(self) -> None:
        settings, folder = self.folder / "settings", self.folder
        (settings / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/storage"\n'
            f'runroot = "{self.state}"\n'
        )
        # runc: crun refuses machines with two generations of cgroups. The limits: raising them is
        # not every root's right.
        (settings / "containers.conf").write_text(
            '[containers]\ndefault_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]\n'
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
            f'tmp_dir = "{self.state}/libpod"\n'
        )
        (settings / "registries.conf").write_text(
            'unqualified-search-registries = ["docker.io"]\n'
            '[[registry]]\nprefix = "docker.io"\nlocation = "docker.io"\n'
            f'[[registry.mirror]]\nlocation = "127.0.0.1:{self.port}"\ninsecure = true\n'
        )
        (settings / "registry.yml").write_text(
            f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {folder}/registry\n"
            f"http:\n  addr: 127.0.0.1:{self.port}\n"
        )

    def _forget_other_dependencies(self) -> None:
        """Layers of dependencies are large, and of no use any more once the pins have changed."""
        pins = self.folder / "constraints.txt"
        now = (ROOT / "constraints.txt").read_text()
        if pins.exists() and pins.read_text() != now:
            self.run("podman", "rmi", "--all", "--force", timeout=300)
        pins.write_text(now)

    def _make_base(self) -> None:
        """The stand-in for the base image, once."""
        made = self.folder / "base.made"
        if made.exists():
            return
        root = self.folder / "base"
        if root.exists():
            shutil.rmtree(root)
        packages = "ca-certificates,python3,python3-pip,python3-venv"
        self.run(
            "debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", root,
            _mirror(), timeout=900,
        )  # fmt: skip
        # Device nodes cannot be made in the user namespace that Apptainer builds in.
        for path in (root / "dev").iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (root / "usr" / "bin" / "python").symlink_to("python3")
        for path in (root / "usr" / "lib").glob("python3*/EXTERNALLY-MANAGED"):
            path.unlink()
        for folder in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(root / folder)
        # Those of this machine, for a package index behind a proxy.
        for path in (Path("/") / CERTIFICATES).glob("*.crt"):
            shutil.copy(path, root / CERTIFICATES)
        self.run("chroot", root, "update-ca-certificates", environment={"TMPDIR": "/tmp"})
        (root / "etc" / "pip.conf").write_text(
            "[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n"
        )
        container = self.run("buildah", "from", "scratch").strip()
        self.run("buildah", "add", "-q", container, root, "/", timeout=300)
        for setting in (
            "PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin",
            "LANG=C.UTF-8",
        ):
            self.run("buildah", "config", "--env", setting, container)
        self.run("buildah", "commit", "-q", "--rm", container, "base", timeout=300)
        shutil.rmtree(root)
        made.touch()

    def _start_registry(self) -> None:
        with (self.folder / "registry.log").open("wb") as log:
            self._registry = subprocess.Popen(
                ["docker-registry", "serve", self.folder / "settings" / "registry.yml"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                assert self._registry.poll() is None and time.monotonic() < deadline, (
                    self.folder / "registry.log"
                ).read_text()
                time.sleep(0.1)
        name = BASE.partition("/")[2]
        if not (self.folder / "registry.pushed").exists():
            self.run(
                "buildah", "push", "-q", "--tls-verify=false", "base",
                f"docker://127.0.0.1:{self.port}/{name}", timeout=300,
            )  # fmt: skip
            (self.folder / "registry.pushed").touch()

    # ---- commands ----------------------------------------------------------------------------

    def run(
        self, *command: object, check: bool = True, timeout: float = 120, cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> str:  # fmt: skip
        """stdout; AssertionError, with its words, where it fails."""
        done = subprocess.run(
            [str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=timeout, cwd=cwd, env=self.environment | dict(environment or {}),
        )  # fmt: skip
        if check and done.returncode:
            said = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            raise AssertionError(f"{command}: exit code {done.returncode}:\n{said}")
        return done.stdout

    def build(self, context: Path, tag: str, **arguments: str) -> str:
        """Build the Dockerfile of a folder, for the CPU; what the build said."""
        given = {"VARIANT": "cpu", **_index_settings(), **arguments}
        words = [word for key, value in given.items() for word in ("--build-arg", f"{key}={value}")]
        wheels = os.environ.get("PIP_FIND_LINKS", "")
        if Path(wheels).is_absolute():
            words += [
                "--volume",
                f"{wheels}:{WHEELS}:ro",
                "--build-arg",
                f"PIP_FIND_LINKS={WHEELS}",
            ]
        # Health checks are of docker's format.
        return self.run(
            "buildah", "bud", "--format", "docker", "--layers", *words, "--tag", tag, context,
            timeout=BUILD_SECONDS,
        )  # fmt: skip

    def apptainer_build(self, image: Path, definition: Path, *options: object) -> str:
        """In a user namespace, where the rights are whole even if this root lacks some."""
        for file in (Path("/etc/subuid"), Path("/etc/subgid")):
            if "root:0:" not in file.read_text():
                with file.open("a") as lines:
                    lines.write("root:0:65536\n")
        return self.run(
            "unshare", "-U", "-m", "--map-users=0,0,65536", "--map-groups=0,0,65536",
            "--setuid", "0", "--setgid", "0", "apptainer", "build", "--force",
            "--mksquashfs-args", "-comp zstd -Xcompression-level 1", *options, image, definition,
            timeout=BUILD_SECONDS,
        )  # fmt: skip


def _index_settings() -> dict[str, str]:
    names = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def _mirror() -> str:
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    if sources.exists():
        for line in sources.read_text().splitlines():
            if line.startswith("URIs:"):
                return line.split()[1]
    return "http://deb.debian.org/debian"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
