"""Sparse layers in plain torch: no compiled extension, for CPU and CUDA.

Parameters have the names, shapes and initial values of MinkowskiEngine 0.5.4's layers, so that a
state_dict of either engine fits the other. Under autocast features between layers and the factors
of products are in half precision; sums over neighbours, norms and coordinates stay in float32.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int32
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from p2pkit.networks.cells import Cells
from p2pkit.networks.engines.voxel_maps import KernelMap, VoxelMaps
from p2pkit.networks.engines.voxel_norm import VoxelNorm1d


@dataclass(frozen=True)
class SparseVoxels:
    """Features on the voxels of one stride.

    Args:
        rows: one per voxel, in the order of `maps`.
        stride: edge of a voxel in the finest voxels.
        maps: of the batch.
    """

    rows: Float[Tensor, "voxels channels"]
    stride: int
    maps: VoxelMaps

    def with_rows(self, rows: Float[Tensor, "voxels channels"]) -> "SparseVoxels":
        """Other features of the same voxels."""
        return SparseVoxels(rows, self.stride, self.maps)

    def __iadd__(self, other: "SparseVoxels") -> "SparseVoxels":
        """Add the features of the same voxels in place."""
        self.rows.add_(other.rows)
        return self


class _SparseProduct(Function):
    """Sum over kernel rows of gathered inputs times that row's matrix, scattered to the outputs.

    The inputs are gathered again for the gradient: keeping them would take as much memory as the
    mean number of neighbours times the features. Each output occurs once per kernel row, so that
    the order of its sum is fixed on every device.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, kernel: Tensor, maps: KernelMap) -> Tensor:
        ctx.save_for_backward(features, kernel)
        ctx.maps = maps
        out = kernel.new_zeros(maps.outputs, kernel.shape[2])
        for matrix, pair in zip(kernel.to(features.dtype), maps.pairs, strict=True):
            _add_product(out, features, matrix, pair)
        return out.to(features.dtype)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor, None]:
        features, kernel = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        of_features = kernel.new_zeros(features.shape) if ctx.needs_input_grad[0] else None
        of_kernel = torch.zeros_like(kernel)
        for row, matrix in enumerate(kernel.to(features.dtype)):
            pair = ctx.maps.pairs[row]
            if pair is not None and len(pair[0]) == 0:
                continue
            taken = features if pair is None else features.index_select(0, pair[0])
            arriving = gradient if pair is None else gradient.index_select(0, pair[1])
            of_kernel[row] = taken.t() @ arriving
            if of_features is not None:
                target = None if pair is None else pair[0]
                _add_rows(of_features, arriving @ matrix.t(), target)
        return None if of_features is None else of_features.to(features.dtype), of_kernel, None


def _add_product(
    out: Tensor, features: Tensor, matrix: Tensor, pair: tuple[Tensor, Tensor] | None
) -> None:
    """Add one kernel row's products to the outputs that it connects."""
    if pair is None and out.dtype == features.dtype:
        out.addmm_(features, matrix)
    elif pair is None:
        out.add_(features @ matrix)
    elif len(pair[0]):
        _add_rows(out, features.index_select(0, pair[0]) @ matrix, pair[1])


def _add_rows(out: Tensor, rows: Tensor, target: Tensor | None) -> None:
    """Add rows to those of `target`, or each to its own, at the precision of `out`."""
    if target is None:
        out.add_(rows)
    else:
        out.index_add_(0, target, rows.to(out.dtype))


class Convolution(nn.Module):
    """Sparse 3D convolution over a cube of `kernel_size` voxels a side.

    Its parameters are `kernel` (volume, in, out), or (in, out) where the volume is 1, and `bias`
    (1, out). A kernel size of 1 needs stride 1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int, stride: int, bias: bool
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride
        volume = kernel_size**3
        shape = (in_channels, out_channels) if volume == 1 else (volume, in_channels, out_channels)
        self.kernel = _uniform(shape, volume * in_channels)
        self.bias = _uniform((1, out_channels), volume * in_channels) if bias else None

    def forward(self, x: SparseVoxels) -> SparseVoxels:
        """Features of the voxels at `stride` times the input's stride."""
        if self.kernel.ndim == 2:
            rows = x.rows @ self.kernel.to(x.rows.dtype)
        else:
            maps = x.maps.kernel_map(x.stride, self.kernel_size, self.stride)
            rows = sparse_product(x.rows, self.kernel, maps)
        rows = rows if self.bias is None else rows + self.bias.to(rows.dtype)
        return SparseVoxels(rows, x.stride * self.stride, x.maps)


class Upsampling(nn.Module):
    """Transposed convolution, kernel 2, stride 2, back to the voxels that were strided over."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.kernel = _uniform((8, in_channels, out_channels), 8 * out_channels)

    def forward(self, x: SparseVoxels) -> SparseVoxels:
        """Features of the voxels at half the input's stride."""
        maps = x.maps.kernel_map(x.stride // 2, 2, 2).transposed()
        return SparseVoxels(sparse_product(x.rows, self.kernel, maps), x.stride // 2, x.maps)


class BatchNorm(nn.Module):
    """Batch norm over all voxels of the batch; the parameters are under `.bn`."""

    def __init__(self, channels: int, momentum: float) -> None:
        super().__init__()
        self.bn = VoxelNorm1d(channels, momentum=momentum)

    def forward(self, x: SparseVoxels) -> SparseVoxels:
        """Sparse voxels of the same stride."""
        return x.with_rows(self.bn(x.rows))


class ReLU(nn.Module):
    """In-place ReLU."""

    def forward(self, x: SparseVoxels) -> SparseVoxels:
        """Sparse voxels of the same stride."""
        return x.with_rows(x.rows.relu_())


class TorchEngine:
    """The layers of `p2pkit.networks.engines.sparse_engine.SparseEngine` in plain torch."""

    def convolution(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int = 1,
        bias: bool = False,
    ) -> nn.Module:
        """See `Convolution`."""
        return Convolution(
            in_channels, out_channels, kernel_size=kernel_size, stride=stride, bias=bias
        )

    def upsampling(self, in_channels: int, out_channels: int) -> nn.Module:
        """See `Upsampling`."""
        return Upsampling(in_channels, out_channels)

    def batch_norm(self, channels: int, momentum: float) -> nn.Module:
        """See `BatchNorm`."""
        return BatchNorm(channels, momentum)

    def relu(self) -> nn.Module:
        """See `ReLU`."""
        return ReLU()

    def sparse_tensor(
        self, coordinates: Int32[Tensor, "voxels 4"], features: Float[Tensor, "voxels channels"]
    ) -> SparseVoxels:
        """Voxels at stride 1, their rows sorted; in half precision where autocast asks for it.

        Raises:
            GeometryError: a voxel occurs twice, or the voxels lie too far apart for integer keys.
        """
        maps = VoxelMaps(coordinates)
        return SparseVoxels(in_autocast(features)[maps.order], 1, maps)

    def cat(self, first: SparseVoxels, second: SparseVoxels) -> SparseVoxels:
        """The channels of both, which have the same voxels."""
        return first.with_rows(torch.cat((first.rows, second.rows), dim=1))

    def rows(self, x: SparseVoxels) -> Float[Tensor, "voxels channels"]:
        """Features at stride 1 in the order of the coordinates that `sparse_tensor` was given."""
        return x.rows[x.maps.order.argsort()]

    def cells(self, x: SparseVoxels, stride: int) -> Cells:
        """The voxels of `x`, which is at `stride`, in any order."""
        places = x.maps.cells(x.stride)
        places[:, 1:] *= x.stride
        return Cells(places, x.rows, stride)


def sparse_product(
    features: Float[Tensor, "inputs channels"],
    kernel: Float[Tensor, "volume channels out_channels"],
    maps: KernelMap,
) -> Float[Tensor, "outputs out_channels"]:
    """The sum over a kernel's rows of the inputs that each connects, times that row's matrix.

    Where the features are in half precision, products are taken in it and added up in the kernel's.
    """
    found: Any = _SparseProduct.apply(in_autocast(features), kernel, maps)
    return found


def in_autocast(features: Tensor) -> Tensor:
    """The features in the precision that autocast asks for, as they are where it is off."""
    kind = features.device.type
    if not torch.is_autocast_enabled(kind):
        return features
    return features.to(torch.get_autocast_dtype(kind))


def _uniform(shape: tuple[int, ...], fan: int) -> nn.Parameter:
    bound = 1 / math.sqrt(fan)
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))
