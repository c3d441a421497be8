"""Residual blocks on sparse voxels, under the parameter names of published checkpoints."""

from typing import Any

from torch import nn

from p2pkit.networks.engines.sparse_engine import SparseEngine


class BasicBlock(nn.Module):
    """Two 3x3x3 convolutions with a skip connection (He et al. 2016), at constant stride.

    Where the width changes, the skip path gets a 1x1x1 convolution and a norm, `downsample`.
    """

    expansion = 1

    def __init__(
        self, engine: SparseEngine, in_channels: int, planes: int, momentum: float
    ) -> None:
        super().__init__()
        self.conv1 = engine.convolution(in_channels, planes, kernel_size=3)
        self.norm1 = engine.batch_norm(planes, momentum)
        self.conv2 = engine.convolution(planes, planes, kernel_size=3)
        self.norm2 = engine.batch_norm(planes, momentum)
        self.relu = engine.relu()
        self.downsample = _downsample(engine, in_channels, planes, momentum)

    def forward(self, x: Any) -> Any:
        """Sparse tensor of the same voxels, `planes` wide."""
        out = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    """Convolutions 1x1x1, 3x3x3 and 1x1x1 with a skip connection; the output is 4 times as wide."""

    expansion = 4

    def __init__(
        self, engine: SparseEngine, in_channels: int, planes: int, momentum: float
    ) -> None:
        super().__init__()
        width = planes * self.expansion
        self.conv1 = engine.convolution(in_channels, planes, kernel_size=1)
        self.norm1 = engine.batch_norm(planes, momentum)
        self.conv2 = engine.convolution(planes, planes, kernel_size=3)
        self.norm2 = engine.batch_norm(planes, momentum)
        self.conv3 = engine.convolution(planes, width, kernel_size=1)
        self.norm3 = engine.batch_norm(width, momentum)
        self.relu = engine.relu()
        self.downsample = _downsample(engine, in_channels, width, momentum)

    def forward(self, x: Any) -> Any:
        """Sparse tensor of the same voxels, four times `planes` wide."""
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.relu(self.norm2(self.conv2(out)))
        out = self.norm3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


Block = type[BasicBlock] | type[Bottleneck]


def residual_stage(
    engine: SparseEngine,
    block: Block,
    in_channels: int,
    planes: int,
    *,
    count: int,
    momentum: float,
) -> nn.Sequential:
    """`count` residual blocks, of which the first may change the width."""
    widths = [in_channels] + [planes * block.expansion] * (count - 1)
    return nn.Sequential(*(block(engine, width, planes, momentum) for width in widths))


def _downsample(
    engine: SparseEngine, in_channels: int, out_channels: int, momentum: float
) -> nn.Sequential | None:
    if in_channels == out_channels:
        return None
    return nn.Sequential(
        engine.convolution(in_channels, out_channels, kernel_size=1),
        engine.batch_norm(out_channels, momentum),
    )
