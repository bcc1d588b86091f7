"""The batched contraction equals e3nn's tensor product, and features are equivariant."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from crystals import LONELY, batch_of, random_model, rotation, sample_crystals
from e3nn import o3
from torch import Tensor
from torch_geometric.data import Data

from phase2hpc.config.algorithms import EquivariantSettings
from phase2hpc.data.graph import GraphSettings
from phase2hpc.models.edge_operators import Geometry, Operators, bucket_bounds, sh_degrees
from phase2hpc.models.equivariant import EquivariantEncoder, root_mean_square
from phase2hpc.models.geometry import edge_geometry
from phase2hpc.models.multitask import MultiTaskModel
from phase2hpc.models.tensor_product import Convolution, Features

BASIS = 3
# Irreps in and out of a layer, as channels by degree; a zero leaves a degree out.
LAYERS = {
    "small": ((16, 8), (16, 8)),
    "medium": ((12, 6, 4), (10, 5, 3)),
    "first layer": ((12,), (10, 5, 3)),
    "last layer": ((12, 6, 4), (10,)),
    "lmax 3": ((5, 4, 3, 2), (4, 3, 2, 2)),
    "no l=1": ((6, 0, 3), (4, 0, 5)),
}
SETTINGS = {"by count": GraphSettings(), "sphere": GraphSettings(4.2, None)}


@pytest.fixture
def double_by_default() -> Iterator[None]:
    """e3nn makes its tables (Clebsch-Gordan, Wigner D) in torch's default precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def irreps(channels: tuple[int, ...]) -> o3.Irreps:
    return o3.Irreps([(n, (l, (-1) ** l)) for l, n in enumerate(channels) if n])


def whole_batch(settings: GraphSettings) -> Data:
    """Crystals of all kinds, and an atom without neighbours in their midst."""
    raws = list(sample_crystals())
    return batch_of([*raws[:7], LONELY, *raws[7:]], settings)


def random_features(channels: tuple[int, ...], atoms: int) -> Features:
    return {
        l: torch.randn(atoms, 2 * l + 1, n, dtype=torch.float64, requires_grad=True)
        for l, n in enumerate(channels)
        if n
    }


def in_e3nn_layout(features: Features) -> Tensor:
    """(N, 2l+1, channels) by degree -> (N, irreps.dim): channels outside, components inside."""
    return torch.cat([features[l].transpose(1, 2).flatten(1) for l in sorted(features)], dim=1)


def reference(
    convolution: Convolution,
    features: Features,
    batch: Data,
    channels: tuple[tuple[int, ...], tuple[int, ...]],
    lmax: int,
    radial: Tensor,
    vector: Tensor,
) -> Tensor:
    """e3nn's fully connected tensor product edge by edge, summed over each receiver's edges."""
    product = o3.FullyConnectedTensorProduct(
        irreps(channels[0]),
        o3.Irreps.spherical_harmonics(lmax),
        irreps(channels[1]),
        irrep_normalization="component",
        path_normalization="none",
        internal_weights=False,
        shared_weights=False,
    )
    harmonics = o3.spherical_harmonics(
        product.irreps_in2, vector, normalize=True, normalization="component"
    )
    weights = []
    for path in product.instructions:
        l_in = product.irreps_in1[path.i_in1].ir.l
        l_sh = product.irreps_in2[path.i_in2].ir.l
        l_out = product.irreps_out[path.i_out].ir.l
        degrees = sh_degrees(l_in, l_out, lmax)
        table = convolution.weight[f"{l_in}_{l_out}"].view(
            BASIS, len(degrees), channels[0][l_in], channels[1][l_out]
        )
        weights.append(
            torch.einsum("ek,kuv->euv", radial, table[:, degrees.index(l_sh)]).flatten(1)
        )
    sender, receiver = batch.edge_index
    message = product(in_e3nn_layout(features)[sender], harmonics, torch.cat(weights, dim=1))
    total = message.new_zeros(batch.num_nodes, message.shape[1])
    return total.index_add(0, receiver, message)


@pytest.mark.usefixtures("double_by_default")
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("name", LAYERS)
def test_contraction_is_the_fully_connected_tensor_product_of_e3nn(
    name: str, settings: GraphSettings
) -> None:
    """Values, and gradients of features and weights, with isolated atoms and padded buckets."""
    torch.manual_seed(1)
    channels = LAYERS[name]
    lmax = max(len(channels[0]), len(channels[1])) - 1
    batch = whole_batch(settings)
    geometry = Geometry(lmax, BASIS, settings)
    convolution = Convolution(*channels, lmax, BASIS).double()
    order, operators = geometry(batch, convolution.pairs)
    assert len(operators.buckets) > 1
    features = random_features(channels[0], batch.num_nodes)

    ours = convolution({l: h[order] for l, h in features.items()}, operators)
    vector, length, weight = edge_geometry(batch, settings)
    radial = geometry.basis(length) * weight.unsqueeze(1)
    theirs = reference(convolution, features, batch, channels, lmax, radial, vector)[order]

    found = in_e3nn_layout(ours)
    scale = theirs.abs().max()
    assert (found - theirs).abs().max() < 1e-12 * scale
    lonely = (batch.batch[order] == 7).nonzero().item()
    assert found[lonely].abs().max() == 0

    # The test weighs outputs unevenly, so that no error of a single one can cancel.
    probe = torch.randn_like(theirs)
    inputs = [*features.values(), *convolution.parameters()]
    for a, b in zip(
        torch.autograd.grad((found * probe).sum(), inputs),
        torch.autograd.grad((theirs * probe).sum(), inputs),
        strict=True,
    ):
        assert (a - b).abs().max() < 1e-12 * b.abs().max()


def plain(convolution: Convolution, features: Features, operators: Operators) -> Features:
    """The convolution as its formula says it, bucket by bucket, with torch's own backward pass."""
    pieces: dict[int, list[Tensor]] = {b: [] for _, b in convolution.pairs}
    for i, bucket in enumerate(operators.buckets):
        slots, rows = slice(bucket.first, bucket.last), slice(bucket.start, bucket.stop)
        sender = operators.sender[slots]
        total: dict[int, Tensor] = {}
        for a, b in convolution.pairs:
            h = features[a][sender].view(bucket.atoms, -1, *features[a].shape[1:])
            if a == 0 and convolution.gate is not None:
                gate, scalars = convolution.gate, features[0].squeeze(1)
                basis = operators.gate_basis[slots].view(bucket.atoms, h.shape[1], -1)
                z = gate.sender(scalars)[sender].view(h.squeeze(2).shape)
                z = z + gate.receiver(scalars)[rows].unsqueeze(1) + gate.edge(basis)
                h = h * 2 * torch.sigmoid(z).unsqueeze(2)
            collected = operators.matrices[a, b][i] @ h.flatten(1, 2)
            weight = convolution.weight[f"{a}_{b}"]
            part = collected.view(bucket.atoms, 2 * b + 1, -1) @ weight
            total[b] = total[b] + part if b in total else part
        for b, value in total.items():
            pieces[b].append(value)
    return {b: torch.cat(parts) for b, parts in pieces.items()}


@pytest.mark.parametrize("gaussians", [0, 4], ids=["ungated", "gated"])
@pytest.mark.parametrize("name", LAYERS)
def test_convolution_and_its_backward_pass_are_the_plain_formula(name: str, gaussians: int) -> None:
    torch.manual_seed(2)
    channels = LAYERS[name]
    lmax = max(len(channels[0]), len(channels[1])) - 1
    batch = whole_batch(GraphSettings())
    geometry = Geometry(lmax, BASIS, GraphSettings(), gate_basis_size=gaussians)
    convolution = Convolution(*channels, lmax, BASIS, gaussians).double()
    _, operators = geometry(batch, convolution.pairs)
    assert len(operators.buckets) > 1
    features = random_features(channels[0], batch.num_nodes)
    ours = in_e3nn_layout(convolution(features, operators))
    theirs = in_e3nn_layout(plain(convolution, features, operators))
    assert (ours - theirs).abs().max() < 1e-12 * theirs.abs().max()
    probe = torch.randn_like(theirs)
    inputs = [*features.values(), *convolution.parameters()]
    for a, b in zip(
        torch.autograd.grad((ours * probe).sum(), inputs),
        torch.autograd.grad((theirs * probe).sum(), inputs),
        strict=True,
    ):
        assert (a - b).abs().max() < 1e-12 * b.abs().max()


def test_backward_pass_of_the_convolution_by_finite_differences() -> None:
    torch.manual_seed(3)
    channels = ((3, 2), (2, 2))
    batch = batch_of([sample_crystals()[5], LONELY], GraphSettings())
    geometry = Geometry(1, 2, GraphSettings(), gate_basis_size=3)
    convolution = Convolution(*channels, 1, 2, 3).double()
    _, operators = geometry(batch, convolution.pairs)
    features = random_features(channels[0], batch.num_nodes)
    names = [name for name, _ in convolution.named_parameters()]

    def run(*tensors: Tensor) -> Tensor:
        weights = dict(zip(names, tensors[2:], strict=True))
        given = dict(enumerate(tensors[:2]))
        return in_e3nn_layout(torch.func.functional_call(convolution, weights, (given, operators)))

    assert torch.autograd.gradcheck(run, (*features.values(), *convolution.parameters()))


@pytest.mark.parametrize("lmax", [0, 1, 2, 3])
def test_paths_are_those_of_natural_parity(lmax: int) -> None:
    channels = o3.Irreps([(1, (l, (-1) ** l)) for l in range(lmax + 1)])
    product = o3.FullyConnectedTensorProduct(
        channels, o3.Irreps.spherical_harmonics(lmax), channels
    )
    theirs = {(p.i_in1, p.i_in2, p.i_out) for p in product.instructions}
    ours = {
        (a, l, b)
        for a, b in itertools.product(range(lmax + 1), repeat=2)
        for l in sh_degrees(a, b, lmax)
    }
    assert ours == theirs


def test_conventions_of_e3nn_that_the_operators_rely_on() -> None:
    """Components of l=1 are (x, y, z); |Y_l|^2 = 2l+1; harmonics of all degrees come in order."""
    vector = torch.randn(10, 3, dtype=torch.float64)
    harmonics = o3.spherical_harmonics(
        [0, 1, 2, 3], vector, normalize=True, normalization="component"
    )
    unit = vector / vector.norm(dim=1, keepdim=True)
    torch.testing.assert_close(harmonics[:, 0], torch.ones(10, dtype=torch.float64))
    torch.testing.assert_close(harmonics[:, 1:4], math.sqrt(3) * unit)
    for l in range(4):
        size = harmonics[:, l * l : (l + 1) ** 2].square().sum(1)
        torch.testing.assert_close(size, torch.full_like(size, 2 * l + 1))
    size = o3.wigner_3j(1, 2, 1, dtype=torch.float64).square().sum()
    assert float(size) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("degrees", [
    [0], [0] * 5, [12] * 40, [*[30] * 20, *[20] * 20, *[0] * 3], sorted(range(200), reverse=True),
    [1000, *[15] * 99],
])  # fmt: skip
def test_bucket_bounds(degrees: list[int]) -> None:
    """Buckets cover all atoms, pad little beyond their first 16, and are as few as that allows."""
    bounds = bucket_bounds(degrees)
    assert bounds[-1] == len(degrees)
    assert bounds == sorted(set(bounds)) and bounds[0] > 0
    for start, stop in itertools.pairwise([0, *bounds]):
        assert stop - start >= 16 or stop == len(degrees)
        assert all(d >= 0.85 * degrees[start] for d in degrees[start + 16 : stop])
        if stop < len(degrees):
            assert degrees[stop] < 0.85 * degrees[start]


# --- The encoder ------------------------------------------------------------------------------


def encoder(preset: str = "medium", settings: GraphSettings | None = None) -> EquivariantEncoder:
    model = random_model("e3nn", settings or GraphSettings(), torch.float64, preset)
    assert isinstance(model, MultiTaskModel)
    assert isinstance(model.encoder, EquivariantEncoder)
    return model.encoder


def features_by_layer(model: EquivariantEncoder, batch: Data) -> list[Features]:
    """What each layer makes of a batch, atoms in the order of the batch."""
    order, operators = model.geometry(batch, model.pairs)
    back = order.argsort()
    species = batch.z[order]
    embedding = model.embedding(species, batch.batch[order], batch.electron_parity)
    features: Features = {0: embedding.unsqueeze(1)}
    out = []
    for layer in model.layers:
        features = layer(features, species, embedding, operators)
        out.append({l: x[back] for l, x in features.items()})
    return out


def turned(batch: Data, matrix: Tensor) -> Data:
    other = batch.clone()
    other.pos, other.cell = batch.pos @ matrix.T, batch.cell @ matrix.T
    return other


@pytest.mark.usefixtures("double_by_default")
@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "improper"])
@pytest.mark.parametrize("preset", ["small", "medium"])
@torch.no_grad()
def test_features_of_every_layer_turn_with_the_crystal(preset: str, improper: bool) -> None:
    model = encoder(preset)
    matrix = torch.from_numpy(rotation(4)) * (-1 if improper else 1)
    batch = whole_batch(GraphSettings())
    before = features_by_layer(model, batch)
    after = features_by_layer(model, turned(batch, matrix))
    assert max(before[0]) > 0
    for one, other in zip(before, after, strict=True):
        for l, x in one.items():
            wigner = o3.Irrep(l, (-1) ** l).D_from_matrix(matrix)
            expected = torch.einsum("ij,njc->nic", wigner, x)
            assert x.abs().max() > 1e-2
            assert (other[l] - expected).abs().max() < 1e-11 * x.abs().max()


@torch.no_grad()
def test_inversion_flips_odd_degrees_only() -> None:
    model = encoder()
    batch = whole_batch(GraphSettings())
    before = features_by_layer(model, batch)
    after = features_by_layer(model, turned(batch, -torch.eye(3, dtype=torch.float64)))
    for one, other in zip(before, after, strict=True):
        for l, x in one.items():
            torch.testing.assert_close(other[l], x * (-1) ** l, rtol=0, atol=1e-12)


@torch.no_grad()
def test_vectors_vanish_at_a_centre_of_inversion() -> None:
    model = encoder()
    for raw in sample_crystals()[:2]:
        first, *_ = features_by_layer(model, batch_of([raw]))
        assert first[0].abs().max() > 1e-2
        assert first[1].abs().max() < 1e-10


def test_root_mean_square_has_a_gradient_at_zero() -> None:
    x = torch.zeros(2, 3, 4, requires_grad=True)
    root_mean_square(x).sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("channels", [(8,), (8, 0, 4), (6, 4, 3, 2)])
def test_encoder_of_any_irreps_is_invariant_and_learns(channels: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    # Not validated: an algorithm's settings have no degree without channels.
    settings = EquivariantSettings.model_construct(
        channels=channels, layers=3, basis_size=4, embedding_size=8, hidden=16, out_features=5,
        dropout=0.0,
    )  # fmt: skip
    model = EquivariantEncoder(settings, GraphSettings()).double()
    batch = batch_of([sample_crystals()[5], LONELY, sample_crystals()[13]])
    out = model(batch)
    assert out.shape == (3, 5)
    torch.testing.assert_close(
        model(turned(batch, -torch.from_numpy(rotation(6)))), out, rtol=0, atol=1e-11
    )
    out.square().sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_one_width_for_all_atoms_as_on_a_gpu() -> None:
    """The same values and gradients as with buckets by degree."""
    batch = whole_batch(GraphSettings())
    model = encoder()
    found = []
    for by_degree in (True, False):
        model.geometry.by_degree = by_degree
        assert (len(model.geometry(batch, model.pairs)[1].buckets) > 1) == by_degree
        model.zero_grad()
        out = model(batch)
        out.square().sum().backward()
        found.append([out.detach(), *(p.grad.clone() for p in model.parameters())])
    for a, b in zip(*found, strict=True):
        assert (a - b).abs().max() <= 1e-11 * b.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_output_has_the_dtype_of_the_model(dtype: torch.dtype) -> None:
    model = random_model("e3nn", GraphSettings(), dtype, "small")
    assert model(batch_of([sample_crystals()[0]], dtype=dtype)).dtype == dtype
