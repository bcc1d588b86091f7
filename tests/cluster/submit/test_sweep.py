"""Seeds and sweeps."""

import pytest

from phase2hpc.cluster.submit import sweep
from phase2hpc.cluster.submit.sweep import Member, at_once, parse_sweeps
from phase2hpc.errors import InputError
from phase2hpc.runs.run_directory import checked_run_id
from phase2hpc.training.seeds import parse_seeds


def members(seeds: str | None, sweeps: list[str], algorithm: str = "e3nn") -> list[Member]:
    return sweep.members(seeds, parse_sweeps(sweeps, algorithm))


def values(text: str) -> tuple[str, ...]:
    (found,) = parse_sweeps([text], "e3nn")
    return found.values


def test_seeds() -> None:
    assert parse_seeds("0-4") == [0, 1, 2, 3, 4]
    assert parse_seeds("7, 0-2 ,5") == [7, 0, 1, 2, 5]


def test_how_many_seeds_run_at_once() -> None:
    assert at_once("--seeds", "0-9%2") == ("0-9", 2)
    assert at_once("--seeds", "0-9") == ("0-9", None)
    assert at_once("--seeds", None) == (None, None)
    for text in ("0-3%", "0-3%0", "0-3%x", "0-3%2%2"):
        with pytest.raises(InputError, match="how many run at once"):
            at_once("--seeds", text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "3-1",
        "1,,2",
        "1-",
        "-1",
        "1,1",
        "0-3,2",
        "0-1000000000",
        "1.5",
        "0 - 3",
        "0-3%",
        "0-3%0",
        "0-3%x",
        "%2",
    ],
)
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="^--seeds [^\n]*$"):
        members(text, [])


def test_the_product_of_sweeps_and_seeds() -> None:
    found = members("0-1", ["lr=1e-3,5e-4", "batch-size=8,16"])
    assert [(m.overrides["lr"], m.overrides["batch_size"], m.seed) for m in found] == [
        (lr, size, seed) for lr in ("1e-3", "5e-4") for size in ("8", "16") for seed in (0, 1)
    ]
    assert found[3].label == "lr=1e-3,batch_size=16,seed=1"
    assert found[3].suffix == "-lr1e-3-batchsize16-s1"
    assert len({m.suffix for m in found}) == 8
    assert members(None, []) == [Member()] and Member().suffix == Member().label == ""
    assert [m.seed for m in members(None, ["lr=1,2"])] == [None, None]


def test_the_end_of_a_run_id_is_fit_for_one() -> None:
    (member,) = members(None, ["task_weights=a b/ü,"[:-1]])
    assert checked_run_id(f"x{member.suffix}")


@pytest.mark.parametrize(
    ("sweeps", "words"),
    [
        (["lr"], "key=value,value"),
        (["=1,2"], "key=value,value"),
        (["lr=1,,2"], "key=value,value"),
        (["lr=1,1"], "the same value twice"),
        (["lr=1", "lr=2"], "given twice"),
        (["seed=1,2"], "--seeds"),
        (["models-dir=a,b"], "only settings, algorithm and properties can be swept"),
        (["channels=64,32,16"], "has commas itself: separate the values by '/'"),
        (["properties=core4,band_gap"], "has commas itself"),
        (["channels=64,32/64,32"], "the same value twice"),
        (["lr=log:0..1:5"], "limits above 0"),
        (["lr=1e-4..1e-2"], "give a range as"),
        (["lr=log:1e-4,1e-2"], "give a range as"),
        (["lr=0.1..0.2:1"], "2 to 1000 values"),
        (["channels=64,32/64.32"], "2 runs would have the name"),
    ],
)
def test_sweeps_that_are_none(sweeps: list[str], words: str) -> None:
    with pytest.raises(InputError, match=f"^--sweep:? [^\n]*{words}"):
        members(None, sweeps)


def test_values_of_settings_that_are_lists() -> None:
    found = members(None, ["channels=64,32,16/32,16"])
    assert [member.overrides["channels"] for member in found] == ["64,32,16", "32,16"]
    assert [member.suffix for member in found] == ["-channels64.32.16", "-channels32.16"]
    assert values("channels=64/32") == ("64", "32")
    # The setting of another algorithm may be one number.
    with pytest.raises(InputError, match="has commas itself"):
        members(None, ["algorithm=cgcnn,e3nn", "channels=64,32"], "cgcnn")


def test_properties_are_swept_as_a_flag() -> None:
    first, second = members(None, ["properties=core4/band_gap,ehull"])
    assert (first.properties, second.properties) == ("core4", "band_gap,ehull")
    assert first.overrides == {} and first.label == "properties=core4"
    assert second.suffix == "-propertiesband.gap.ehull"


def test_ranges() -> None:
    assert values("lr=log:1e-4..1e-2:5") == ("0.0001", "0.000316228", "0.001", "0.00316228", "0.01")
    assert values("hidden=log:32..256:4") == ("32", "64", "128", "256")
    assert values("ema_decay=0.9..0.99:4") == values("ema_decay=lin:.9..0.99:4")
    assert values("ema_decay=0.9..0.99:4") == ("0.9", "0.93", "0.96", "0.99")
    assert values("lr=1e-2..1e-3:2") == ("0.01", "0.001")


def test_too_many() -> None:
    with pytest.raises(InputError, match="1200 runs"):
        members("0-599", ["lr=1,2"])
