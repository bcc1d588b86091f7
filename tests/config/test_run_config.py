"""Settings: levels with overrides on top, errors in one line, JSON there and back."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phase2hpc.config.algorithms import ALGORITHMS, LEVEL_NAMES
from phase2hpc.config.level_settings import overrides, preset_of
from phase2hpc.config.run_config import RunConfig, build_config, parse_assignments
from phase2hpc.errors import InputError

ROWS = [(algorithm, level) for algorithm in ALGORITHMS for level in LEVEL_NAMES]


def build(overrides=None, algorithm="e3nn", level="std", **fixed):
    return build_config(algorithm, level, ["band_gap"], overrides, **fixed)


def one_line(call, *words):
    """The InputError that ``call`` raises is one line with these words in it."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


# ---- overrides -------------------------------------------------------------------------------


@pytest.mark.parametrize(("algorithm", "level"), ROWS)
def test_every_number_of_every_level_can_be_overridden(algorithm, level):
    wanted = {"epochs": 3, "batch_size": 7, "lr": 0.125, "max_samples": 50, "layers": 1}
    config = build(wanted, algorithm, level)
    assert {**config.training.model_dump(), **config.model.model_dump()}.items() >= wanted.items()
    untouched = build(None, algorithm, level)
    assert config.training.weight_decay == untouched.training.weight_decay
    assert type(config.model) is ALGORITHMS[algorithm].settings


def test_a_setting_beats_the_preset_whatever_the_order():
    for given_settings in ({"preset": "small", "layers": 9}, {"layers": 9, "preset": "small"}):
        model = build(given_settings).model
        assert (model.channels, model.layers) == ((16, 8), 9)


@pytest.mark.parametrize(
    ("text", "group", "value"),
    [
        ("epochs=12", "training", 12),
        ("lr=3e-4", "training", 3e-4),
        ("max-samples=none", "training", None),
        ("patience=None", "training", None),
        ("compile=true", "training", True),
        ("element_baseline=no", "training", False),
        ("task_weights=equal", "training", "equal"),
        ("channels=32, 16", "model", (32, 16)),
        ("channels=8", "model", (8,)),
        ("log=csv, wandb", "runtime", ("csv", "wandb")),
        ("log=none", "runtime", ()),
        ("threads=2", "runtime", 2),
        ("max_hours=0.5", "runtime", 0.5),
        ("store=x/none.h5", "runtime", Path("x/none.h5")),
    ],
)
def test_text_from_the_command_line_becomes_the_settings_type(text, group, value):
    # At lite max_samples has a value, so that 'none' has one to take away.
    config = build(parse_assignments([text]), level="lite")
    got = getattr(getattr(config, group), text.partition("=")[0].replace("-", "_"))
    assert got == value and type(got) in (type(value), type(Path()))


def test_assignments():
    assert parse_assignments(["a-b = c", "x=1=2", "a-b=d"]) == {"a_b": "d", "x": "1=2"}
    for wrong in ("epochs", "=3", " =3"):
        one_line(lambda wrong=wrong: parse_assignments([wrong]), "key=value", f"'{wrong}'")


def test_what_was_built_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        build().training.lr = 0.5


# ---- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "wrong", "nearest"),
    [
        (lambda: build({"epoch": 3}), "epoch", "'epochs'"),
        (lambda: build({"batchsize": 3}), "batchsize", "'batch_size'"),
        (lambda: build({"chanels": "8"}), "chanels", "'channels'"),
        (lambda: build({"threds": 3}), "threds", "'threads'"),
        (lambda: build({"presett": "small"}), "presett", "'preset'"),
        (lambda: build({"preset": "smal"}), "smal", "'small'"),
        (lambda: build(level="sdt"), "sdt", "'std'"),
        (lambda: build(algorithm="e3n"), "e3n", "'e3nn'"),
        (lambda: build(algorithm="CGCN"), "CGCN", "cgcnn"),
    ],
)
def test_an_unknown_key_names_the_nearest(call, wrong, nearest):
    one_line(call, f"'{wrong}'", nearest)


def test_a_key_like_no_other_is_told_where_all_are():
    one_line(lambda: build({"zzzz": 1}), "'zzzz'", "levels --settings")


def test_settings_of_the_other_algorithm_are_unknown():
    one_line(lambda: build({"channels": "8"}, "cgcnn"), "'channels'")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", "0"),
        ("epochs", "many"),
        ("epochs", "2.5"),
        ("lr", "-1e-3"),
        ("lr", "nan"),
        ("lr", "inf"),
        ("lr", ""),
        ("batch_size", "0"),
        ("max_samples", "0"),
        ("weight_decay", "inf"),
        ("clip_norm", "inf"),
        ("huber_delta", "nan"),
        ("max_hours", "inf"),
        ("precision", "float16"),
        ("task_weights", "learnd"),
        ("dropout", "1"),
        ("layers", "0"),
        ("channels", "64,x"),
        ("channels", "64,-1"),
        ("channels", ""),
        ("device", "gpu"),
        ("threads", "0"),
    ],
)
def test_a_wrong_value_is_one_line_with_its_setting(key, value):
    one_line(lambda: build({key: value}), f"'{key}'")


def test_wrong_seed_and_no_properties():
    one_line(lambda: build(seed=-1), "'seed'")
    one_line(lambda: build_config("e3nn", "std", []), "'properties'")


# ---- JSON ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("algorithm", "level"), ROWS)
def test_json_there_and_back(algorithm, level):
    runtime = {"store": "a b.h5", "threads": 3, "max_hours": 1.5, "checkpoint_steps": 10}
    config = build(runtime, algorithm, level, seed=7, init_from="models/x")
    again = RunConfig.from_json(config.to_json(), "config.json")
    assert again == config
    assert type(again.model) is ALGORITHMS[algorithm].settings
    assert json.loads(config.to_json())["training"]["lr"] == config.training.lr


@settings(max_examples=60, deadline=None)
@given(
    lr=st.floats(1e-12, 1),
    weight_decay=st.floats(0),
    clip_norm=st.floats(0, exclude_min=True),
    huber_delta=st.floats(0, exclude_min=True),
    channels=st.lists(st.integers(-1, 300), min_size=1, max_size=6),
    seed=st.integers(0, 2**70),
)
def test_whatever_is_accepted_survives_json(seed, **overrides):
    try:
        config = build({**overrides, "channels": tuple(overrides["channels"])}, seed=seed)
    except InputError as error:
        assert "\n" not in str(error)
        return
    assert RunConfig.from_json(config.to_json(), "config.json") == config


def changed(change):
    data = json.loads(build().to_json())
    change(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ()),
        ("{", ()),
        ("[]", ()),
        ("null", ()),
        ("{}", ()),
        (changed(lambda d: d.pop("algorithm")), ()),
        (changed(lambda d: d.update(algorithm="e3n")), ("'e3nn'",)),
        (changed(lambda d: d.update(level="sdt")), ("'std'",)),
        (changed(lambda d: d.update(extra=1)), ("extra",)),
        (changed(lambda d: d["training"].update(momentum=0.9)), ("momentum",)),
        (changed(lambda d: d["training"].update(lr="fast")), ("'lr'",)),
        (changed(lambda d: d["model"].update(layers=0)), ("'layers'",)),
        (changed(lambda d: d["model"].pop("layers")), ("'layers'",)),
        (changed(lambda d: d.update(model=3)), ("'model'",)),
    ],
)
def test_a_damaged_configuration_is_one_line_that_names_the_file(text, words):
    one_line(lambda: RunConfig.from_json(text, "run_1/config.json"), "run_1/config.json", *words)


# ---- what a resume compares ------------------------------------------------------------------


def test_identity_is_what_changes_the_result():
    base = build().identity()
    paths = {"store": "b.h5", "models_dir": "m", "threads": 1, "device": "cpu", "max_hours": 1}
    assert build({**paths, "checkpoint_steps": 5}).identity() == base
    for change in ({"lr": 0.2}, {"layers": 1}, {"epochs": 3}, {"channels": "8"}):
        assert build(change).identity() != base
    assert build(seed=1).identity() != base
    assert build(init_from="x").identity() != base
    # A checkpoint holds it as JSON.
    assert json.loads(json.dumps(base)) == base


@pytest.mark.parametrize("preset", ["small", "medium", "large"])
def test_a_configuration_of_an_older_version_keeps_its_meaning(preset: str) -> None:
    """Settings that came later had no part in it, and do not hide its preset."""
    config = build_config("e3nn", "std", ["band_gap"], {"preset": preset})
    loaded = json.loads(config.to_json())
    del loaded["training"]["one_sided_bounds"], loaded["model"]["electron_parity"]
    older = RunConfig.from_json(json.dumps(loaded), "here")
    assert older.training.one_sided_bounds is False and older.model.electron_parity is False
    assert preset_of(older) == preset
    names = [override.name for override in overrides(older)]
    assert names == [*["preset"][: preset != "medium"], "electron_parity", "one_sided_bounds"]
