"""WaffleIron (Puy et al. 2023, arXiv 2301.10100): 2D convolutions on three planes of a point cloud.

Names and shapes of the parameters are those of the published files (WaffleIron, ScaLR). Where those
pad the frames of a batch to one length, the points of all frames are the rows of one matrix here.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor, nn
from torch.nn import functional

from p2pkit.errors import GeometryError
from p2pkit.geometry.students.planes import PLANES, PlanePreparation
from p2pkit.networks.engines.voxel_norm import VoxelNorm1d
from p2pkit.settings.students import WaffleIronConfig

NORM_MOMENTUM = 0.1
COUNT_OFFSET = 1e-6
"""Added to the number of points of a cell before their mean is taken, as published."""


class WaffleIron(nn.Module):
    """Token embedding, then layers of a spatial and a channel mix.

    Args:
        in_channels: input features per point; published with 5: intensity, x, y, z and range.
        out_channels: width of a last linear layer, `classif`; None has none.
        depth: number of layers.
        width: of the tokens.
        settings: field of view, cells, neighbours and norms.
        bn_momentum: of all batch norms; published with 0.1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        depth: int,
        width: int,
        settings: WaffleIronConfig | None = None,
        bn_momentum: float = NORM_MOMENTUM,
    ) -> None:
        super().__init__()
        settings = settings or WaffleIronConfig()
        low, high = settings.limits
        self.preparation = PlanePreparation(low, high, settings.cells_per_axis, settings.neighbours)
        self.embed = _Embedding(in_channels, width, bn_momentum)
        norm = _Norms(width, settings.norm == "layer", bn_momentum)
        self.waffleiron = nn.Module()
        for name, part in (("channel_mix", _ChannelMix), ("spatial_mix", _SpatialMix)):
            self.waffleiron.add_module(name, nn.ModuleList(part(norm) for _ in range(depth)))
        self.classif = None if out_channels is None else nn.Conv1d(width, out_channels, 1)
        self.out_channels = width if out_channels is None else out_channels

    def forward(
        self,
        coordinates: Int32[Tensor, "voxels 4"],
        features: Float[Tensor, "voxels channels"],
        *,
        inside: Int64[Tensor, " inside"],
        nearest: Int64[Tensor, " voxels"],
        neighbours: Int64[Tensor, "inside neighbours"],
        cells: Int64[Tensor, "inside 3"],
    ) -> Float[Tensor, "voxels out_channels"]:
        """Features of each voxel, rows in the order of the input.

        What comes after `features` is what `self.preparation` makes of the points; see
        `PlanePreparation`.

        Args:
            coordinates: batch index, x, y, z (voxels).
            features: one row per voxel.
            inside: rows of the voxels in the field of view.
            nearest: for each voxel the row of `inside` whose features it takes.
            neighbours: rows of `inside`.
            cells: of each row of `inside` on the three planes, counted through the batch.

        Raises:
            GeometryError: the batch has no voxels.
        """
        if len(coordinates) == 0:
            raise GeometryError("the batch has no voxels; expected at least one")
        frames = int(coordinates[:, 0].max()) + 1
        tokens = self.embed(features[inside], neighbours)
        counts = self.preparation.cells
        planes = [
            _Plane.of(cells[:, number], frames, counts[a], counts[b])
            for number, (a, b) in enumerate(PLANES)
        ]
        spatial = self.waffleiron.get_submodule("spatial_mix").children()
        channel = self.waffleiron.get_submodule("channel_mix").children()
        for number, (mix_cells, mix_channels) in enumerate(zip(spatial, channel, strict=True)):
            tokens = mix_channels(mix_cells(tokens, planes[number % len(planes)]))
        if self.classif is not None:
            tokens = _dense(tokens, self.classif)
        return tokens[nearest]


@dataclass(frozen=True)
class _Plane:
    """The 2D cells of a batch on one plane.

    Args:
        cell: of each point, counted through the batch.
        share: 1 / (points of each cell + 1e-6).
        frames, height, width: of the batch's grids.
    """

    cell: Tensor
    share: Tensor
    frames: int
    height: int
    width: int

    @classmethod
    def of(cls, cell: Tensor, frames: int, height: int, width: int) -> "_Plane":
        counts = torch.bincount(cell, minlength=frames * height * width)
        return cls(cell, 1 / (counts + COUNT_OFFSET), frames, height, width)

    def flattened(self, tokens: Tensor) -> Tensor:
        """Mean over the points of each cell, as an image [frames, channels, height, width]."""
        rows = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        sums = rows.new_zeros(len(self.share), rows.shape[1]).index_add(0, self.cell, rows)
        means = (sums * self.share.to(sums.dtype)[:, None]).to(tokens.dtype)
        return means.view(self.frames, self.height, self.width, -1).permute(0, 3, 1, 2)

    def inflated(self, image: Tensor) -> Tensor:
        """Each point's cell of an image."""
        return image.permute(0, 2, 3, 1).flatten(0, 2)[self.cell]


@dataclass(frozen=True)
class _Norms:
    """The norms of a network's layers."""

    width: int
    is_layer: bool
    momentum: float

    def make(self) -> nn.Module:
        if self.is_layer:
            return nn.LayerNorm(self.width)
        return VoxelNorm1d(self.width, momentum=self.momentum)


class _Embedding(nn.Module):
    """Tokens from each point's features, and from their differences to its neighbours'."""

    def __init__(self, in_channels: int, width: int, momentum: float) -> None:
        super().__init__()
        self.norm = VoxelNorm1d(in_channels, momentum=momentum)
        self.conv1 = nn.Conv1d(in_channels, width, 1)
        self.conv2 = nn.Sequential(
            VoxelNorm1d(in_channels, momentum=momentum),
            nn.Conv2d(in_channels, width, 1, bias=False),
            VoxelNorm1d(width, momentum=momentum),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 1, bias=False),
        )
        self.final = nn.Conv1d(2 * width, width, 1)

    def forward(self, features: Tensor, neighbours: Tensor) -> Tensor:
        points = self.norm(features)
        norm, first, inner, relu, second = self.conv2
        steps = (points[neighbours] - points[:, None]).flatten(0, 1)
        steps = _dense(relu(inner(_dense(norm(steps), first))), second)
        around = steps.unflatten(0, neighbours.shape).amax(dim=1)
        return _dense(torch.cat((_dense(points, self.conv1), around), dim=1), self.final)


class _ChannelMix(nn.Module):
    """Two 1x1 layers on each point, as a residual branch."""

    def __init__(self, norms: _Norms) -> None:
        super().__init__()
        width = norms.width
        self.norm = norms.make()
        self.mlp = nn.Sequential(
            nn.Conv1d(width, width, 1), nn.ReLU(inplace=True), nn.Conv1d(width, width, 1)
        )
        self.scale = nn.Conv1d(width, width, 1, bias=False, groups=width)

    def forward(self, tokens: Tensor) -> Tensor:
        first, relu, second = self.mlp
        mixed = _dense(relu(_dense(self.norm(tokens), first)), second)
        return tokens + mixed * self.scale.weight.flatten()


class _SpatialMix(nn.Module):
    """Two depthwise convolutions on one plane, as a residual branch."""

    def __init__(self, norms: _Norms) -> None:
        super().__init__()
        width = norms.width
        self.norm = norms.make()
        self.ffn = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, groups=width),
        )
        self.scale = nn.Conv1d(width, width, 1, bias=False, groups=width)

    def forward(self, tokens: Tensor, plane: _Plane) -> Tensor:
        mixed = plane.inflated(self.ffn(plane.flattened(self.norm(tokens))))
        return tokens + mixed * self.scale.weight.flatten()


def _dense(rows: Tensor, layer: nn.Module) -> Tensor:
    """A published 1x1 convolution on rows [points, channels]."""
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    return functional.linear(rows, layer.weight.flatten(1), layer.bias)
