"""Seeds and sweeps."""

import pytest

from phase2hpc.cluster.submit.sweep import Member, members
from phase2hpc.errors import InputError
from phase2hpc.runs.run_directory import checked_run_id
from phase2hpc.training.seeds import parse_seeds


def test_seeds() -> None:
    assert parse_seeds("0-4") == [0, 1, 2, 3, 4]
    assert parse_seeds("7, 0-2 ,5") == [7, 0, 1, 2, 5]


@pytest.mark.parametrize(
    "text", ["", "a", "3-1", "1,,2", "1-", "-1", "1,1", "0-3,2", "0-1000000000", "1.5", "0 - 3"]
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
        (["models-dir=a,b"], "only settings can be swept"),
    ],
)
def test_sweeps_that_are_none(sweeps: list[str], words: str) -> None:
    with pytest.raises(InputError, match=f"^--sweep [^\n]*{words}"):
        members(None, sweeps)


def test_too_many() -> None:
    with pytest.raises(InputError, match="1200 runs"):
        members("0-599", ["lr=1,2"])
