"""Algorithms of installed packages: found by name, and a broken one affects no other."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from phase2hpc.config import plugins
from phase2hpc.config.algorithm_registry import algorithm_named, algorithms
from phase2hpc.config.algorithms import ALGORITHMS
from phase2hpc.config.run_config import build_config
from phase2hpc.errors import InputError
from phase2hpc.runs.run_directory import family_folder

# A whole plug-in, but for the lines that a test changes.
MODULE = """
from phase2hpc.config.algorithms import Algorithm, CGCNNSettings, Level, Resources

class Settings(CGCNNSettings):
    pass

MINE = Algorithm(
    name="mine",
    encoder="phase2hpc.models.cgcnn:CGCNNEncoder",
    settings=Settings,
    presets={"small": {"hidden": 8, "layers": 1}},
    levels={"lite": Level("small", {"epochs": 1, "batch_size": 8, "lr": 1e-2},
                          Resources(hours=0.1, cpus=1, memory_gb=1, gpus=0), "core4")},
)
"""
Install = Callable[..., None]


def forget() -> None:
    plugins.plugin_entry_points.cache_clear()
    algorithm_named.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """``install("dist", "mine", source)`` puts a distribution with this module on the path."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    modules: list[str] = []

    def add(
        distribution: str = "mine-plugin",
        name: str = "mine",
        source: str = MODULE,
        value: str | None = None,
    ) -> None:
        module = distribution.replace("-", "_")
        modules.append(module)
        (site / f"{module}.py").write_text(source)
        info = site / f"{module}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n"
        )
        (info / "entry_points.txt").write_text(
            f"[{plugins.GROUP}]\n{name} = {value or f'{module}:MINE'}\n"
        )
        forget()

    yield add
    forget()
    for module in modules:
        sys.modules.pop(module, None)


def test_a_plugin_is_an_algorithm_like_any_other(install: Install, command: Any) -> None:
    install()
    assert algorithm_named("mine").provider == "mine-plugin 1.2"
    assert list(algorithms()[0]) == [*ALGORITHMS, "mine"] and not algorithms()[1]
    config = build_config("mine", "lite", ["band_gap"], {"hidden": 4})
    assert (config.model.layers, config.training.epochs) == (1, 1)
    assert type(config).from_json(config.to_json(), "here") == config
    assert family_folder("mine", "lite") == "multitask_lite_mine"
    code, out, err = command("levels", "--settings")
    assert code == 0 and not err
    assert [line.split()[:2] for line in out.splitlines() if line.startswith("mine")] == [
        ["mine", "lite"]
    ]
    assert ["hidden", "mine", "8"] in [line.split()[:3] for line in out.splitlines()]
    for name in ("train", "submit"):
        assert "e3nn, cgcnn or mine." in command(name, "--help")[1]


@pytest.mark.parametrize(
    ("level", "words"),
    [
        ("std", "algorithm 'mine' has no level 'std', only lite"),
        ("lit", "unknown level 'lit': did you mean 'lite'?"),
    ],
)
def test_a_level_that_it_does_not_have(
    level: str, words: str, install: Install, command: Any
) -> None:
    install()
    code, out, err = command("train", "--algorithm", "mine", "--level", level)
    assert (code, out, err) == (2, "", f"phase2hpc: {words}\n")


def test_a_near_miss_of_a_plugins_name(install: Install) -> None:
    install()
    with pytest.raises(InputError, match="unknown algorithm 'mien': did you mean 'mine'"):
        algorithm_named("mien")


def changed(old: str, new: str) -> tuple[str, dict[str, str]]:
    assert old in MODULE
    return MODULE.replace(old, new), {}


BROKEN: dict[str, tuple[str, dict[str, str]]] = {
    "cannot be loaded from .*No module named 'no_such_package'": ("import no_such_package", {}),
    "cannot be loaded from .*SyntaxError": ("def (", {}),
    "cannot be loaded from .*has no attribute 'MINE'": ("", {}),
    "cannot be loaded from .*SystemExit": ("import sys; sys.exit('no licence')", {}),
    "cannot be loaded from .*RuntimeError: first": ("raise RuntimeError('first\\nsecond')", {}),
    "its entry point is of type dict, not an Algorithm": ("MINE = {}", {}),
    "named 'other', the algorithm 'mine'": (MODULE, {"name": "other"}),
    "has a level 'huge'; levels are smoke, lite": changed('"lite": L', '"huge": L'),
    "level 'lite': no preset 'medium'": changed('Level("small"', 'Level("medium"'),
    "level 'lite': setting 'epochs' = 0": changed('"epochs": 1', '"epochs": 0'),
    "level 'lite': unknown setting 'epoch'": changed('"epochs": 1', '"epochs": 1, "epoch": 1'),
    "level 'lite': setting 'lr' is missing": changed(', "lr": 1e-2', ""),
    "preset 'small': unknown setting 'hiden'": changed('"hidden": 8', '"hidden": 8, "hiden": 8'),
    "it has no level or no preset": changed('{"small": {"hidden": 8, "layers": 1}}', "{}"),
    "its setting 'lr' has the name of a training": changed("    pass", "    lr: int = 1"),
    "folder 'x' is not one folder name": changed("    presets", '    folder="x",\n    presets'),
    "folder 'multitask_{level}_e3nn' is not one": changed(
        "    presets", '    folder="multitask_{level}_e3nn",\n    presets'
    ),
    "folder '../{level}' is not one": changed(
        "    presets", '    folder="../{level}",\n    presets'
    ),
}


@pytest.mark.parametrize("words", BROKEN)
def test_a_broken_plugin_is_one_line_and_affects_no_other(
    words: str, install: Install, command: Any
) -> None:
    source, options = BROKEN[words]
    install("broken-one", source=source, **options)
    install("mine-too", "fine", MODULE.replace('name="mine"', 'name="fine"'))
    name = options.get("name", "mine")
    with pytest.raises(InputError, match=words) as caught:
        algorithm_named(name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"algorithm '{name}' of broken-one 1.2: ")
    assert algorithm_named("fine").name == "fine"
    code, out, err = command("levels")
    assert code == 0 and err == f"phase2hpc: {caught.value}\n"
    assert {line.split()[0] for line in out.splitlines()[2:]} == {*ALGORITHMS, "fine"}
    code, out, err = command("train", "--algorithm", name, "--level", "lite")
    assert (code, out, err) == (2, "", f"phase2hpc: {caught.value}\n")


def test_a_built_in_name_cannot_be_taken(install: Install) -> None:
    install(name="e3nn", source=MODULE.replace('name="mine"', 'name="e3nn"'))
    assert algorithm_named("e3nn") is ALGORITHMS["e3nn"]
    found, problems = algorithms()
    assert found == ALGORITHMS and len(problems) == 1 and "is built in" in problems[0]


def test_two_plugins_of_one_name(install: Install) -> None:
    install("first")
    install("second")
    with pytest.raises(InputError, match="of (first 1.2 and second|second 1.2 and first) 1.2: reg"):
        algorithm_named("mine")


def test_doctor_names_plugins(install: Install) -> None:
    from phase2hpc.cluster.doctor.algorithms import algorithm_checks

    install()
    install("broken-one", "gone", value="nowhere:NOTHING")
    good, bad = algorithm_checks()
    assert good.status == "ok" and "e3nn, cgcnn, mine (mine-plugin 1.2)" in str(good)
    assert bad.status == "warn" and "broken-one 1.2" in str(bad)


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        ("nowhere:Encoder", "cannot be imported"),
        ("phase2hpc.models.cgcnn:NoEncoder", "cannot be imported"),
        ("mine_plugin:OldInterface", "cannot be made (TypeError: "),
        ("mine_plugin:NoModule", "is not a torch.nn.Module"),
        ("mine_plugin:NoFeatures", "has no 'out_features'"),
    ],
)
def test_what_is_no_encoder(encoder: str, words: str, install: Install) -> None:
    from phase2hpc.data.graph import GraphSettings
    from phase2hpc.models.encoder import make_encoder

    source = MODULE.replace("phase2hpc.models.cgcnn:CGCNNEncoder", encoder) + (
        "from torch import nn\n"
        "class NoModule:\n    def __init__(self, settings, graph): pass\n"
        "class OldInterface(nn.Module):\n    def __init__(self, *, cutoff): super().__init__()\n"
        "class NoFeatures(nn.Module):\n    def __init__(self, settings, graph): "
        "super().__init__()\n"
    )
    install(source=source)
    algorithm = algorithm_named("mine")
    settings = algorithm.settings.model_validate(algorithm.presets["small"])
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        make_encoder(algorithm, settings, GraphSettings())
    assert "mine-plugin 1.2" in str(caught.value) and "\n" not in str(caught.value)
