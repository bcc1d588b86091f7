"""A real Slurm on this machine: one controller and six virtual nodes, all in a folder of its own.

Nothing of the machine's own Slurm, munge or MariaDB is touched: each daemon has its own ports,
sockets, key and state, and the commands find them through SLURM_CONF. That variable also marks
every process of the cluster, jobs included, so that all of them can be found and ended, those of
a test session that was killed among them. Only the nodes' names stay behind, in /etc/hosts.

| partition | nodes | |
|---|---|---|
| main (default) | n1, n2 | |
| low | n3 | preempted at once by high, requeued |
| grace | n4 | preempted by high after 30 s of grace |
| high | n3, n4 | |
| fragile | n5, n6 | for nodes that fail |
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

NODES = ("n1", "n2", "n3", "n4", "n5", "n6")
CPUS, MEMORY_MB, GPUS = 8, 16000, 2
# The least that Slurm honours; a requeued job waits as long.
CREDENTIAL_SECONDS = 5
KILL_WAIT_SECONDS = 5
GRACE_SECONDS = 30
FIRST_PORT, PORTS_A_SLOT, SLOTS = 26100, 20, 8
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY")
CGROUPS = Path("/sys/fs/cgroup")
CONFIGURATION = "slurm.conf"
NODE_VARIABLE = "VIRTUAL_NODE"
COMMANDS = ("slurmctld", "slurmd", "munged", "munge", "mungekey", "sbatch", "srun", "scontrol")
ACCOUNTING_COMMANDS = ("slurmdbd", "sacct", "sacctmgr", "mariadbd", "mariadb-install-db")


def missing(commands: tuple[str, ...] = COMMANDS) -> str:
    """Why there can be no cluster here; nothing where there can."""
    absent = [command for command in commands if shutil.which(command) is None]
    if absent:
        return f"no Slurm here ({', '.join(absent)} not found): `make slurm-test` installs it"
    return "" if os.geteuid() == 0 else "a virtual Slurm cluster needs root"


class VirtualCluster:
    """``start()``, then commands through ``run`` and ``sbatch``, at the end ``stop()``.

    With ``accounting``, slurmdbd and a MariaDB keep the jobs' records, so that sacct works, and,
    where the machine has cgroups for it (``limits_memory``), a step that uses more than its memory
    is killed. With ``warns``, preemption begins with the job's own warning signal.
    """

    def __init__(self, *, accounting: bool = False, warns: bool = False) -> None:
        self.accounting, self.warns = accounting, warns
        self.limits_memory = accounting and os.access(CGROUPS / "memory", os.W_OK)
        self.folder, self.first_port, self.lock = _free_slot()
        self.configuration = self.folder / CONFIGURATION
        self.environment = os.environ | {"SLURM_CONF": str(self.configuration)}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    # ---- life --------------------------------------------------------------------------------

    def start(self) -> None:
        """Raises AssertionError, with the daemons' logs, where one does not come up."""
        self.folder.mkdir()
        for name in ("log", "controller", "jobs", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir()
        # Any user may submit.
        self.folder.chmod(0o755)
        (self.folder / "jobs").chmod(0o1777)
        self._name_nodes()
        self._write_configuration()
        self._start_munge()
        if self.accounting:
            self._start_accounting()
        self.start_controller()
        for node in NODES:
            self._start_node(node)
        self.wait_until(lambda: self.idle_nodes() == list(NODES), "all nodes are idle", 60)

    def stop(self) -> None:
        """End every process of the cluster and remove its folder."""
        for name in ("slurmctld", "slurmdbd", "mariadbd"):
            self._end(name)
        self._kill_all()
        shutil.rmtree(self.folder)
        if self.limits_memory:
            _remove_cgroups()
        os.close(self.lock)

    def _kill_all(self, *marks: str) -> None:
        """Every process of the cluster; with marks, those that have one in their environment."""
        _kill_processes(self.configuration, *marks)
        for daemon in self._daemons.values():
            daemon.poll()

    def _daemon(self, name: str, *command: str | Path, **environment: str) -> None:
        with (self.folder / "log" / f"{name}.log").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                start_new_session=True, env=self.environment | environment,
            )  # fmt: skip

    def _end(self, name: str) -> None:
        daemon = self._daemons.pop(name, None)
        if daemon is None:
            return
        daemon.terminate()
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    # ---- configuration -----------------------------------------------------------------------

    def _name_nodes(self) -> None:
        """The nodes' names must resolve: rank 0 is looked up by the name of its node."""
        hosts = Path("/etc/hosts")
        known = hosts.read_text()
        new = [node for node in NODES if not re.search(rf"\s{node}(\s|$)", known)]
        if new:
            with hosts.open("a") as file:
                file.write("".join(f"127.0.0.1 {node}\n" for node in new))

    def _write_configuration(self) -> None:
        folder = self.folder
        # Character devices under the names of GPUs: Slurm itself sets CUDA_VISIBLE_DEVICES.
        for number in range(GPUS):
            os.mknod(folder / f"gpu{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        (folder / "gres.conf").write_text(
            f"AutoDetect=off\nName=gpu File={folder}/gpu[0-{GPUS - 1}]\n"
        )
        if self.accounting:
            records = f"""
                AccountingStorageType=accounting_storage/slurmdbd
                AccountingStorageHost=127.0.0.1
                AccountingStoragePort={self.first_port + 1}
                AccountingStoragePass={folder}/munge.socket
                JobAcctGatherType=jobacct_gather/{"cgroup" if self.limits_memory else "linux"}
                JobAcctGatherFrequency=task=5"""
        else:
            records = """
                AccountingStorageType=accounting_storage/none
                JobAcctGatherType=jobacct_gather/none"""
        if self.limits_memory:
            (folder / "cgroup.conf").write_text(
                f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={CGROUPS}\nConstrainRAMSpace=yes\n"
                "ConstrainSwapSpace=no\nConstrainDevices=no\nConstrainCores=no\n"
            )
        text = f"""
            ClusterName=virtual
            SlurmctldHost={_host()}(127.0.0.1)
            SlurmUser=root
            SlurmctldPort={self.first_port}
            AuthType=auth/munge
            AuthInfo=socket={folder}/munge.socket,cred_expire={CREDENTIAL_SECONDS}
            StateSaveLocation={folder}/controller
            SlurmdSpoolDir={folder}/spool.%n
            SlurmctldPidFile={folder}/controller/slurmctld.pid
            SlurmdPidFile={folder}/slurmd.%n.pid
            {"SlurmctldParameters=preempt_send_user_signal" if self.warns else ""}
            SlurmdParameters=config_overrides
            ProctrackType=proctrack/{"cgroup" if self.limits_memory else "linuxproc"}
            TaskPlugin=task/{"cgroup" if self.limits_memory else "none"}
            SwitchType=switch/none
            MpiDefault=none
            SelectType=select/cons_tres
            SelectTypeParameters=CR_Core_Memory
            DefMemPerCPU=500
            GresTypes=gpu
            SchedulerType=sched/backfill
            SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
            PreemptType=preempt/partition_prio
            PreemptMode=REQUEUE
            JobRequeue=1
            KillWait={KILL_WAIT_SECONDS}
            MessageTimeout=30
            MinJobAge=300
            ReturnToService=2
            InactiveLimit=0
            SlurmctldTimeout=60
            SlurmdTimeout=30
            {records}"""
        lines = [line.strip() for line in text.splitlines()]
        lines += [
            f"NodeName={node} NodeHostname={node} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} "
            f"RealMemory={MEMORY_MB} Gres=gpu:{GPUS} State=UNKNOWN"
            for port, node in enumerate(NODES, self.first_port + 5)
        ]
        for name, nodes, settings in (
            ("main", "n[1-2]", "Default=YES PriorityTier=1 PreemptMode=OFF"),
            ("low", "n3", "PriorityTier=1 PreemptMode=REQUEUE GraceTime=0"),
            ("grace", "n4", f"PriorityTier=1 PreemptMode=REQUEUE GraceTime={GRACE_SECONDS}"),
            ("high", "n[3-4]", "PriorityTier=10 PreemptMode=OFF"),
            ("fragile", "n[5-6]", "PriorityTier=1 PreemptMode=OFF"),
        ):
            lines.append(
                f"PartitionName={name} Nodes={nodes} MaxTime=60 DefaultTime=10 State=UP {settings}"
            )
        self.configuration.write_text("\n".join(lines) + "\n")

    # ---- daemons -----------------------------------------------------------------------------

    def _start_munge(self) -> None:
        folder, address = self.folder, self.folder / "munge.socket"
        self.run("mungekey", "--create", "--keyfile", folder / "munge.key")
        self._daemon(
            "munged", "munged", "--foreground", "--key-file", folder / "munge.key",
            "--socket", address, "--pid-file", folder / "munged.pid",
            "--seed-file", folder / "munge.seed",
        )  # fmt: skip
        self._wait_for_daemon("munged", "munge", "-S", address, "-n")

    def _start_accounting(self) -> None:
        folder, data, address = self.folder, self.folder / "mariadb", self.folder / "mariadb.socket"
        # As a package does it, or it would change the owner of the machine's own plugins.
        options = ("--no-defaults", f"--datadir={data}", "--user=root", "--skip-test-db", "--rpm")
        self.run("mariadb-install-db", *options, timeout=120)
        self._daemon(
            "mariadbd", "mariadbd", "--no-defaults", f"--datadir={data}", "--user=root",
            f"--socket={address}", f"--port={self.first_port + 2}", "--bind-address=127.0.0.1",
            "--skip-name-resolve", "--innodb-buffer-pool-size=64M",
            "--innodb-lock-wait-timeout=900", f"--pid-file={folder}/mariadb.pid",
        )  # fmt: skip
        client = ("mariadb", "--no-defaults", f"--socket={address}", "--user=root")
        self._wait_for_daemon("mariadbd", *client, "-e", "select 1")
        user = "slurm@127.0.0.1"
        self.run(
            *client, "-e",
            f"create database slurm; create user {user} identified by 'virtual'; "
            f"grant all on slurm.* to {user}",
        )  # fmt: skip
        settings = folder / "slurmdbd.conf"
        settings.touch(0o600)
        settings.write_text(
            f"AuthType=auth/munge\nAuthInfo=socket={folder}/munge.socket\n"
            f"DbdHost={_host()}\nDbdAddr=127.0.0.1\nDbdPort={self.first_port + 1}\n"
            f"SlurmUser=root\nPidFile={folder}/slurmdbd.pid\n"
            "StorageType=accounting_storage/mysql\nStorageHost=127.0.0.1\n"
            f"StoragePort={self.first_port + 2}\nStorageUser=slurm\nStoragePass=virtual\n"
            "StorageLoc=slurm\n"
        )
        self._daemon("slurmdbd", "slurmdbd", "-D")
        self._wait_for_daemon("slurmdbd", "sacctmgr", "-n", "show", "cluster")
        self.run("sacctmgr", "-i", "add", "cluster", "virtual")

    def start_controller(self) -> None:
        self._daemon("slurmctld", "slurmctld", "-D")
        self._wait_for_daemon("slurmctld", "scontrol", "ping", words="is UP")

    def stop_controller(self) -> None:
        """Jobs run on; Slurm's commands fail until it is back."""
        self._end("slurmctld")

    def _start_node(self, node: str) -> None:
        self._daemon(f"slurmd.{node}", "slurmd", "-D", "-N", node, **{NODE_VARIABLE: node})

    def kill_node(self, node: str) -> None:
        """As a power cut: slurmd, slurmstepd and all processes of the node's jobs at once.

        Slurm finds out by itself (SlurmdTimeout), and runs the jobs again elsewhere."""
        self._kill_all(f"{NODE_VARIABLE}={node}", f"SLURMD_NODENAME={node}")

    def restore_node(self, node: str) -> None:
        """As a reboot; returns when Slurm has the node back."""
        self._start_node(node)
        self.wait_until(lambda: node in self.responding_nodes(), f"{node} is back", 60)

    # ---- commands ----------------------------------------------------------------------------

    def run(
        self, *command: str | Path, check: bool = True, timeout: float = 60, **environment: str
    ) -> str:
        """stdout of a command on this cluster; AssertionError, with its words, where it fails."""
        done = subprocess.run(
            [str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=timeout, env=self.environment | environment,
            cwd=self.folder if self.folder.is_dir() else None,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{command}: exit code {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def sbatch(self, script: str, *options: str) -> str:
        """The id of a job that runs these lines of bash; its log is ``log_of(id)``."""
        file = self.folder / "jobs" / f"{time.monotonic_ns()}.sh"
        file.write_text(f"#!/bin/bash\n{script}\n")
        is_array = any(option.startswith("--array") for option in options)
        output = self.folder / "jobs" / ("%A_%a.log" if is_array else "%j.log")
        return self.run(
            "sbatch", "--parsable", "--open-mode=append", f"--output={output}", *options, file
        ).strip()  # fmt: skip

    def log_of(self, job_id: str) -> str:
        path = self.folder / "jobs" / f"{job_id}.log"
        return path.read_text() if path.exists() else ""

    def job(self, job_id: str) -> dict[str, str]:
        """What ``scontrol show job`` says of a job or of an array's element; {} where it knows
        nothing."""
        for line in self.run("scontrol", "-o", "show", "job", job_id, check=False).splitlines():
            record = dict(re.findall(r"(\S+?)=(.*?)(?=\s+\S+=|\s*$)", line))
            element = f"{record.get('ArrayJobId')}_{record.get('ArrayTaskId')}"
            if job_id in (record.get("JobId"), element):
                return record
        return {}

    def state(self, job_id: str) -> str:
        return self.job(job_id).get("JobState", "")

    def requeue(self, job_id: str) -> None:
        self.run("scontrol", "requeue", job_id)

    def cancel(self, job_id: str, *options: str) -> None:
        self.run("scancel", *options, job_id)

    def idle_nodes(self) -> list[str]:
        return sorted(set(self.run("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split()))

    def responding_nodes(self) -> list[str]:
        lines = self.run("sinfo", "-h", "-N", "-o", "%N %T").splitlines()
        return sorted({name for name, state in map(str.split, lines) if _is_up(state)})

    # ---- waiting -----------------------------------------------------------------------------

    def wait_for(
        self, job_id: str, *states: str, timeout: float = 120, restarts: int | None = None
    ) -> dict[str, str]:
        """The job's record as soon as it is in one of the states, after so many restarts.

        AssertionError, with the cluster's state, as soon as it has ended for good otherwise."""
        after = "" if restarts is None else f" after {restarts} restarts"
        ended: list[float] = []

        def there() -> dict[str, str] | None:
            record = self.job(job_id)
            state = record.get("JobState")
            if state in states and restarts in (None, int(record["Restarts"])):
                return record
            if state not in ENDED:
                ended.clear()
            elif not ended:
                ended.append(time.monotonic())
            elif time.monotonic() > ended[0] + 10:
                what = f"{' or '.join(states)}{after}"
                raise AssertionError(f"job {job_id} is not {what}\n{self.report(job_id)}")
            return None

        found = self.wait_until(
            there, f"job {job_id} is {' or '.join(states)}{after}", timeout, job_id
        )
        assert found is not None
        return found

    def wait_until(
        self, condition: Callable[[], T], what: str, timeout: float, job_id: str = ""
    ) -> T:
        """The condition's first true value; AssertionError with the cluster's state if none."""
        deadline = time.monotonic() + timeout
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"after {timeout:.0f} s it is not so that {what}\n{self.report(job_id)}"
                )
            time.sleep(0.2)

    def _wait_for_daemon(self, name: str, *command: str | Path, words: str = "") -> None:
        """Until a command works, and says what it says once it does."""

        def works() -> bool:
            if self._daemons[name].poll() is not None:
                raise AssertionError(f"{name} ended\n{self.report()}")
            try:
                return words in self.run(*command)
            except AssertionError:
                return False

        self.wait_until(works, f"{name} answers", 60)

    def report(self, job_id: str = "") -> str:
        """The queue, the nodes, a job with its output, and the ends of the daemons' logs."""
        commands = [["squeue", "-a"], ["sinfo", "-N", "-l"]]
        commands += [["scontrol", "show", "job", job_id]] if job_id else []
        parts = [f"$ {' '.join(c)}\n{self._said(c)}" for c in commands]
        record = self.job(job_id) if job_id else {}
        paths = [Path(record[key]) for key in ("StdOut", "StdErr") if key in record]
        paths += sorted((self.folder / "log").glob("[!m]*"))
        parts += [
            f"{path}:\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:])
            for path in dict.fromkeys(paths)
            if path.is_file() and path.stat().st_size
        ]
        return "\n\n".join(parts)

    def _said(self, command: list[str]) -> str:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
            env=self.environment,
        )  # fmt: skip
        return done.stdout + done.stderr


def _host() -> str:
    return socket.gethostname().split(".")[0]


def _is_up(state: str) -> bool:
    """Not down, and not marked by '*' as not responding."""
    return not state.endswith("*") and not state.startswith(("down", "unknown"))


def _remove_cgroups() -> None:
    """Those of killed daemons stay behind, empty."""
    for node in NODES:
        for group in CGROUPS.glob(f"*/slurm_{node}"):
            for folder, _, _ in os.walk(group, topdown=False):
                # Another session's cluster may use it.
                with contextlib.suppress(OSError):
                    os.rmdir(folder)


def _free_slot() -> tuple[Path, int, int]:
    """A folder, its first port and the lock that keeps other test sessions away from both.

    What killed sessions left is ended and removed. Not in pytest's folders: other users' jobs
    must reach it, and a socket's path has to be short.
    """
    for slot in range(SLOTS):
        folder = Path(tempfile.gettempdir()) / f"phase2hpc-slurm-{slot}"
        lock = os.open(f"{folder}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        _kill_processes(folder / CONFIGURATION)
        if folder.exists():
            shutil.rmtree(folder)
        return folder, FIRST_PORT + slot * PORTS_A_SLOT, lock
    raise AssertionError(f"{SLOTS} virtual clusters run on this machine already")


def _kill_processes(configuration: Path, *marks: str) -> None:
    """Until none is left: one that is just being started may escape the first look.

    All are stopped before the first is killed, or a slurmstepd would report its job's end."""
    while found := list(processes(configuration, *marks)):
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        time.sleep(0.05)


def processes(configuration: Path, *marks: str) -> Iterator[int]:
    """The living processes with this SLURM_CONF and, if marks are given, one of them in their
    environment, and the slurmstepd that started them, whose own environment newer versions
    overwrite; but not this process and what it was started by, since a user may have exported
    SLURM_CONF to look at the cluster by hand."""
    wanted = {mark.encode() for mark in marks}
    mine = f"SLURM_CONF={configuration}".encode()
    ancestors = _ancestors()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in ancestors:
            continue
        try:
            variables = set((entry / "environ").read_bytes().split(b"\0"))
        except OSError:
            continue
        if mine in variables and (not wanted or wanted & variables):
            yield int(entry.name)
            with contextlib.suppress(OSError):
                parent = _parent(int(entry.name))
                if Path(f"/proc/{parent}/comm").read_text().startswith("slurmstepd"):
                    yield parent


def _ancestors() -> set[int]:
    """This process and all that it was started by."""
    found, pid = set(), os.getpid()
    while pid > 0:
        found.add(pid)
        pid = _parent(pid)
    return found


def _parent(pid: int) -> int:
    parent = re.search(r"^PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)
    assert parent is not None
    return int(parent[1])
