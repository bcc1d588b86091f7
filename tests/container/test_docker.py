"""The Dockerfile's image: what is in it, and the main job done in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from container_engine import ROOT, Engine
from same_run import assert_same_run

import phase2hpc
from phase2hpc.runs.run_directory import RunDirectory, family_folder

PHASE2HPC = Path(sys.executable).with_name("phase2hpc")
SLOWLY = ROOT / "tests" / "slurm" / "slowly"
# Neither the image's user nor one that its /etc/passwd knows.
CALLER = (12345, 23456)
WORDS = ("--algorithm", "e3nn", "--level", "lite", "--epochs", "6", "--max-samples", "40",
         "--threads", "1")  # fmt: skip


def pinned() -> set[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {_normal(line) for line in lines if "==" in line and not line.startswith("#")}


def _normal(line: str) -> str:
    """``name==version`` as package indexes compare it, without a local version."""
    name, _, version = line.strip().partition("==")
    return f"{re.sub('[-_.]+', '-', name).lower()}=={version.partition('+')[0]}"


@pytest.fixture
def work(tiny, tmp_path: Path) -> Path:
    """A caller's folder with a store in it."""
    folder = tmp_path / "work"
    (folder / "data").mkdir(parents=True)
    shutil.copy(tiny.store, folder / "data" / "tiny.h5")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, *CALLER)
    return folder


def podman(image: str, work: Path, *words: object, options: tuple[str, ...] = ()) -> list[str]:
    """``podman run`` as any caller, with a root that cannot be written."""
    return [
        "podman", "run", "--rm", "--read-only", "--tmpfs", "/tmp", "--no-healthcheck",
        "--user", f"{CALLER[0]}:{CALLER[1]}", "--env", "OMP_NUM_THREADS=1",
        "--volume", f"{work}:/work", *options, image, *map(str, words),
    ]  # fmt: skip


def the_run(work: Path, name: str) -> RunDirectory:
    return RunDirectory(work / "models" / family_folder("e3nn", "lite") / f"run_{name}")


# ---- what is in it ---------------------------------------------------------------------------


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("no hadolint here: `make container-test` installs it")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_label_user_and_entry_point(engine: Engine, image: str, label: dict[str, str]) -> None:
    (found,) = json.loads(engine.run("podman", "image", "inspect", image))
    settings = found["Config"]
    prefix = "org.opencontainers.image."
    labels = {k.removeprefix(prefix): v for k, v in settings["Labels"].items()}
    assert labels["version"] == phase2hpc.__version__
    assert labels["revision"] == label["REVISION"] and labels["created"] == label["CREATED"]
    assert settings["User"] == "1000:1000" and settings["Entrypoint"] == ["phase2hpc"]
    assert found["Healthcheck"]["Test"] == ["CMD", "phase2hpc", "--version"]
    said = engine.run("podman", "run", "--rm", "--no-healthcheck", image, "--version")
    assert said == f"phase2hpc {phase2hpc.__version__}\n"


def test_only_pinned_packages_and_no_build_tools(engine: Engine, image: str) -> None:
    script = """
cat /opt/phase2hpc/packages.txt
echo ---
for tool in gcc cc make git hatchling; do command -v $tool; done
ls -Ad /root/.cache /build /tmp/* /opt/phase2hpc/bin/pip 2>/dev/null
find / -xdev -name '*.whl' -not -path '*/ensurepip/*' -not -path '/usr/share/python-wheels/*'
exit 0
"""
    said = engine.run(
        "podman", "run", "--rm", "--no-healthcheck", "--user", "0", "--entrypoint", "sh", image,
        "-c", script,
    )  # fmt: skip
    packages, _, left_over = said.partition("---\n")
    installed = {_normal(line) for line in packages.splitlines()}
    assert installed - pinned() == {f"phase2hpc=={phase2hpc.__version__}"}
    assert len(installed) > 60 and left_over == ""


def test_a_code_change_is_built_quickly_and_changes_no_package(
    engine: Engine, image: str, label: dict[str, str], tmp_path: Path
) -> None:
    for name in ("phase2hpc", "data/examples", "jobs", "models/pretrained"):
        shutil.copytree(ROOT / name, tmp_path / name)
    names = ("Dockerfile", ".dockerignore", "pyproject.toml", "constraints.txt", "README.md",
             "LICENSE", "data/README.md", "data/jarvis_dft3d_15k.jsonl.gz")  # fmt: skip
    for name in names:
        shutil.copy(ROOT / name, tmp_path / name)
    with (tmp_path / "phase2hpc" / "errors.py").open("a") as file:
        file.write("\nCHANGED = True\n")
    began = time.monotonic()
    engine.build(tmp_path, "localhost/phase2hpc:changed", **label)
    seconds = time.monotonic() - began
    python = ("podman", "run", "--rm", "--no-healthcheck", "--entrypoint")
    changed = engine.run(
        *python, "python3", "localhost/phase2hpc:changed", "-c",
        "from phase2hpc import errors; print(errors.CHANGED)",
    )  # fmt: skip
    assert changed == "True\n"
    lists = [
        engine.run(*python, "cat", tag, "/opt/phase2hpc/packages.txt")
        for tag in (image, "localhost/phase2hpc:changed")
    ]
    assert lists[0] == lists[1]
    print(f"a code change was built in {seconds:.0f} s")
    # Dependencies installed anew take minutes.
    assert seconds < 90


# ---- the main job ----------------------------------------------------------------------------


def test_train_and_predict_as_the_caller(engine: Engine, image: str, work: Path, label) -> None:
    """Nothing but the mounted folder is written, and all in it is the caller's."""
    engine.run(
        *podman(image, work, "train", *WORDS, "--store", "data/tiny.h5", "--run-id", "one",
                options=("--env", "PHASE2HPC_IMAGE_DIGEST=sha256:12")),
        timeout=300,
    )  # fmt: skip
    examples = ROOT / "data" / "examples"
    engine.run(
        *podman(image, work, "predict", "--dir", "/examples", "--output", "preds.csv",
                options=("--volume", f"{examples}:/examples:ro")),
        timeout=300,
    )  # fmt: skip
    rows = (work / "preds.csv").read_text().splitlines()[1:]
    assert len(rows) == len(list(examples.iterdir())) and all(",ok," in row for row in rows)
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in work.rglob("*")}
    assert owners == {CALLER}
    manifest = the_run(work, "one").read_manifest()
    assert manifest.state == "finished" and manifest.image is not None
    assert manifest.image.revision == label["REVISION"]
    assert manifest.image.created == label["CREATED"]
    assert manifest.image.variant == "cpu" and manifest.image.digest == "sha256:12"
    listed = engine.run("podman", "run", "--rm", "--no-healthcheck", "--entrypoint", "cat", image,
                        "/opt/phase2hpc/packages.txt")  # fmt: skip
    assert manifest.image.packages == listed.split()


def test_what_is_not_mounted_or_not_the_users(engine: Engine, image: str, tmp_path: Path) -> None:
    """A result that goes with the container, input that it does not see, and a folder that the
    image's user cannot write to."""
    (tmp_path / "roots").mkdir()
    roots = ("--volume", f"{tmp_path / 'roots'}:/work")
    examples = ("--volume", f"{ROOT / 'data' / 'examples'}:/examples:ro")
    for options, folder, code, said in (
        ((), "/examples", 0, "preds.csv is inside of this container and is lost when it ends"),
        ((), "/mine", 2, "/mine: no such folder in this container (is its folder mounted?)"),
        (roots, "/examples", 2, "let this container's user 1000:1000 write there (docker --user"),
    ):
        done = subprocess.run(
            ["podman", "run", "--rm", "--no-healthcheck", *examples, *options, image,
             "predict", "--dir", folder, "--output", "preds.csv"],
            env=engine.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=120,
        )  # fmt: skip
        assert done.returncode == code and said in done.stderr, done.stderr


def test_ended_in_a_container_and_resumed(engine: Engine, image: str, work: Path) -> None:
    """Killed, then resumed in another container; stopped, then resumed by the phase2hpc of this
    machine. Where both have the same torch, all runs are the same, bit by bit."""
    train = ("train", *WORDS, "--store", "data/tiny.h5")
    resume = ("train", "--algorithm", "e3nn", "--level", "lite", "--resume", "--threads", "1")
    engine.run(*podman(image, work, *train, "--run-id", "undisturbed"), timeout=300)
    # Its state saved: 75. Killed: as a shell says it.
    for name, ending, code in (("again", "KILL", 128 + signal.SIGKILL), ("outside", "TERM", 75)):
        slow = ("--volume", f"{SLOWLY}:/slowly:ro", "--env", "PYTHONPATH=/slowly",
                "--env", "STEP_SECONDS=0.4", "--name", f"ended-{name}")  # fmt: skip
        running = subprocess.Popen(
            podman(image, work, *train, "--run-id", name, options=slow), env=engine.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _wait_for_epoch(the_run(work, name), 2, running)
        engine.run("podman", "kill", "--signal", ending, f"ended-{name}")
        assert running.wait(60) == code
    run = the_run(work, "again")
    assert run.read_manifest().state == "running" and run.lease.exists()
    engine.run(*podman(image, work, *resume, "--run-id", "again"), timeout=300)
    reference = the_run(work, "undisturbed")
    assert_same_run(run, reference)

    outside = the_run(work, "outside")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [PHASE2HPC, *resume, "--run-id", "outside", "--store", "data/tiny.h5"], cwd=work,
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    manifest = outside.read_manifest()
    assert manifest.state == "finished" and manifest.image is None
    if manifest.versions == reference.read_manifest().versions:
        assert_same_run(outside, reference)
    else:
        scores = (manifest.best_score, reference.read_manifest().best_score)
        assert scores[0] == pytest.approx(scores[1], rel=0.05)


def _wait_for_epoch(run: RunDirectory, epoch: int, running: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 180
    while not (run.history.exists() and len(json.loads(run.history.read_text())) >= epoch):
        assert running.poll() is None, "it ended too early"
        assert time.monotonic() < deadline, f"epoch {epoch} was not reached"
        time.sleep(0.2)
