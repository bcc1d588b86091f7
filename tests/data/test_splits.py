"""Splits: the rule of the sample data, everywhere; files and columns checked."""

from collections import Counter

import numpy as np
import pytest
from paths import SAMPLE

from phase2hpc.data.crystal import Crystal, RawCrystal
from phase2hpc.data.elements import ATOMIC_NUMBERS
from phase2hpc.data.readers.registry import read
from phase2hpc.data.splits import (
    canonical_split,
    formula_fold,
    formula_split,
    make_splitter,
    random_split,
    read_split_file,
    split_in_fold,
)
from phase2hpc.errors import InputError


def crystal(name: str = "a", numbers=(11, 17), split=None) -> Crystal:
    z = np.array(numbers, dtype=np.uint8)
    return Crystal(name, np.eye(3) * 5, z, np.zeros((len(z), 3)), split=split)


def test_formula_split_is_that_of_the_sample():
    counts = Counter()
    for item in read(SAMPLE):
        assert isinstance(item, RawCrystal)
        assert formula_split([ATOMIC_NUMBERS[s] for s in item.species]) == item.split
        counts[item.split] += 1
    assert counts == {"train": 12_577, "val": 1_569, "test": 1_524}


def test_polymorphs_and_supercells_stay_together():
    assert formula_split([22, 8, 8]) == formula_split([8, 8, 8, 8, 22, 22])


def test_random_split_depends_on_id_and_seed_alone():
    splits = [random_split(f"id-{i}", seed=1) for i in range(4000)]
    assert splits == [random_split(f"id-{i}", seed=1) for i in range(4000)]
    assert splits != [random_split(f"id-{i}", seed=2) for i in range(4000)]
    assert Counter(splits)["train"] == pytest.approx(3200, abs=120)
    assert Counter(splits)["val"] == pytest.approx(400, abs=80)


@pytest.mark.parametrize(
    ("name", "split"),
    [("train", "train"), (" Valid ", "val"), ("validation", "val"), ("TEST", "test")],
)
def test_canonical_split(name, split):
    assert canonical_split(name) == split


def test_the_default_takes_the_column_where_there_is_one():
    split = make_splitter()
    assert split(crystal(split="test")) == "test"
    assert split(crystal(split=None)) == formula_split([11, 17])
    with pytest.raises(InputError, match="unknown split 'fold3'"):
        split(crystal(split="fold3"))


def test_rules():
    assert make_splitter("formula")(crystal(split="test")) == formula_split([11, 17])
    assert make_splitter("random", seed=3)(crystal("x")) == random_split("x", 3)
    assert make_splitter("column")(crystal(split="valid")) == "val"
    with pytest.raises(InputError, match="no split for 'a'"):
        make_splitter("column")(crystal())
    with pytest.raises(InputError, match="unknown split rule 'kfold'"):
        make_splitter("kfold")


@pytest.mark.parametrize("header", ["", "id,split\n"])
def test_split_file(tmp_path, header):
    path = tmp_path / "splits.csv"
    path.write_text(f"\ufeff{header}a,train\nb, valid\n\n", encoding="utf-8")
    assert read_split_file(path) == {"a": "train", "b": "val"}
    split = make_splitter(str(path))
    assert split(crystal("b")) == "val"
    with pytest.raises(InputError, match="no split for 'c'"):
        split(crystal("c"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,train\nb,fold3\n", "line 2: unknown split 'fold3'"),
        ("a\n", "line 1: expected two columns"),
        ("a,train\na,test\n", "line 2: 'a' is in two splits"),
        ("", "no line"),
        ("id,split\n", "no line"),
    ],
)
def test_bad_split_files(tmp_path, text, expected):
    path = tmp_path / "splits.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=expected):
        read_split_file(path)


def test_missing_split_file(tmp_path):
    with pytest.raises(InputError, match="not a readable split file"):
        read_split_file(tmp_path / "none.csv")


def test_shares_of_a_split(crystals_of_many_compounds):
    splitter = make_splitter("formula:70/15/15")
    counts = Counter(splitter(crystal) for crystal in crystals_of_many_compounds)
    total = counts.total()
    for name, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
        assert counts[name] / total == pytest.approx(share, abs=0.04)
    same = make_splitter("formula:0.8/0.1/0.1")
    assert all(same(c) == make_splitter("formula")(c) for c in crystals_of_many_compounds[:50])


WRONG_SHARES = ("", "70/30", "70/15/16", "90/10/0", "a/b/c", "nan/1/1", "110/-5/-5")


@pytest.mark.parametrize("rule", [f"formula:{shares}" for shares in WRONG_SHARES])
def test_wrong_shares_are_one_line(rule):
    with pytest.raises(InputError, match="add up to 100, as in (formula|random):70/15/15"):
        make_splitter(rule)


def test_folds_are_balanced_and_leak_free(crystals_of_many_compounds):
    folds = 5
    own = [formula_fold(c.numbers, folds) for c in crystals_of_many_compounds]
    assert set(own) == {1, 2, 3, 4, 5}
    assert max(Counter(own).values()) < 1.3 * min(Counter(own).values())
    assert all(formula_fold(np.tile(c.numbers, 3), folds) == fold
               for c, fold in zip(crystals_of_many_compounds, own, strict=True))  # fmt: skip
    for fold in range(1, folds + 1):
        splits = [split_in_fold(one, fold, folds) for one in range(1, folds + 1)]
        assert Counter(splits) == {"train": 3, "val": 1, "test": 1}
    tested = [split_in_fold(2, fold, folds) for fold in range(1, 6)]
    assert tested.count("test") == tested.count("val") == 1
    first = make_splitter(None, folds=folds)
    assert [first(c) for c in crystals_of_many_compounds[:20]] == [
        split_in_fold(fold, 1, folds) for fold in own[:20]
    ]
    for wrong in ({"folds": 2}, {"folds": 101}, {"rule": "random", "folds": 5}):
        with pytest.raises(InputError, match="--folds"):
            make_splitter(**wrong)


@pytest.fixture(scope="module")
def crystals_of_many_compounds():
    rng = np.random.default_rng(0)
    return [
        Crystal(str(i), np.eye(3), rng.integers(1, 90, 4).astype(np.uint8), np.zeros((4, 3)))
        for i in range(1500)
    ]
