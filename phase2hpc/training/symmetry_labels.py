"""Training labels without those that symmetry alone decides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from phase2hpc.data.store.reader import Store
from phase2hpc.inference.batched import graphs_in_memory
from phase2hpc.inference.symmetry_zeros import can_be_zero_by_symmetry, zero_by_symmetry


def without_symmetry_zeros(
    store: Store, labels: npt.NDArray[np.float64], properties: Sequence[str]
) -> npt.NDArray[np.float64]:
    """Labels (N, P) of all crystals, NaN where symmetry makes the property zero.

    The prediction is zero there whatever the model says (``inference.batched``), so the model
    learns the others only. A property whose labels are all of this kind keeps them.
    """
    columns = [p for p, name in enumerate(properties) if can_be_zero_by_symmetry(name)]
    if not columns:
        return labels
    kept = labels.copy()
    labelled = np.isfinite(labels[:, columns]).sum(axis=1)
    for arrays, first in graphs_in_memory(store):
        here = np.flatnonzero(labelled[first : first + len(arrays)])
        zero = zero_by_symmetry(arrays, here, properties)
        block = kept[first + here]
        block[zero] = np.nan
        kept[first + here] = block
    nothing_left = np.count_nonzero(np.isfinite(kept), axis=0) == 0
    kept[:, nothing_left] = labels[:, nothing_left]
    return kept
