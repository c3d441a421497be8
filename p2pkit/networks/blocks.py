"""Sparse layers that the students are made of, under the parameter names of published checkpoints.

A "sparse tensor" here is `MinkowskiEngine.SparseTensor`, which ships no types, hence `Any`.
"""

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import nn

from p2pkit.networks.minkowski import minkowski_engine


@contextmanager
def _engine_style() -> Generator[None]:
    """Silence torch's advice that MinkowskiEngine 0.5.4 meets in each convolution's constructor."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*should not be instantiated", DeprecationWarning)
        yield


def convolution(
    in_channels: int, out_channels: int, *, kernel_size: int, stride: int = 1, bias: bool = False
) -> nn.Module:
    """Sparse 3D convolution over a full cube of `kernel_size` voxels a side.

    Its parameters are `kernel` (volume, in, out), or (in, out) where the volume is 1, and `bias`
    (1, out).
    """
    engine = minkowski_engine()
    with _engine_style():
        return engine.MinkowskiConvolution(
            in_channels,
            out_channels,
            kernel_size=kernel_size,
            stride=stride,
            bias=bias,
            dimension=3,
        )


def upsampling(in_channels: int, out_channels: int) -> nn.Module:
    """Transposed convolution, kernel 2, stride 2: back to the voxels that were strided over."""
    engine = minkowski_engine()
    with _engine_style():
        return engine.MinkowskiConvolutionTranspose(
            in_channels, out_channels, kernel_size=2, stride=2, bias=False, dimension=3
        )


def batch_norm(channels: int, momentum: float) -> nn.Module:
    """Batch norm over all voxels of the batch; the parameters are under `.bn`."""
    return minkowski_engine().MinkowskiBatchNorm(channels, momentum=momentum)


def relu() -> nn.Module:
    """In-place ReLU."""
    return minkowski_engine().MinkowskiReLU(inplace=True)


class BasicBlock(nn.Module):
    """Two 3x3x3 convolutions with a skip connection (He et al. 2016), at constant stride.

    Where the width changes, the skip path gets a 1x1x1 convolution and a norm, `downsample`.
    """

    def __init__(self, in_channels: int, out_channels: int, momentum: float) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, out_channels, kernel_size=3)
        self.norm1 = batch_norm(out_channels, momentum)
        self.conv2 = convolution(out_channels, out_channels, kernel_size=3)
        self.norm2 = batch_norm(out_channels, momentum)
        self.relu = relu()
        self.downsample = (
            None
            if in_channels == out_channels
            else nn.Sequential(
                convolution(in_channels, out_channels, kernel_size=1),
                batch_norm(out_channels, momentum),
            )
        )

    def forward(self, x: Any) -> Any:
        """Sparse tensor of the same voxels."""
        out = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


def residual_stage(
    in_channels: int, out_channels: int, *, blocks: int, momentum: float
) -> nn.Sequential:
    """`blocks` residual blocks, of which the first changes the width."""
    widths = [in_channels] + [out_channels] * (blocks - 1)
    return nn.Sequential(*(BasicBlock(width, out_channels, momentum) for width in widths))
