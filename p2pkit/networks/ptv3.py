"""Point Transformer V3 (Wu et al. 2024, arXiv 2312.10035) in plain torch, for CPU and CUDA.

Names and shapes of the parameters are those of the published files (Pointcept, Sonata, Concerto).
Attention is torch's `scaled_dot_product_attention` over patches of voxels along space-filling
curves; the positional convolution uses the torch engine's kernel maps.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor, nn
from torch.nn import functional

from p2pkit.errors import GeometryError
from p2pkit.geometry.students.preparation import Preparation
from p2pkit.networks.engines.torch_engine import sparse_product
from p2pkit.networks.engines.voxel_maps import VoxelMaps
from p2pkit.networks.serialization import ORDERS, serialization_code


@dataclass(frozen=True)
class PTv3Size:
    """Widths, depths and heads; the defaults are those of Sonata's class, decoder included.

    Args:
        enc_channels, enc_depths, enc_heads: of each encoder stage, from stride 1 downwards.
        dec_channels, dec_depths, dec_heads: of each decoder stage, from stride 1 downwards; empty
            for the encoder alone, whose features are then carried up as Sonata does for probing.
        patch_size: voxels that attend to each other.
        drop_path: share of residual branches dropped in training at the deepest block; shallower
            blocks drop less, in proportion to their depth.
        layer_scale: initial scale of each residual branch; None has none.
        mask_token: whether the embedding has Sonata's token for masked voxels, which nothing here
            masks: published weights have it, training leaves it.
    """

    enc_channels: tuple[int, ...] = (48, 96, 192, 384, 512)
    enc_depths: tuple[int, ...] = (3, 3, 3, 12, 3)
    enc_heads: tuple[int, ...] = (3, 6, 12, 24, 32)
    dec_channels: tuple[int, ...] = (96, 96, 192, 384)
    dec_depths: tuple[int, ...] = (3, 3, 3, 3)
    dec_heads: tuple[int, ...] = (6, 6, 12, 32)
    patch_size: int = 1024
    drop_path: float = 0.3
    layer_scale: float | None = None
    mask_token: bool = False


SMALL = PTv3Size(
    enc_channels=(32, 64, 128, 256, 512),
    enc_depths=(2, 2, 2, 2, 2),
    enc_heads=(2, 4, 8, 16, 32),
    dec_channels=(64, 64, 128, 256),
    dec_depths=(1, 1, 1, 1),
    dec_heads=(4, 4, 8, 16),
)
SONATA = PTv3Size(dec_channels=(), dec_depths=(), dec_heads=(), mask_token=True)


@dataclass
class _Level:
    """The voxels of one stride, and what every block on them shares.

    Args:
        maps: of the batch.
        stride: edge of a voxel in the finest voxels.
        orders: names of the curves, in the order in which blocks take them.
        patches: by order and patch length, the row of each place of the padded patches, and for
            each row the place that its output is read from.
    """

    maps: VoxelMaps
    stride: int
    orders: tuple[str, ...]
    patches: dict[tuple[str, int], tuple[Tensor, Tensor, int]] = field(default_factory=dict)

    def patches_of(self, block: int, patch_size: int) -> tuple[Tensor, Tensor, int]:
        """Rows of the padded patches, the places to read back, and the length of a patch."""
        order = self.orders[block % len(self.orders)]
        if (order, patch_size) not in self.patches:
            cells = self.maps.cells(self.stride)
            depth = int(cells[:, 1:].max() + 1).bit_length()
            along = serialization_code(cells, order, depth).argsort()
            counts = torch.bincount(cells[:, 0])
            rows, places, length = padded_patches(counts[counts > 0].tolist(), patch_size)
            back = torch.empty_like(along)
            back[along] = places.to(along.device)
            self.patches[order, patch_size] = along[rows.to(along.device)], back, length
        return self.patches[order, patch_size]


def padded_patches(
    counts: list[int], patch_size: int
) -> tuple[Int64[Tensor, " places"], Int64[Tensor, " voxels"], int]:
    """Cut serialised clouds into patches of one length.

    A cloud that does not fill its last patch repeats the end of the patch before, so that no key is
    empty; the outputs of the repeated places are not read.

    Args:
        counts: voxels of each cloud, which follow one another.
        patch_size: the longest patch; the smallest cloud bounds it, too.

    Returns:
        For each place of the padded patches the row along the curve, for each such row its place,
        and the length of a patch.
    """
    length = min(patch_size, *counts)
    rows: list[Tensor] = []
    places: list[Tensor] = []
    first = first_place = 0
    for count in counts:
        whole = -(-count // length) * length
        row = torch.arange(whole)
        if whole > count:
            row[count:] -= length
        rows.append(first + row)
        places.append(first_place + torch.arange(count))
        first, first_place = first + count, first_place + whole
    return torch.cat(rows), torch.cat(places), length


class PTv3(nn.Module):
    """Encoder and decoder of serialised attention, strides 1 to 16.

    Args:
        in_channels: input features per voxel.
        out_channels: width of a last linear layer, `final`; None has none.
        size: widths and depths.
    """

    preparation: Preparation | None = None

    def __init__(
        self, in_channels: int, out_channels: int | None = None, *, size: PTv3Size | None = None
    ) -> None:
        super().__init__()
        self._size = size = size or PTv3Size()
        widths = size.enc_channels
        self.embedding = _Embedding(in_channels, widths[0], with_token=size.mask_token)
        self.enc, self.dec = nn.Module(), nn.Module()
        drops = _drop_rates(size.drop_path, size.enc_depths)
        for level, depth in enumerate(size.enc_depths):
            stage = nn.Module()
            if level:
                stage.add_module("down", _Pooling(widths[level - 1], widths[level]))
            _add_blocks(stage, size, widths[level], size.enc_heads[level], drops[level])
            self.enc.add_module(f"enc{level}", stage)
            assert len(drops[level]) == depth
        below = widths[-1]
        dec_drops = _drop_rates(size.drop_path, size.dec_depths)
        for level in reversed(range(len(size.dec_depths))):
            stage, width = nn.Module(), size.dec_channels[level]
            stage.add_module("up", _Unpooling(below, widths[level], width))
            _add_blocks(stage, size, width, size.dec_heads[level], dec_drops[level][::-1])
            self.dec.add_module(f"dec{level}", stage)
            below = width
        carried = below if size.dec_depths else sum(widths)
        self.final = None if out_channels is None else nn.Linear(carried, out_channels)
        self.out_channels = carried if out_channels is None else out_channels

    def forward(
        self, coordinates: Int32[Tensor, "voxels 4"], features: Float[Tensor, "voxels channels"]
    ) -> Float[Tensor, "voxels out_channels"]:
        """Features of each voxel, rows in the order of the input.

        The curves begin at each batch's lowest coordinate where that is negative, else at 0.

        Args:
            coordinates: batch index, x, y, z (voxels); no row twice; may be negative.
            features: one row per voxel.

        Raises:
            GeometryError: the batch has no voxels, one occurs twice, or they lie too far apart.
        """
        if len(coordinates) == 0:
            raise GeometryError("the batch has no voxels; expected at least one")
        lowest = coordinates.amin(dim=0).clamp_max(0)
        lowest[0] = 0
        maps = VoxelMaps(coordinates - lowest)
        orders = ORDERS
        if self.training:
            orders = tuple(ORDERS[int(i)] for i in torch.randperm(len(ORDERS)))
        levels = [_Level(maps, 2**level, orders) for level in range(len(self._size.enc_depths))]
        rows = self._through(self.embedding(features[maps.order]), levels)
        rows = rows if self.final is None else self.final(rows)
        return rows[maps.order.argsort()]

    def _through(self, rows: Tensor, levels: list[_Level]) -> Tensor:
        encoded: list[Tensor] = []
        for number, level in enumerate(levels):
            stage = self.enc.get_submodule(f"enc{number}")
            if number:
                rows = stage.get_submodule("down")(rows, level.maps.parents(level.stride // 2))
            for index, block in enumerate(_blocks(stage)):
                rows = block(rows, level, index)
            encoded.append(rows)
        if not self._size.dec_depths:
            return _carried_up(encoded, levels)
        for number in reversed(range(len(levels) - 1)):
            stage, level = self.dec.get_submodule(f"dec{number}"), levels[number]
            parents = level.maps.parents(level.stride)
            rows = stage.get_submodule("up")(rows, encoded[number], parents)
            for index, block in enumerate(_blocks(stage)):
                rows = block(rows, level, index)
        return rows


def _carried_up(encoded: list[Tensor], levels: list[_Level]) -> Tensor:
    """Sonata's features for probing: each voxel's of every stride, finest first, side by side."""
    rows = encoded[-1]
    for number in reversed(range(len(levels) - 1)):
        level = levels[number]
        rows = torch.cat((encoded[number], rows[level.maps.parents(level.stride)]), dim=1)
    return rows


def _drop_rates(most: float, depths: tuple[int, ...]) -> list[list[float]]:
    """Rates of each stage's blocks: from 0 to `most` over all of them."""
    last = max(sum(depths) - 1, 1)
    rates = (most * block / last for block in range(sum(depths)))
    return [[next(rates) for _ in range(depth)] for depth in depths]


def _add_blocks(
    stage: nn.Module, size: PTv3Size, width: int, heads: int, drops: list[float]
) -> None:
    for number, drop in enumerate(drops):
        stage.add_module(f"block{number}", _Block(width, heads, size, drop))


def _blocks(stage: nn.Module) -> Iterator[nn.Module]:
    return (child for name, child in stage.named_children() if name.startswith("block"))


class _Embedding(nn.Module):
    def __init__(self, in_channels: int, width: int, *, with_token: bool) -> None:
        super().__init__()
        self.stem = nn.Module()
        self.stem.add_module("linear", nn.Linear(in_channels, width))
        self.stem.add_module("norm", nn.LayerNorm(width))
        if with_token:
            self.mask_token = nn.Parameter(torch.zeros(1, width), requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        rows = self.stem.get_submodule("linear")(features)
        return functional.gelu(self.stem.get_submodule("norm")(rows))


class _Pooling(nn.Module):
    """The maximum over the voxels of twice the size."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_channels, width)
        self.norm = nn.Sequential(nn.LayerNorm(width))

    def forward(self, rows: Tensor, parents: Tensor) -> Tensor:
        wide = self.proj(rows)
        pooled = wide.new_full((int(parents.max()) + 1, wide.shape[1]), -torch.inf)
        index = parents[:, None].expand_as(wide)
        pooled = pooled.scatter_reduce(0, index, wide, "amax", include_self=False)
        return functional.gelu(self.norm(pooled))


class _Unpooling(nn.Module):
    """The coarser voxel's features added to those of the encoder."""

    def __init__(self, below: int, skip: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(below, width), nn.LayerNorm(width), nn.GELU())
        self.proj_skip = nn.Sequential(nn.Linear(skip, width), nn.LayerNorm(width), nn.GELU())

    def forward(self, coarse: Tensor, skip: Tensor, parents: Tensor) -> Tensor:
        return self.proj_skip(skip) + self.proj(coarse)[parents]


class _Block(nn.Module):
    """Positional convolution, attention and MLP, each a residual branch."""

    def __init__(self, width: int, heads: int, size: PTv3Size, drop: float) -> None:
        super().__init__()
        self.cpe = nn.Sequential(
            _SubmanifoldConv(width), nn.Linear(width, width), nn.LayerNorm(width)
        )
        self.norm1 = nn.Sequential(nn.LayerNorm(width))
        self.ls1 = nn.Sequential(_LayerScale(width, size.layer_scale))
        self.attn = _PatchAttention(width, heads, size.patch_size)
        self.norm2 = nn.Sequential(nn.LayerNorm(width))
        self.ls2 = nn.Sequential(_LayerScale(width, size.layer_scale))
        self.mlp = nn.Sequential(_Mlp(width))
        self._drop = drop

    def forward(self, rows: Tensor, level: _Level, index: int) -> Tensor:
        conv, linear, norm = self.cpe
        rows = rows + norm(linear(conv(rows, level)))
        attended = self.attn(self.norm1(rows), level.patches_of(index, self.attn.patch_size))
        rows = rows + self._dropped(self.ls1(attended))
        return rows + self._dropped(self.ls2(self.mlp(self.norm2(rows))))

    def _dropped(self, branch: Tensor) -> Tensor:
        """Stochastic depth (Huang et al. 2016), for each voxel separately, as published."""
        if not self.training or self._drop == 0:
            return branch
        kept = torch.rand(len(branch), 1, device=branch.device) >= self._drop
        return branch * kept / (1 - self._drop)


class _SubmanifoldConv(nn.Module):
    """3x3x3 convolution over the occupied voxels; `weight` is (out, x, y, z, in) as published."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, 3, 3, 3, width))
        self.bias = nn.Parameter(torch.empty(width))
        bound = (27 * width) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, rows: Tensor, level: _Level) -> Tensor:
        maps = level.maps.kernel_map(level.stride, 3, 1)
        kernel = self.weight.permute(3, 2, 1, 4, 0).flatten(0, 2)
        return sparse_product(rows, kernel, maps) + self.bias


class _PatchAttention(nn.Module):
    def __init__(self, width: int, heads: int, patch_size: int) -> None:
        super().__init__()
        self.heads, self.patch_size = heads, patch_size
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, rows: Tensor, patches: tuple[Tensor, Tensor, int]) -> Tensor:
        places, back, length = patches
        width = rows.shape[1]
        qkv = self.qkv(rows)[places].view(-1, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        found = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(found.transpose(1, 2).reshape(-1, width)[back])


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, rows: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(rows)))


class _LayerScale(nn.Module):
    """A learnt factor for each channel (Touvron et al. 2021); none where `initial` is None."""

    def __init__(self, width: int, initial: float | None) -> None:
        super().__init__()
        self.gamma = None if initial is None else nn.Parameter(torch.full((width,), initial))

    def forward(self, rows: Tensor) -> Tensor:
        return rows if self.gamma is None else rows * self.gamma
