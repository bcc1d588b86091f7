"""Checks of the Python environment: packages, torch and GPUs."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

from phase2hpc import __version__
from phase2hpc.cluster.doctor.check import Check, fail, ok, warn
from phase2hpc.utils.command import run_command
from phase2hpc.utils.dependencies import installed_versions, requirements
from phase2hpc.utils.gpus import advice_for_invisible_gpus, gpu_count

TORCH_TIMEOUT_SECONDS = 90.0
# Commands that need each extra.
_COMMANDS_OF_EXTRA = {
    "": "submit, status, logs, cancel, runs, levels",
    "data": "prepare, store",
    "train": "train, predict, export",
}
# Run in a child process: importing torch takes seconds, and a broken driver can hang it.
_TORCH_PROGRAM = """
import json, torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
devices = [torch.cuda.get_device_properties(index) for index in range(count)]
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda,
    "devices": [f"{d.name}, {d.total_memory / 2**30:.0f} GiB" for d in devices]}))
"""


def python_check() -> Check:
    found = f"{platform.python_version()} at {sys.executable}; phase2hpc {__version__}"
    return ok("python", found)


def package_checks() -> list[Check]:
    """One check for the base install and for each extra."""
    installed = installed_versions()
    checks = []
    for extra, commands in _COMMANDS_OF_EXTRA.items():
        name = f"packages [{extra}]" if extra else "packages"
        needed = requirements(extra)
        missing = [one.name for one in needed if one.name not in installed]
        outdated = [
            f"{one.name} {installed[one.name]} (needs {one.specifier})"
            for one in needed
            if one.name in installed
            and not one.specifier.contains(installed[one.name], prereleases=True)
        ]
        install = f"pip install 'phase2hpc{f'[{extra}]' if extra else ''}'"
        if outdated:
            checks.append(fail(name, f"unfit: {', '.join(outdated)}", f"{install} --upgrade"))
        elif missing and not extra:
            checks.append(fail(name, f"missing: {', '.join(missing)}", install))
        elif missing:
            advice = f"needed for {commands} (not on a login node that only submits): {install}"
            checks.append(warn(name, f"missing: {', '.join(missing)}", advice))
        else:
            versions = ", ".join(f"{one.name} {installed[one.name]}" for one in needed)
            checks.append(ok(name, f"{commands}: {versions}"))
    return checks


def torch_checks() -> list[Check]:
    """torch, CUDA and the GPUs of this machine; empty if torch is not installed."""
    if "torch" not in installed_versions():
        return []
    try:
        done = run_command([sys.executable, "-c", _TORCH_PROGRAM], TORCH_TIMEOUT_SECONDS)
        about = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
    except subprocess.TimeoutExpired:
        return [
            warn(
                "torch",
                f"not imported within {TORCH_TIMEOUT_SECONDS:g} s",
                "a slow file system or a hanging GPU driver: try python -c 'import torch' by hand",
            )
        ]
    if about is None:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return [fail("torch", f"cannot be imported: {reason}", "install phase2hpc[train] again")]
    build = f"for CUDA {about['cuda']}" if about["cuda"] else "for CPU"
    checks = [ok("torch", f"{about['version']}, built {build}")]
    if about["devices"]:
        checks.append(ok("GPUs", "; ".join(about["devices"])))
    elif not gpu_count():
        checks.append(ok("GPUs", "none on this machine (as on most login nodes)"))
    elif about["cuda"]:
        advice = advice_for_invisible_gpus(about["cuda"])
        checks.append(fail("GPUs", "there are some, but torch cannot use them", advice))
    else:
        advice = advice_for_invisible_gpus(None)
        checks.append(warn("GPUs", "there are some, but this torch is for CPU only", advice))
    return checks
