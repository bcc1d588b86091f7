"""Slurm executor on top of submitit: the sbatch script and its submission.

submitit starts Python on the node, loads the pickled call there and names the log files. Added
here: the script checks the environment first, and requeues the job from outside the task (and
outside a container) when the task exits with 75: state saved, more to do. Array elements too.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.core import utils
from submitit.core.core import PicklingExecutor
from submitit.slurm import slurm

from phase2hpc.cluster.node.train_task import RESTARTS_VARIABLE
from phase2hpc.cluster.slurm.clusters import chosen_cluster
from phase2hpc.cluster.slurm.command import SlurmUnavailable, error_of, message_of
from phase2hpc.cluster.slurm.jobs import cancel
from phase2hpc.cluster.submit.shell_variables import sbatch_environment, script_options
from phase2hpc.errors import InputError, Phase2Error, StoppedEarly
from phase2hpc.utils.dependencies import modules

_SBATCH_TIMEOUT = 120

Call = tuple[Callable[..., Any], tuple[Any, ...]]


@dataclass(frozen=True)
class JobScript:
    """The batch script of a job or an array.

    folder: of scripts, pickles and logs. python: a shell command, which may start a container;
    python_name: its name in messages. parameters: sbatch options under submitit's names. count:
    elements of an array, None for one job; array_parallelism: how many run at once. requeue: if
    the command exits with 75. extra: the extra of phase2hpc that it needs.
    """

    folder: Path
    python: str
    python_name: str
    parameters: dict[str, Any]
    setup: tuple[str, ...] = ()
    teardown: tuple[str, ...] = ()
    count: int | None = None
    array_parallelism: int | None = None
    requeue: bool = True
    extra: str = "train"

    @property
    def command(self) -> str:
        """The command of every task."""
        return f"{self.python} -u -m submitit.core._submit {shlex.quote(str(self.folder))}"

    def text(self) -> str:
        """The script for sbatch."""
        setup = [*_FIRST_LINES, *self.setup, *self.environment_check(), *_SLURM_LINES]
        text = slurm._make_sbatch_string(
            command=self.command,
            folder=self.folder,
            setup=setup,
            map_count=self.count,
            array_parallelism=self.array_parallelism or self.count or 1,
            **self.parameters,
        )
        end = _REQUEUE_LINES if self.requeue else _NO_REQUEUE_LINES
        return "\n".join([text.rstrip("\n"), "code=$?", *self.teardown, *end, ""])

    def environment_check(self) -> list[str]:
        """Shell lines that end the job with one line if its Python lacks a required package."""
        needed = " ".join(["phase2hpc", *modules(self.extra)])
        find = (
            "from importlib.util import find_spec; "
            f'print(*(name for name in "{needed}".split() if find_spec(name) is None))'
        )
        name = re.sub(r'([\\"$`])', r"\\\1", self.python_name)
        return [
            f"if ! missing=$({self.python} -c {shlex.quote(find)}); then",
            f'  echo "phase2hpc: on node $(hostname) {name} does not start: see the lines above;'
            " set 'python', 'setup' or 'container' in the profile\" >&2",
            "  exit 1",
            'elif [ -n "$missing" ]; then',
            f'  echo "phase2hpc: on node $(hostname) {name} lacks $missing: install'
            f" phase2hpc[{self.extra}] into it, or set 'python', 'setup' or 'container' in the"
            ' profile"'
            " >&2",
            "  exit 1",
            "fi",
        ]


# With --export, sbatch sets it to what it was given, and srun would pass on nothing else to the
# tasks: neither what the lines below set, nor SUBMITIT_EXECUTOR.
_FIRST_LINES = ["unset SLURM_EXPORT_ENV"]

_SLURM_LINES = [
    # From 22.05 on srun does not inherit this from sbatch. Unset where cores are not requested per
    # task: srun refuses it beside cores per GPU.
    'if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK',
    "else unset SRUN_CPUS_PER_TASK; fi",
    f'export {RESTARTS_VARIABLE}="${{SLURM_RESTART_COUNT:-0}}"',
    # SIGTERM at a preemption must end the task and not this shell; children reset the trap.
    "trap : TERM",
]

_GO_ON = "its state is saved, continue with phase2hpc submit --resume"
_ID = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
# 140 is 128 + SIGUSR2: the warning came before Python had a handler.
_IF_STOPPED_EARLY = f'if [ "$code" -eq {StoppedEarly.exit_code} ] || [ "$code" -eq 140 ]; then'

# Only a job that Slurm says is RUNNING is requeued: a cancelled one must not come back, and Slurm
# itself requeues a preempted one. Elements are named ARRAY_TASK: the id of one of them is that of
# the whole array. No program but scontrol is needed.
_REQUEUE_LINES = [
    _IF_STOPPED_EARLY,
    # A job whose setup changed PATH, or a node without Slurm's commands.
    f'  job="{_ID}" why="Slurm does not answer whether it still runs" refused=0',
    "  for pause in 5 20 60 0; do",
    "    if ! command -v scontrol >/dev/null; then",
    '      why="no scontrol on node $HOSTNAME"',
    "      break",
    "    fi",
    '    answer=" $(scontrol show job --oneliner "$job") "',
    "    state=${answer#* JobState=}",
    "    state=${state%% *}",
    '    case "$answer" in',
    '    *" JobState=RUNNING "*)',
    '      if scontrol requeue "$job"; then',
    '        echo "phase2hpc: job $job is requeued to continue"',
    "        exit 0",
    "      fi",
    '      why="Slurm refuses, see above"',
    # It answers, so that its refusal will stay; once more, since a busy one may drop a request.
    "      refused=$((refused + 1))",
    '      if [ "$refused" -eq 2 ]; then break; fi',
    "      ;;",
    '    *" JobState="*)',
    '      echo "phase2hpc: job $job is not requeued ($state)" >&2',
    '      exit "$code"',
    "      ;;",
    "    esac",
    '    sleep "$pause"',
    "  done",
    f'  echo "phase2hpc: job $job is not requeued ($why): {_GO_ON}" >&2',
    "fi",
    'exit "$code"',
]

_NO_REQUEUE_LINES = [
    _IF_STOPPED_EARLY,
    f'  echo "phase2hpc: job {_ID} is not requeued (requeue: false in the profile): {_GO_ON}" >&2',
    "fi",
    'exit "$code"',
]


class BatchExecutor(slurm.SlurmExecutor):
    """submitit's Slurm executor with the script of a JobScript: one job, or an array with one
    element per call."""

    def __init__(self, script: JobScript) -> None:
        # SlurmExecutor.__init__ requires srun, which some login nodes do not have.
        PicklingExecutor.__init__(self, script.folder)
        self.script = script
        self.python = script.python
        self.parameters = dict(script.parameters)

    @classmethod
    def name(cls) -> str:
        return "slurm"

    def submit_calls(
        self, calls: Sequence[Call], before_start: Callable[[list[str]], None]
    ) -> list[str]:
        """Submit; returns the ids of the jobs or elements.

        ``before_start`` is called with the ids; no call starts before it returns, since a task
        waits for its pickle. What fails after sbatch has answered cancels the job. Raises
        InputError or Phase2Error with Slurm's reason for a refusal.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        pickles = []
        for function, arguments in calls:
            call = utils.DelayedSubmission(function, *arguments)
            call.set_timeout(self.parameters["time"], self.max_num_timeout)
            pickles.append(self.folder / f"{uuid.uuid4().hex}.pkl")
            call.dump(pickles[-1])
        script = self.folder / f".submission_file_{uuid.uuid4().hex}.sh"
        script.write_bytes(os.fsencode(self.script.text()))
        first = sbatch(script)
        ids = [first]
        if self.script.count is not None:
            ids = [f"{first}_{element}" for element in range(self.script.count)]
        try:
            utils.JobPaths(self.folder, first).move_temporary_file(script, "submission_file")
            before_start(ids)
            for job_id, pickle in zip(ids, pickles, strict=True):
                paths = utils.JobPaths(self.folder, job_id)
                paths.move_temporary_file(pickle, "submitted_pickle")
        except BaseException:
            try:
                cancel([first])
            except Phase2Error as error:
                problem = f"has queued job {first}, which cannot be cancelled ({error})"
                raise JobIdUnknown(problem, self.folder) from error
            raise
        return ids


class JobIdUnknown(Phase2Error):
    """sbatch may have queued a job, and its id is not known: the job's folder must be kept."""

    def __init__(self, problem: str, folder: Path) -> None:
        super().__init__(
            f"sbatch {problem}: a job may be queued all the same. Look for it with squeue --me and "
            f"cancel it (scancel) before you submit again; {folder} is kept"
        )


def parse_job_id(stdout: str) -> str | None:
    """The job id in sbatch's output: the last line that is ``N``, ``N;cluster`` or ``Submitted
    batch job N``. Sites print banners before it; None if there is no such line."""
    pattern = re.compile(r"(\d+)(;\S+)?|Submitted batch job (\d+)( on cluster \S+)?")
    for line in reversed(stdout.splitlines()):
        if match := pattern.fullmatch(line.strip()):
            return match[1] or match[3]
    return None


def sbatch(script: Path) -> str:
    """Submit a script; returns the job id.

    Raises InputError or Phase2Error with Slurm's reason for a refusal, and JobIdUnknown where a
    job may have been queued.
    """
    cluster = chosen_cluster()
    environment = sbatch_environment(script_options(os.fsdecode(script.read_bytes())))
    try:
        answer = subprocess.run(
            ["sbatch", "--parsable", *([f"--clusters={cluster}"] if cluster else []), str(script)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SBATCH_TIMEOUT,
            env=environment,
            check=False,
        )
    except FileNotFoundError:
        raise InputError(
            "no sbatch on this machine: submit from a login node of the cluster, show the batch "
            "script with --dry-run, or run here with --profile local"
        ) from None
    except subprocess.TimeoutExpired:
        problem = f"did not answer within {_SBATCH_TIMEOUT} s"
        raise JobIdUnknown(problem, script.parent) from None
    if answer.returncode == 0:
        if job_id := parse_job_id(answer.stdout):
            return job_id
        printed = " ".join(answer.stdout.split())[-80:]
        raise JobIdUnknown(f"printed no job id ({printed!r})", script.parent)
    reason = message_of(answer.stderr) or message_of(answer.stdout) or "no reason given"
    if re.search("timed out|zero bytes", reason.lower()):
        # The controller may have taken the job before its answer was lost.
        raise JobIdUnknown(f"got no answer from Slurm ({reason})", script.parent)
    if isinstance(error_of("sbatch", reason), SlurmUnavailable):
        raise Phase2Error(f"Slurm cannot be reached ({reason}): try again later")
    raise InputError(f"sbatch refuses the job: {reason}")
