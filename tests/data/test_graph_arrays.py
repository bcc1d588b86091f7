"""Flat arrays of graphs: their size in memory."""

from dataclasses import replace

import numpy as np
import pytest
from crystals import LONELY, arrays_of, sample_crystals

from phase2hpc.data.graph import GraphSettings
from phase2hpc.data.graph_arrays import MAX_LABEL, arrays_bytes


@pytest.mark.parametrize("float64", [False, True])
def test_bytes_of_arrays_are_known_from_their_counts(float64):
    first = replace(sample_crystals()[0], labels={"band_gap": 1.0, "ehull": 0.1})
    arrays = arrays_of([first, *sample_crystals()[1:], LONELY], GraphSettings(), float64=float64)
    assert len(arrays.labels) == 2 and len(arrays.sender) > 1000
    count = arrays_bytes(
        len(arrays),
        len(arrays.atomic_number),
        len(arrays.sender),
        len(arrays.id_bytes),
        labels=len(arrays.labels),
        float64=float64,
    )
    assert count == arrays.nbytes


def test_the_largest_label_is_the_largest_of_single_precision():
    assert np.float32(MAX_LABEL) == np.float64(MAX_LABEL)
    with np.errstate(over="ignore"):
        assert np.isinf(np.float64(MAX_LABEL * 1.0001).astype(np.float32))
