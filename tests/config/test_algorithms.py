"""Levels and presets against the operation manual's table: these numbers are not ours to change."""

import subprocess
import sys

import pytest

from phase2hpc.cli.level_tables import level_table, settings_table
from phase2hpc.config.algorithms import ALGORITHMS, LEVEL_NAMES
from phase2hpc.config.run_config import build_config
from phase2hpc.runs.run_directory import family_folder

# algorithm, level: preset, epochs, batch size, learning rate, training crystals, properties, folder
MANUAL = {
    ("e3nn", "smoke"): ("medium", 5, 8, 2e-3, 800, "core4", "multitask_smoke_e3nn"),
    ("e3nn", "lite"): ("small", 2, 4, 1e-2, 100, "core4", "multitask_lite_e3nn"),
    ("e3nn", "std"): ("medium", 100, 16, 1e-3, None, "priority7", "multitask_std_e3nn"),
    ("e3nn", "pro"): ("large", 500, 4, 5e-4, None, "priority7", "multitask_pro_e3nn"),
    ("e3nn", "max"): ("large", 800, 4, 3e-4, None, "priority7", "multitask_max_e3nn"),
    ("cgcnn", "smoke"): ("small", 5, 64, 1e-3, 800, "core4", "multitask_cgcnn_smoke"),
    ("cgcnn", "lite"): ("small", 40, 96, 1e-3, 3000, "core4", "multitask_cgcnn_lite"),
    ("cgcnn", "std"): ("medium", 200, 128, 1e-3, None, "priority7", "multitask_cgcnn_std"),
    ("cgcnn", "pro"): ("large", 300, 128, 1e-3, None, "priority7", "multitask_cgcnn_pro"),
    ("cgcnn", "max"): ("large", 500, 160, 7e-4, None, "priority7", "multitask_cgcnn_max"),
}
SIZES = {
    ("e3nn", "small"): {"channels": (16, 8), "layers": 2},
    ("e3nn", "medium"): {"channels": (64, 32, 16), "layers": 3},
    ("e3nn", "large"): {"channels": (128, 64, 32), "layers": 4},
    ("cgcnn", "small"): {"hidden": 64, "layers": 2},
    ("cgcnn", "medium"): {"hidden": 128, "layers": 3},
    ("cgcnn", "large"): {"hidden": 256, "layers": 5},
}


def test_no_row_is_missing_or_new():
    assert {(a, level) for a in ALGORITHMS for level in ALGORITHMS[a].levels} == set(MANUAL)
    assert {(a, preset) for a in ALGORITHMS for preset in ALGORITHMS[a].presets} == set(SIZES)
    assert all(tuple(a.levels) == LEVEL_NAMES for a in ALGORITHMS.values())


@pytest.mark.parametrize(("algorithm", "level"), MANUAL)
def test_the_manuals_numbers_are_in_force(algorithm, level):
    preset, epochs, batch_size, lr, max_samples, properties, folder = MANUAL[algorithm, level]
    row = ALGORITHMS[algorithm].levels[level]
    assert (row.preset, row.properties) == (preset, properties)
    config = build_config(algorithm, level, ["band_gap"])
    training = config.training
    assert (training.epochs, training.batch_size, training.lr) == (epochs, batch_size, lr)
    assert training.max_samples == max_samples
    for key, value in SIZES[algorithm, preset].items():
        assert getattr(config.model, key) == value
    assert family_folder(algorithm, level) == folder


@pytest.mark.parametrize(("algorithm", "preset"), SIZES)
def test_a_preset_can_be_chosen_at_every_level(algorithm, preset):
    for level in LEVEL_NAMES:
        model = build_config(algorithm, level, ["band_gap"], {"preset": preset}).model
        for key, value in SIZES[algorithm, preset].items():
            assert getattr(model, key) == value


def test_resources_grow_with_the_level():
    for algorithm in ALGORITHMS.values():
        hours = [algorithm.levels[level].resources.hours for level in ("std", "pro", "max")]
        assert hours == sorted(hours)
        assert all(level.resources.memory_gb > 0 for level in algorithm.levels.values())
        assert algorithm.levels["smoke"].resources.gpus == 0


def test_the_printed_table_has_every_row_and_its_folder():
    lines = level_table().splitlines()
    assert len(lines) == 2 + len(MANUAL)
    for (algorithm, level), row in MANUAL.items():
        found = [line.split() for line in lines if line.split()[:2] == [algorithm, level]]
        assert len(found) == 1
        epochs, batch_size, folder = str(row[1]), str(row[2]), row[-1]
        assert found[0][2:4] == [epochs, batch_size] and found[0][-1] == folder


def test_the_printed_settings_name_every_setting():
    words = set(settings_table().split())
    config = build_config("e3nn", "std", ["band_gap"])
    for group in (config.model, config.training, config.runtime):
        assert type(group).model_fields.keys() <= words


def test_a_login_node_reads_levels_without_torch_or_numpy():
    program = (
        "import sys, phase2hpc.cli.level_tables, phase2hpc.runs.registry, phase2hpc.cli.main;"
        "print([m for m in ('torch', 'numpy', 'h5py', 'pymatgen', 'gemmi') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
