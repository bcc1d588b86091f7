"""Profiles of sites, and plans of what would be submitted there."""

from __future__ import annotations

import re
from collections.abc import Callable

from phase2hpc.cluster.submit.plan import Plan

CPU = "gpus: 0\npython: /opt/python\n"
GPU = """\
partition: gpu
account: chem
qos: normal
gpu_request: gpus-per-node
gpu_type: a100
max_hours: 24
signal_seconds: 60
python: /opt/python
setup: [module load cuda, source /opt/venv/bin/activate]
environment: {NCCL_DEBUG: INFO}
sbatch: {exclusive: true, mail-type: END}
srun: [--cpu-bind=none]
"""
CONTAINER = """\
gpus: 1
python: python3
environment: {OMP_NUM_THREADS: "4"}
container:
  image: image.sif
  binds: ["/scratch/data:/data:ro"]
"""
LOCAL = "executor: local\npython: /opt/python\nsetup: [module load cuda]\n"


MakePlan = Callable[..., Plan]


def options(text: str) -> dict[str, str]:
    lines = re.findall(r"^#SBATCH --(\S+?)(?:=(.*))?$", text, re.MULTILINE)
    found = dict(lines)
    assert len(found) == len(lines)
    return found
