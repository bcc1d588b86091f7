"""Spaces of settings: what is read from a file's content, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from phase2hpc.config.run_config import RunConfig, build_config
from phase2hpc.errors import InputError
from phase2hpc.training.tuning.space import Range, Space, parse_space


def parsed(algorithm: str = "e3nn", **content: Any) -> Space:
    return parse_space(content, "s.yaml", algorithm, {"epochs": 3})


@pytest.fixture
def config() -> RunConfig:
    return build_config("e3nn", "lite", ["band_gap"], {"epochs": 3}, seed=5)


def test_kinds_follow_from_the_settings() -> None:
    space = parsed(
        lr={"low": "1e-4", "high": "1e-2", "log": "true"},
        layers={"low": "1", "high": 3.0},
        weight_decay={"low": 0, "high": 1, "step": "0.25"},
        patience={"low": 2, "high": 4},
        channels=[["8", "4"], "16,8,4"],
        element_descriptors=[True, False],
        max_samples=["none", 50],
    )
    found = space.choices
    assert found["lr"] == Range(low=1e-4, high=1e-2, log=True)
    layers, decay, patience = found["layers"], found["weight_decay"], found["patience"]
    assert isinstance(layers, Range) and isinstance(layers.high, int) and layers.is_integer
    assert isinstance(decay, Range) and isinstance(decay.low, float) and decay.step == 0.25
    assert isinstance(patience, Range) and patience.is_integer
    assert found["channels"] == ("8,4", "16,8,4")
    assert found["element_descriptors"] == ("true", "false")
    assert found["max_samples"] == ("none", "50")
    # As it travels to the jobs.
    again = Space.model_validate_json(space.model_dump_json())
    assert again == space and again.lines() == space.lines()
    assert {type(range.low) for range in again.choices.values() if isinstance(range, Range)} == {
        int, float,
    }  # fmt: skip
    assert space.lines()[:2] == [
        "lr: numbers from 0.0001 to 0.01, log", "layers: whole numbers from 1 to 3",
    ]  # fmt: skip


def test_chosen_values_come_over_those_of_all_runs(config: RunConfig) -> None:
    space = parsed(lr={"low": 1e-4, "high": 1e-2}, channels=["8,4", "4"], preset=["small", "large"])
    chosen = space.config_with(config, {"lr": 0.005, "channels": "8,4", "preset": "large"})
    large = build_config("e3nn", "lite", ["band_gap"], {"preset": "large"})
    assert chosen.model.model_dump() == large.model.model_dump() | {"channels": (8, 4)}
    assert (chosen.training.lr, chosen.training.epochs, chosen.seed) == (0.005, 3, 5)
    assert chosen.runtime == config.runtime
    longer = config.training.model_copy(update={"epochs": 9, "max_edges": 500})
    resumed = space.config_with(config.model_copy(update={"training": longer}), {"lr": 0.005})
    assert (resumed.training.lr, resumed.training.epochs) == (0.005, 9)
    assert resumed.training.max_edges == 500
    limits = list(space.configs_at_limits(config))
    assert [one.training.lr for one in limits[:2]] == [1e-4, 1e-2] and len(limits) == 6


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "no setting to choose"),
        ({"lrr": [1, 2]}, "unknown setting 'lrr': did you mean 'lr'?"),
        ({"seed": [1, 2]}, "seed: only settings of the model and the training"),
        ({"properties": ["core4", "all9"]}, "properties: only settings of the model"),
        ({"threads": [1, 2]}, "threads: only settings of the model and the training"),
        ({"epochs": [1, 2]}, "epochs: --epochs is given too"),
        ({"batch-size": [4, 8], "batch_size": [4, 8]}, "batch_size: given twice"),
        ({"lr": "1e-3"}, "lr: give a list of values, or a range"),
        ({"lr": ["1e-3"]}, "lr: 1 values: give 2 to 100"),
        ({"lr": ["1e-3", "1e-3"]}, "lr: the same value twice"),
        ({"lr": [["1e-3"], "2"]}, "lr: a value is a list or a mapping"),
        ({"lr": {"low": 1, "hihg": 2}}, "lr: unknown key 'hihg': did you mean 'high'?"),
        ({"lr": {"low": 1}}, "lr: a range needs low and high: high is missing"),
        ({"lr": {"low": "a", "high": 2}}, "lr: low: 'a' is not a number"),
        ({"lr": {"low": True, "high": 2}}, "lr: low: True is not a number"),
        ({"lr": {"low": "nan", "high": 2}}, "lr: low: 'nan' is not a number"),
        ({"layers": {"low": 1, "high": 2.5}}, "layers: high: 2.5 is not a whole number"),
        ({"lr": {"low": 2, "high": 1}}, "lr: low must be below high"),
        ({"lr": {"low": 0, "high": 1, "log": True}}, "lr: a logarithmic range has limits above 0"),
        ({"lr": {"low": 1, "high": 2, "log": "yes"}}, "lr: log: give true or false"),
        ({"lr": {"low": 1, "high": 2, "log": True, "step": 1}}, "lr: log and step: give one"),
        ({"layers": {"low": 1, "high": 3, "step": 5}}, "layers: step must be above 0 and at most"),
        ({"precision": {"low": 1, "high": 3}}, "precision: takes no numbers"),
        ({"channels": {"low": 1, "high": 3}}, "channels: takes no numbers"),
    ],
)
def test_what_is_no_space(content: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match="^s.yaml: [^\n]*$") as refused:
        parse_space(content, "s.yaml", "e3nn", {"epochs": 3})
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [{"lr": {"low": 1e-3, "high": 2}}, {"channels": ["8,x", "4"]}, {"preset": ["small", "huge"]}],
)
def test_values_that_their_setting_refuses(content: dict[str, Any], config: RunConfig) -> None:
    with pytest.raises(InputError):
        list(parsed(**content).configs_at_limits(config))
