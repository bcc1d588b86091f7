"""The equivariant encoder: a message passing network of tensor products with constant geometry.

Batzner et al., Nat. Commun. 13, 2453 (2022); the tensor products are those of ``tensor_product``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from phase2hpc.config.algorithms import EquivariantSettings
from phase2hpc.data.crystal_data import CrystalData
from phase2hpc.data.elements import MAX_ATOMIC_NUMBER
from phase2hpc.data.graph import GraphSettings
from phase2hpc.models.edge_operators import Geometry, Operators
from phase2hpc.models.element_embedding import ElementEmbedding
from phase2hpc.models.geometry import mean_over_atoms
from phase2hpc.models.tensor_product import Convolution, Features

ConstantGeometry = tuple[Tensor, Operators]


class Interaction(nn.Module):
    """One layer: a convolution, then an update of each atom's features gated by its invariants.

    ``channels_in`` and ``channels_out`` are channels by degree. The features that enter the
    convolution are normalised atom by atom; what is carried past it is not.
    """

    def __init__(
        self,
        channels_in: Sequence[int],
        channels_out: Sequence[int],
        *,
        lmax: int,
        basis_size: int,
        embedding_size: int,
        hidden: int,
        gate_basis_size: int,
    ) -> None:
        super().__init__()
        self.sizes = {l: n for l, n in enumerate(channels_out) if n}
        total = sum(self.sizes.values())
        self.norm = FeatureNorm(channels_in)
        self.convolution = Convolution(channels_in, channels_out, lmax, basis_size, gate_basis_size)
        self.carry = nn.ModuleDict(
            {
                str(l): nn.Linear(n, self.sizes[l], bias=False)
                for l, n in enumerate(channels_in)
                if n and l in self.sizes
            }
        )
        # How strongly an element takes up each channel of its message.
        self.gain = nn.Embedding(MAX_ATOMIC_NUMBER + 1, total)
        nn.init.ones_(self.gain.weight)
        self.invariant_norm = nn.LayerNorm(total)
        self.update = nn.Sequential(
            nn.Linear(total + embedding_size, hidden), nn.SiLU(), nn.Linear(hidden, total)
        )

    def forward(
        self, features: Features, species: Tensor, embedding: Tensor, operators: Operators
    ) -> Features:
        """Features of the next layer; species (N,) and its embedding (N, F) in bucket order."""
        message = self.convolution(self.norm(features), operators)
        gains = self._by_degree(self.gain(species))
        x = {l: message[l] * gains[l] for l in self.sizes}
        for l, carry in self.carry.items():
            x[int(l)] = x[int(l)] + carry(features[int(l)])
        invariants = [x[l].squeeze(1) if l == 0 else root_mean_square(x[l]) for l in self.sizes]
        normalised = self.invariant_norm(torch.cat(invariants, dim=1))
        update = self._by_degree(self.update(torch.cat([normalised, embedding], dim=1)))
        return {
            l: x[l] + update[l] if l == 0 else x[l] * torch.sigmoid(update[l]) for l in self.sizes
        }

    def _by_degree(self, channels: Tensor) -> Features:
        """(N, all channels) -> (N, 1, channels) by degree."""
        parts = torch.split(channels.unsqueeze(1), list(self.sizes.values()), dim=2)
        return dict(zip(self.sizes, parts, strict=True))


class FeatureNorm(nn.Module):
    """Each atom's features of a degree divided by their root mean square, times a learned gain."""

    def __init__(self, channels: Sequence[int], epsilon: float = 1e-3) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.gain = nn.ParameterDict(
            {str(l): nn.Parameter(torch.ones(n)) for l, n in enumerate(channels) if n}
        )

    def forward(self, features: Features) -> Features:
        return {
            l: x
            * torch.rsqrt(x.square().mean((1, 2), keepdim=True) + self.epsilon)
            * self.gain[str(l)]
            for l, x in features.items()
        }


def root_mean_square(x: Tensor) -> Tensor:
    """Invariant size of features of one degree: (N, 2l+1, channels) -> (N, channels)."""
    return (x.square().mean(dim=1) + 1e-8).sqrt()


class EquivariantEncoder(nn.Module):
    """Batch -> crystal vectors (B, out_features) of the equivariant (e3nn) track.

    It is invariant under rotation, inversion, choice of cell and origin and the order of atoms.
    Features of degree l have natural parity (-1)^l. The last layer makes scalars only.
    """

    capturable = True
    compile_warning_on_cpu = (
        "e3nn is compiled anew, for minutes, for each number of degree buckets of a batch"
    )

    def __init__(self, settings: EquivariantSettings, graph: GraphSettings) -> None:
        super().__init__()
        channels, layers = settings.channels, settings.layers
        embedding_size, out_features = settings.embedding_size, settings.out_features
        self.out_features = out_features
        lmax = len(channels) - 1
        self.embedding = ElementEmbedding(
            embedding_size,
            descriptors=settings.element_descriptors,
            electron_parity=settings.electron_parity,
        )
        self.geometry = Geometry(
            lmax, settings.basis_size, graph, gate_basis_size=settings.gate_basis_size
        )
        widths = [[embedding_size], *[list(channels)] * (layers - 1), [channels[0]]]
        layer_list = [
            Interaction(
                before,
                after,
                lmax=lmax,
                basis_size=settings.basis_size,
                embedding_size=embedding_size,
                hidden=settings.hidden,
                gate_basis_size=settings.gate_basis_size,
            )
            for before, after in itertools.pairwise(widths)
        ]
        self.layers = nn.ModuleList(layer_list)
        self.pairs = sorted({pair for layer in layer_list for pair in layer.convolution.pairs})
        self.readout = nn.Sequential(
            nn.Linear(embedding_size + layers * channels[0], out_features),
            nn.SiLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(out_features, out_features),
            nn.SiLU(),
        )

    @property
    def geometry_key(self) -> tuple[object, ...] | None:
        """Equal for encoders with the same ``constant_geometry`` of a batch; None in subclasses,
        which may compute otherwise."""
        if type(self) is not EquivariantEncoder:
            return None
        geometry = self.geometry
        gaussians = len(geometry.gate_basis.centers) if geometry.gate_basis is not None else 0
        return (
            geometry.lmax, geometry.basis_size, geometry.graph, gaussians, geometry.by_degree,
            tuple(self.pairs), geometry.coupling.dtype, geometry.coupling.device,
        )  # fmt: skip

    @torch.no_grad()
    def constant_geometry(self, batch: CrystalData) -> ConstantGeometry:
        """Order of the atoms and operators, which depend on no weights."""
        order, operators = self.geometry(batch, self.pairs)
        device = batch.pos.device.type
        if torch.is_autocast_enabled(device):
            operators = operators.to(torch.get_autocast_dtype(device))
        return order, operators

    def forward(self, batch: CrystalData, geometry: ConstantGeometry | None = None) -> Tensor:
        """Crystal vectors; geometry: of ``constant_geometry``, where it was made before."""
        order, operators = geometry or self.constant_geometry(batch)
        species, crystal = batch.z[order], batch.batch[order]
        embedding = self.embedding(species, crystal, batch.electron_parity)
        features: Features = {0: embedding.unsqueeze(1)}
        scalars = [embedding]
        for layer in self.layers:
            features = layer(features, species, embedding, operators)
            scalars.append(features[0].squeeze(1))
        atoms = self.readout(torch.cat(scalars, dim=1))
        return mean_over_atoms(atoms, crystal, batch.ptr)
