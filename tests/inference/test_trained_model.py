"""best.pt holds all that inference needs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from phase2hpc.checkpointing.file_format import prepare_state
from phase2hpc.checkpointing.manager import load_best, load_newest
from phase2hpc.data.store.reader import Store
from phase2hpc.errors import InputError
from phase2hpc.inference.batched import infer
from phase2hpc.inference.trained_model import TrainedModel


@pytest.mark.parametrize("algorithm", ["e3nn", "cgcnn"])
def test_it_holds_what_it_was_trained_on(algorithm, trained, tiny) -> None:
    run = trained[algorithm]
    best, store = TrainedModel.load(run.best), Store.open(tiny.store)
    assert best.graph_settings == store.graph_settings
    assert best.config.identity() == run.read_config().identity()
    assert best.model.properties == best.scaler.properties == tuple(run.read_manifest().properties)
    assert not best.model.training
    assert not any(p.requires_grad for p in best.model.parameters())
    state = load_newest(run)
    assert state is not None and best.epoch == state[0]["best_epoch"]
    if best.epoch == 3:  # the last: the averaged weights, not those of the optimiser
        averaged = state[0]["averaged"]
        assert all(torch.equal(v, averaged[k]) for k, v in best.model.state_dict().items())


def test_elements_are_those_of_the_drawn_training_crystals(train_tiny, tiny, tmp_path) -> None:
    from phase2hpc.data.elements import atomic_number
    from phase2hpc.data.sampler import draw_subset

    run = train_tiny(tmp_path, epochs=1, max_samples=12)
    store = Store.open(tiny.store)
    drawn = store.ids(draw_subset(store.split_indices("train"), 12, 0))
    by_id = {record["id"]: record for record in tiny.records}
    wanted = {atomic_number(s) for name in drawn for s in by_id[name]["species"]}
    assert TrainedModel.load(run.best).elements == sorted(wanted)


def test_saved_and_loaded_predicts_the_same_bits(trained, tiny, tmp_path) -> None:
    store = Store.open(tiny.store)
    indices = np.arange(len(store))
    best = TrainedModel.load(trained["e3nn"].best)
    other = type(trained["e3nn"])(tmp_path)
    best.save(other)
    again = TrainedModel.load(other.best)
    device = torch.device("cpu")
    first, second = (
        infer(b.model, store, indices, device=device).physical(b.scaler) for b in (best, again)
    )
    assert np.isfinite(first).all() and np.array_equal(first, second)


def test_nothing_of_the_company_in_a_batch(trained, tiny) -> None:
    store = Store.open(tiny.store)
    everything = np.arange(len(store))
    for run in trained.values():
        best = TrainedModel.load(run.best)
        device = torch.device("cpu")
        together = infer(best.model, store, everything, device=device).physical(best.scaler)
        for i in everything[::25]:
            one = infer(best.model, store, everything[i : i + 1], device=device)
            alone = one.physical(best.scaler)
            np.testing.assert_allclose(alone[0], together[i], rtol=1e-5, atol=1e-5)


def test_no_best_or_a_damaged_one(trained, tmp_path) -> None:
    with pytest.raises(InputError, match="no trained weights yet"):
        TrainedModel.load(tmp_path / "best.pt")
    data = bytearray(trained["cgcnn"].best.read_bytes())
    data[-100] ^= 255
    (tmp_path / "best.pt").write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        TrainedModel.load(tmp_path / "best.pt")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": "{}"}, "best.pt: setting"),
        ({"config": "no JSON"}, "best.pt: not a run configuration"),
        ({"graph_settings": {"cutoff": 5.0, "shell": 1}}, "best.pt: its contents are inconsistent"),
        ({"graph_settings": {"cutoff": 1e9}}, "best.pt: its contents are inconsistent"),
        ({"weights": {}}, "best.pt: its contents are inconsistent"),
        ({"weights": {"element.weight": torch.zeros(1)}}, "best.pt: its contents are inconsistent"),
        ({"weights": [torch.zeros(1)]}, "not a valid best state: key 'weights'"),
        ({"scaler": {}}, "not a valid best state: key 'scaler.properties'"),
        ({"elements": ["H"]}, "not a valid best state: key 'elements.0'"),
        ({"epoch": -1}, "not a valid best state: key 'epoch'"),
    ],
)
def test_a_whole_file_of_wrong_content_is_one_line(trained, tmp_path, change, words) -> None:
    state = load_best(trained["cgcnn"].best)
    partial = prepare_state(tmp_path / "best.pt", state | change, 1)
    partial.commit()
    with pytest.raises(InputError, match=words) as caught:
        TrainedModel.load(tmp_path / "best.pt")
    assert "\n" not in str(caught.value)
