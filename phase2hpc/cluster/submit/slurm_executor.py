"""Batch jobs through submitit: the sbatch script, its submission, and what Slurm says to it.

submitit starts python on the node, reads the pickled call there and names the log files. What is
different here: the script checks the environment before it starts, and requeues the job from
outside the task (and outside a container) when the task says that it has saved its state and has
more to do; elements of an array have all of it too.
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
from submitit.core.core import Job, PicklingExecutor
from submitit.slurm import slurm

from phase2hpc.cluster.node.train_task import RESTARTS_VARIABLE
from phase2hpc.errors import InputError, Phase2Error, StoppedEarly

# What a job needs of its python, by the extra that brings it.
NEEDED = {
    "train": "phase2hpc submitit torch torch_geometric e3nn h5py",
    "data": "phase2hpc submitit numpy h5py gemmi vesin pymatgen",
}
_SBATCH_TIMEOUT = 120
_AWAY = (
    "contact slurm",
    "socket timed out",
    "connection refused",
    "zero bytes",
    "unable to connect",
)

Call = tuple[Callable[..., Any], tuple[Any, ...]]


@dataclass(frozen=True)
class JobScript:
    """What becomes the batch script of a job or an array.

    folder: of scripts, pickles and logs. python: a shell command, a container's in front;
    python_name: what a user calls it. parameters: sbatch options as submitit names them. count:
    elements of an array, None for one job. extra: the install that it needs.
    """

    folder: Path
    python: str
    python_name: str
    parameters: dict[str, Any]
    setup: tuple[str, ...] = ()
    count: int | None = None
    extra: str = "train"

    @property
    def command(self) -> str:
        """What srun starts in every task."""
        return f"{self.python} -u -m submitit.core._submit {shlex.quote(str(self.folder))}"

    def text(self) -> str:
        """The script that sbatch gets."""
        setup = [*self.setup, *self.environment_check(), *_SLURM_LINES]
        text = slurm._make_sbatch_string(
            command=self.command,
            folder=self.folder,
            setup=setup,
            map_count=self.count,
            **self.parameters,
        )
        return "\n".join([text.rstrip("\n"), *_REQUEUE_LINES, ""])

    def environment_check(self) -> list[str]:
        """Shell lines that end a job where its python lacks what it needs, saying what to do."""
        find = (
            "from importlib.util import find_spec; "
            f'print(*(name for name in "{NEEDED[self.extra]}".split() if find_spec(name) is None))'
        )
        name = re.sub(r'([\\"$`])', r"\\\1", self.python_name)
        return [
            f"if ! missing=$({self.python} -c {shlex.quote(find)}); then",
            f'  echo "phase2hpc: on node $(hostname) {name} does not start: see the lines above;'
            " set 'python', 'setup' or 'container' in the profile\" >&2",
            "  exit 1",
            'elif [ -n "$missing" ]; then',
            f'  echo "phase2hpc: on node $(hostname) {name} has no $missing: install'
            f" phase2hpc[{self.extra}] into it, or set 'python', 'setup' or 'container' in the"
            ' profile"'
            " >&2",
            "  exit 1",
            "fi",
        ]


_SLURM_LINES = [
    # From 22.05 on srun does not take this over from sbatch.
    'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"',
    f'export {RESTARTS_VARIABLE}="${{SLURM_RESTART_COUNT:-0}}"',
    # A preempted job is sent SIGTERM: this shell outlives it, and what it starts still gets it.
    "trap : TERM",
]

# A job that is being cancelled or preempted is not running any more: a requeue would bring a
# cancelled one back, and Slurm itself requeues a preempted one. By the array's number and the
# element's: an element's own number may be that of the whole array.
_REQUEUE_LINES = [
    "code=$?",
    # The latter: warned in the moment before python could take notice (128 + SIGUSR2).
    f'if [ "$code" -eq {StoppedEarly.exit_code} ] || [ "$code" -eq 140 ]; then',
    '  job="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"',
    "  for pause in 5 20 60 0; do",
    '    state=$(scontrol show job --oneliner "$job" | grep -o "JobState=[A-Z_]*")',
    '    if [ -n "$state" ] && [ "$state" != JobState=RUNNING ]; then',
    '      echo "phase2hpc: job $job is not requeued by itself ($state)" >&2',
    '      exit "$code"',
    "    fi",
    '    if scontrol requeue "$job"; then',
    '      echo "phase2hpc: job $job is requeued to go on"',
    "      exit 0",
    "    fi",
    '    sleep "$pause"',
    "  done",
    '  echo "phase2hpc: job $job could not be requeued (above is why): its state is saved, go on'
    ' with phase2hpc submit --resume" >&2',
    "fi",
    'exit "$code"',
]


class BatchExecutor(slurm.SlurmExecutor):
    """submitit's executor for Slurm with the script of a JobScript.

    ``submit_calls`` submits one job, or an array with one element a call.
    """

    def __init__(self, script: JobScript) -> None:
        # Not SlurmExecutor's own, which wants srun on this machine: sbatch is all that is needed.
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
        """The ids of the jobs or elements.

        ``before_start`` is called with them when they are known, and no call begins before it
        returns: a task waits for its pickle, which is moved to its place afterwards. Raises
        InputError or Phase2Error with Slurm's own reason where it refuses.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        pickles = []
        for function, arguments in calls:
            call = utils.DelayedSubmission(function, *arguments)
            call.set_timeout(self.parameters["time"], self.max_num_timeout)
            pickles.append(self.folder / f"{uuid.uuid4().hex}.pkl")
            call.dump(pickles[-1])
        first: Job[Any] = self._submit_command(self._submitit_command_str)
        ids = [first.job_id]
        if self.script.count is not None:
            ids = [f"{first.job_id}_{element}" for element in range(self.script.count)]
        before_start(ids)
        for job_id, pickle in zip(ids, pickles, strict=True):
            paths = utils.JobPaths(self.folder, job_id)
            paths.move_temporary_file(pickle, "submitted_pickle")
        return ids

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        return self.script.text()

    def _submit_command(self, command: str) -> Job[Any]:
        script = self.folder / f".submission_file_{uuid.uuid4().hex}.sh"
        script.write_text(self._make_submission_file_text(command, ""))
        job_id = sbatch(script)
        job: Job[Any] = slurm.SlurmJob(folder=self.folder, job_id=job_id)
        job.paths.move_temporary_file(script, "submission_file")
        return job


def sbatch(script: Path) -> str:
    """Submit a script; the job's id. Raises InputError or Phase2Error with Slurm's reason."""
    try:
        answer = subprocess.run(
            ["sbatch", "--parsable", str(script)],
            capture_output=True,
            text=True,
            timeout=_SBATCH_TIMEOUT,
            env=_outside_of_a_job(),
            check=False,
        )
    except FileNotFoundError:
        raise InputError(
            "no sbatch on this machine: submit from a login node of the cluster, look at what "
            "would be submitted with --dry-run, or run here with --profile local"
        ) from None
    except subprocess.TimeoutExpired:
        raise Phase2Error(
            f"sbatch did not answer within {_SBATCH_TIMEOUT} s: look with squeue whether the job "
            "is there before you try again"
        ) from None
    if answer.returncode == 0 and (match := re.match(r"(\d+)", answer.stdout.strip())):
        return match[1]
    reason = said_by_slurm(answer.stderr) or said_by_slurm(answer.stdout) or "it gave no reason"
    if any(words in reason.lower() for words in _AWAY):
        raise Phase2Error(f"Slurm cannot be reached ({reason}): try again later")
    raise InputError(f"sbatch refuses the job: {reason}")


def said_by_slurm(text: str) -> str:
    """What a command of Slurm's wrote to stderr, as one line without its own names."""
    lines = [
        re.sub(r"^(sbatch|srun|slurmctld): ?((error|fatal): ?)?", "", line.strip())
        for line in text.splitlines()
    ]
    return "; ".join(dict.fromkeys(line for line in lines if line))


def _outside_of_a_job() -> dict[str, str]:
    """This environment without the variables of the job that this process may be part of: sbatch
    and srun take them for wishes."""
    if "SLURM_JOB_ID" not in os.environ:
        return dict(os.environ)
    kept = ("SLURM_CONF", "SLURM_CLUSTERS")
    return {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k in kept}
