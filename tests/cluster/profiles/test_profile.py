"""Site profiles: what is read, what is refused with one clear line, and where they are found."""

import subprocess
import sys
from pathlib import Path

import pytest
from profile_table import fields_table

from phase2hpc.cluster.profiles.fields import parse_hours
from phase2hpc.cluster.profiles.profile import (
    FOLDERS_VARIABLE,
    Profile,
    find_profile,
    portable_name,
    profiles_table,
    read_profile,
)
from phase2hpc.errors import InputError
from phase2hpc.utils.package_files import shared_path

FULL = """
description: everything
extends: slurm-cpu
partition: gpu,gpu-long
account: 0123
qos: on
constraint: "[rack1|rack2]&nvme"
reservation: course
job_name: mine
gpu_request: gpus-per-node
cpu_request: cpus-per-gpu
memory_request: mem-per-gpu
gpu_type: a100
cpus: 4
memory_gb: 512M
gpus: 2
nodes: 2
hours: 12:30:00
hours_per_level: {std: 12, pro: 1-12}
array_parallelism: 4
requeue: false
dependency: singleton
max_hours: 2-00:00:00
max_nodes: 4
max_gpus_per_node: 4
max_memory_gb: 1.5T
max_cpus: 64
setup: |
  module load cuda
  source ~/env/bin/activate
teardown: [rm -rf "$TMPDIR"]
python: ~/env/bin/python
environment:
  OMP_NUM_THREADS: 4
  CACHE: $SCRATCH/cache
container:
  image: ${SCRATCH}/image.sif
  runtime: singularity
  binds: [/data, "/a:/b:ro"]
  options: [--cleanenv]
  nv: no
signal_seconds: 60
sbatch: {exclusive: true, mail_user: me@example.org, comment: , nice: false}
srun: [--mpi=none]
"""


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """``profile(text)`` reads a profile of that text, in the working directory."""
    monkeypatch.chdir(tmp_path)

    def read(text):
        Path("mine.yaml").write_text(text)
        return read_profile(Path("mine.yaml"))

    return read


def test_every_field_is_read_as_what_it_is(profile, monkeypatch):
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.setenv("HOME", "/home/me")
    read = profile(FULL)
    assert read.model_fields_set == set(Profile.model_fields) - {"executor"}
    assert (read.account, read.qos, read.constraint) == ("0123", "on", "[rack1|rack2]&nvme")
    assert (read.memory_gb, read.max_memory_gb) == (0.5, 1536)
    assert (read.hours, read.max_hours) == (12.5, 48)
    assert read.setup == ("module load cuda", "source ~/env/bin/activate")
    assert read.python == "/home/me/env/bin/python"
    assert read.environment == {"OMP_NUM_THREADS": "4", "CACHE": "/scratch/me/cache"}
    assert read.container.image == "/scratch/me/image.sif"
    assert read.container.nv is False
    assert read.hours_per_level == {"std": 12, "pro": 36} and read.requeue is False
    assert (read.at_level("pro").hours, read.at_level("max").hours) == (36, 12.5)
    assert read.sbatch == {
        "exclusive": True, "mail-user": "me@example.org", "comment": True, "nice": False,
    }  # fmt: skip


def test_nothing_need_be_said(profile):
    assert profile("") == profile("# nothing\npartition:\n") == Profile()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("partion: x", "unknown field 'partion': did you mean 'partition'?"),
        ("clusters: west", "field 'clusters': status and cancel would not find the job; choose"),
        ("container: {imag: x}", "unknown field 'imag': did you mean 'image'?"),
        ("container: {runtime: docker}", "field 'container.image' is missing"),
        ("container: x.sif", "field 'container' = 'x.sif': must hold 'name: value' pairs"),
        ("executor: slrum", "field 'executor' = 'slrum': input should be 'slurm' or 'local'"),
        ("cpus: four", "field 'cpus' = 'four': input should be a valid integer"),
        ("gpus: -1", "field 'gpus' = '-1': input should be greater than or equal to 0"),
        ("hours: inf", "field 'hours' = 'inf': input should be a finite number"),
        ("hours: 12:30", "field 'hours' = '12:30': ambiguous (minutes and seconds, or hours"),
        ("hours: 48\nmax_hours: 24", "hours 2-00:00:00 is above max_hours 1-00:00:00"),
        ("executor: local\npartition: x", "partition: has no effect with 'executor: local'"),
        ("srun: --mpi=none", "field 'srun' = '--mpi=none': write a list"),
        ("environment: {1A: x}", "is not the name of an environment variable"),
        ("container: {image: x, binds: [data]}", "write a bind as /on/the/node"),
        ("hours_per_level: {stdd: 1}", "unknown level 'stdd': did you mean 'std'?"),
        (
            "hours_per_level: {std: 48}\nmax_hours: 24",
            "hours_per_level.std 2-00:00:00 is above max_hours",
        ),
        ("requeue: perhaps", "field 'requeue' = 'perhaps': input should be a valid boolean"),
        ("dependency: afterok:7", "field 'dependency' = 'afterok:7': input should be 'singleton'"),
        ("memory_gb: -1", "field 'memory_gb' = '-1': input should be greater than or equal to 0"),
        ("max_memory_gb: 0", "field 'max_memory_gb' = '0': input should be greater than 0"),
        ("memory_gb: 0\nmemory_request: mem-per-cpu", "memory_gb 0 means all of a node's memory"),
        ("memory_gb: 4\nmemory_request: none", "memory_gb has no effect with 'memory_request: no"),
        ("cpus: 4\ncpu_request: none", "cpus has no effect with 'cpu_request: none'"),
        (
            "memory_request: mem-per-cpu\ncpu_request: none",
            "memory_request mem-per-cpu needs cores",
        ),
        ("gpu_type: a100\ngpu_request: none", "gpu_type has no effect with 'gpu_request: none'"),
        (
            "sbatch: {partition: x}",
            "'partition' is set by the profile's field partition, or --part",
        ),
        ("sbatch: {no-requeue: }", "'no-requeue' is set by the profile's field requeue"),
        ("sbatch: {array: 0-9}", "'array' is set by phase2hpc"),
        ("sbatch: {p: x}", "'p' is not a long option of sbatch"),
    ],
)
def test_a_wrong_field_is_one_line(profile, text, line):
    with pytest.raises(InputError) as caught:
        profile(text)
    message = str(caught.value)
    assert message.startswith("mine.yaml: ") and line in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "text",
    [
        'partition: "a\\nb"',
        "partition: $(reboot)",
        "account: a b",
        "qos: --help",
        "constraint: a;b",
        "gpu_type: a`b`",
        'sbatch: {comment: "a\\n#SBATCH --uid=0"}',
        'sbatch: {"a=b\\nc": x}',
        "python: $(reboot)",
        'python: "/bin/python\\nreboot"',
        "environment: {A: '`reboot`'}",
        "container: {image: $(reboot).sif}",
        "container: {image: x, options: ['$(reboot)']}",
        'srun: ["--x\\ty"]',
        'setup: ["a\\nb"]',
    ],
)
def test_nothing_gets_into_the_script_by_the_back_door(profile, text):
    with pytest.raises(InputError, match=r"^mine\.yaml: field '\w+"):
        profile(text)


def test_a_profile_that_extends_another(profile, tmp_path):
    Path("site.yaml").write_text(
        "partition: gpu\naccount: chem\nmax_hours: 24\nsetup: [module load cuda]\n"
        "signal_seconds: 60\nenvironment: {A: 1, B: 2}\nsbatch: {exclusive: true, nice: 5}\n"
    )
    Path("sub").mkdir()
    Path("sub/long.yaml").write_text("extends: ../site.yaml\nmax_hours: 48\nenvironment: {B: 3}\n")
    read = profile(
        "extends: sub/long.yaml\naccount:\nsetup: [module load rocm]\nsignal_seconds:\n"
        "sbatch: {exclusive: false}\n"
    )
    assert (read.partition, read.account, read.max_hours) == ("gpu", None, 48)
    assert (read.setup, read.signal_seconds) == (("module load rocm",), 120)
    assert read.environment == {"A": "1", "B": "3"}
    assert read.sbatch == {"exclusive": False, "nice": "5"}
    assert profile("extends: slurm-gpu").gpus == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("extends: slurm-gpuu", "mine.yaml: extends: unknown profile 'slurm-gpuu': did you mean"),
        ("extends: ./gone.yaml", "mine.yaml: extends: profile gone.yaml: no such file"),
        (
            "extends: mine.yaml",
            "mine.yaml: extends: a profile cannot extend itself (mine.yaml -> m",
        ),
        (
            "extends: back.yaml",
            "back.yaml: extends: a profile cannot extend itself (mine.yaml -> ba",
        ),
        ("extends: wrong.yaml", "wrong.yaml: unknown field 'partion'"),
        ("extends: short.yaml\nhours: 2", "mine.yaml: hours 2:00:00 is above max_hours 1:00:00"),
        ("extends: [a]", "mine.yaml: field 'extends' = ['a']: input should be a valid string"),
    ],
)
def test_a_profile_that_cannot_extend_another(profile, text, line):
    Path("back.yaml").write_text("extends: mine.yaml\n")
    Path("wrong.yaml").write_text("partion: x\n")
    Path("short.yaml").write_text("max_hours: 1\n")
    with pytest.raises(InputError) as caught:
        profile(text)
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


def test_an_unset_variable_is_named(profile, monkeypatch):
    monkeypatch.delenv("SCRATCH", raising=False)
    with pytest.raises(InputError, match="the variable SCRATCH is not set"):
        profile("container: {image: $SCRATCH/x.sif}")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("cpus: 1\n\ngpus: 1\ncpus: 2", r"mine\.yaml, line 4: 'cpus' is a duplicate key"),
        ("container:\n  image: a\n  image: b", r"mine\.yaml, line 3: 'image' is a duplicate key"),
        ("partition: gpu\nsetup: [a", r"mine\.yaml, line 2: expected ',' or '\]'"),
        ("a: &a [x, x]\nb: *a", r"mine\.yaml, line 1: anchors and aliases"),
        ("constraint: *", r"mine\.yaml, line 1:"),
        ("cpus: !!python/object/apply:os.getpid []", r"mine\.yaml, line 1: could not determine"),
        ("? [a]\n: b", r"mine\.yaml, line 1: expected a field name"),
        ("- gpu", r"mine\.yaml: not a profile: it must have lines of 'field: value'"),
        ("\0", r"mine\.yaml: not YAML"),
        ("[" * 20_000, r"mine\.yaml: nested too deeply"),
        ("#" * 70_000, r"mine\.yaml: larger than 64 KiB"),
    ],
)
def test_what_is_no_profile_is_refused_with_its_line(profile, text, line):
    with pytest.raises(InputError, match=line):
        profile(text)


@pytest.mark.parametrize(
    ("text", "hours"),
    [("1-12", 36), ("0-00:30", 0.5), ("1:00:00", 1), ("2", 2), ("1.5", "1.5"), (3, 3)],
)
def test_hours_as_slurm_writes_them(text, hours):
    assert parse_hours(text) == hours


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The folders in which profiles are found by name, in their order; the last is shipped."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv(FOLDERS_VARIABLE, f"{tmp_path / 'one'}:{tmp_path / 'two'}")
    paths = [tmp_path / part for part in ("jobs", "one", "two", "config/phase2hpc/jobs")]
    for path in paths:
        path.mkdir(parents=True)
    return paths


def test_the_first_folder_that_has_the_name_wins(folders):
    assert find_profile("slurm-gpu").description == "Slurm, one GPU"
    for folder in reversed(folders):
        (folder / "slurm-gpu.yaml").write_text(f"description: of {folder.name}")
        assert find_profile("slurm-gpu").description == f"of {folder.name}"
    table = profiles_table()
    assert table.count("slurm-gpu  ") == 1
    assert f"of jobs (hides {folders[1] / 'slurm-gpu.yaml'}" in table


def test_a_path_is_a_path(folders):
    (folders[0] / "mine.yml").write_text("cpus: 3")
    for name in ("mine", "jobs/mine.yml", str(folders[0] / "mine.yml")):
        assert find_profile(name).cpus == 3
    with pytest.raises(InputError, match=r"profile mine\.yml: no such file"):
        find_profile("mine.yml")


def test_what_a_profile_is_called_from_another_folder(folders, monkeypatch):
    """By its name only where that means it everywhere."""
    monkeypatch.setenv("HOME", str(folders[1]))
    for folder in (folders[0], folders[1]):
        (folder / f"in-{folder.name}.yaml").touch()
    for name, expected in (
        ("slurm-gpu", "slurm-gpu"),
        ("in-one", "in-one"),
        ("in-jobs", folders[0] / "in-jobs.yaml"),
        ("./jobs/in-jobs.yaml", folders[0] / "in-jobs.yaml"),
        ("~/in-one.yaml", folders[1] / "in-one.yaml"),
    ):
        assert portable_name(name) == str(expected)


def test_an_unknown_name_brings_the_nearest(folders):
    with pytest.raises(InputError, match="unknown profile 'slurm-gpuu': did you mean 'slurm-gpu'"):
        find_profile("slurm-gpuu")
    with pytest.raises(InputError, match=r"valid are .*local.*looked in jobs, .*one"):
        find_profile("zzz")


def test_a_broken_profile_does_not_hide_the_others(folders):
    (folders[0] / "broken.yaml").write_text("partion: x")
    table = profiles_table()
    assert "invalid: jobs/broken.yaml: unknown field 'partion'" in table
    assert "slurm-cpu" in table


@pytest.mark.parametrize("path", sorted(shared_path("jobs").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_profiles_are_valid_also_with_what_they_suggest(path, tmp_path, monkeypatch):
    monkeypatch.setenv("USER", "me")
    page = (path.parent / "README.md").read_text()
    assert f"| [{path.stem}]({path.name}) | {read_profile(path).description}" in page
    # Suggestions are commented out: '# field: value' or, under it, '#   - item'.
    lines = [line.replace("# ", "", 1) for line in path.read_text().splitlines()]
    whole = tmp_path / path.name
    whole.write_text("\n".join(line for line in lines if _is_yaml(line)))
    read = read_profile(whole)
    assert (read.executor == "local") != (read.partition is not None)


def _is_yaml(line):
    name = line.strip().partition(":")[0]
    return line.strip().startswith("- ") or name in (*Profile.model_fields, "image", "binds")


def test_the_page_has_every_field_and_its_example_is_valid(tmp_path, monkeypatch):
    page = (shared_path("jobs") / "README.md").read_text()
    assert page.endswith(f"## Every field\n\n{fields_table()}\n")
    example = page.partition("```yaml\n")[2].partition("```")[0]
    file = tmp_path / "example.yaml"
    file.write_text("".join(line.removeprefix("    ") + "\n" for line in example.splitlines()))
    monkeypatch.setenv("HOME", "/home/me")
    read = read_profile(file)
    assert read.environment == {"PHASE2HPC_CACHE": "/home/me/scratch/cache"}
    assert read.sbatch["exclusive"] is True


def test_a_login_node_needs_nothing_heavy():
    program = (
        "import sys; import phase2hpc.cluster.profiles.profile, phase2hpc.cluster.slurm.jobs;"
        "import phase2hpc.runs.prune;"
        "print([m for m in ('numpy', 'torch', 'h5py', 'submitit') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
