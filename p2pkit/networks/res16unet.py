"""The students: residual U-Nets on sparse voxels, strides 1 to 16."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int32
from torch import Tensor, nn

from p2pkit.errors import GeometryError
from p2pkit.geometry.preparation import Preparation
from p2pkit.networks.blocks import Block, residual_stage
from p2pkit.networks.cells import STRIDES, Cells
from p2pkit.networks.sparse_engine import SparseEngine

STEM_CHANNELS = 32
ENCODER_LEVELS = 4


class Res16UNet(nn.Module):
    """Sparse residual U-Net (Choy et al. 2019), called SR-UNet in PointContrast and PPKT.

    Four encoder stages halve the resolution, four decoder stages double it again and concatenate
    the encoder's output of the same resolution. Parameter names and shapes are those of the
    published networks (`conv0p1s1.kernel`, `block1.0.conv1.kernel`, `convtr4p16s2.kernel`, ...), so
    that checkpoints load by key.

    Args:
        in_channels: input features per voxel.
        out_channels: width of the layer `final` (1x1x1 with bias); None builds no such layer and
            the decoder's features come out, for a projection head.
        engine: makes the sparse layers; parameters and results do not depend on it.
        block: of all stages.
        planes: width of the four encoder and the four decoder stages; bottleneck blocks give four
            times as many channels.
        layers: residual blocks in each of those stages.
        conv1_kernel_size: side of the first convolution's cube (voxels); odd. Published networks
            use 5 or 3: a checkpoint fits only the one it was trained with.
        bn_momentum: weight of the newest batch in every norm's running statistics. The reference
            code uses it outside the residual blocks only and leaves 0.1 within them.

    Attributes:
        out_channels: width of the decoder's features, before `final`.
        cell_channels: widths of what `cells` gives.
    """

    preparation: Preparation | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None,
        *,
        engine: SparseEngine,
        block: Block,
        planes: tuple[int, ...],
        layers: tuple[int, ...],
        conv1_kernel_size: int,
        bn_momentum: float,
    ) -> None:
        super().__init__()
        self._engine, self._block, self._momentum = engine, block, bn_momentum
        self.in_channels = in_channels
        self.out_channels = planes[-1] * block.expansion
        self.cell_channels = (planes[4] * block.expansion, planes[5] * block.expansion)
        self.conv0p1s1 = engine.convolution(
            in_channels, STEM_CHANNELS, kernel_size=conv1_kernel_size
        )
        self.bn0 = engine.batch_norm(STEM_CHANNELS, bn_momentum)
        self.relu = engine.relu()
        width = self._add_encoder(planes, layers)
        self._add_decoder(width, planes, layers)
        self.final = (
            None
            if out_channels is None
            else engine.convolution(self.out_channels, out_channels, kernel_size=1, bias=True)
        )

    def _add_encoder(self, planes: tuple[int, ...], layers: tuple[int, ...]) -> int:
        """Add conv{n}p{stride}s2, bn{n}, block{n} for n = 1..4; the width at the bottom."""
        width = STEM_CHANNELS
        for level in range(ENCODER_LEVELS):
            down = self._engine.convolution(width, width, kernel_size=2, stride=2)
            self.add_module(f"conv{level + 1}p{2**level}s2", down)
            self.add_module(f"bn{level + 1}", self._engine.batch_norm(width, self._momentum))
            width = self._add_stage(level, width, planes[level], layers[level])
        return width

    def _add_decoder(self, width: int, planes: tuple[int, ...], layers: tuple[int, ...]) -> None:
        """Add convtr{n}p{stride}s2, bntr{n}, block{n + 1} for n = 4..7."""
        skips = [plane * self._block.expansion for plane in (planes[2], planes[1], planes[0])]
        for level, skip in enumerate((*skips, STEM_CHANNELS), start=ENCODER_LEVELS):
            out = planes[level]
            up = self._engine.upsampling(width, out)
            self.add_module(f"convtr{level}p{2 ** (8 - level)}s2", up)
            self.add_module(f"bntr{level}", self._engine.batch_norm(out, self._momentum))
            width = self._add_stage(level, out + skip, out, layers[level])

    def _add_stage(self, level: int, width: int, planes: int, count: int) -> int:
        stage = residual_stage(
            self._engine, self._block, width, planes, count=count, momentum=self._momentum
        )
        self.add_module(f"block{level + 1}", stage)
        return planes * self._block.expansion

    def forward(
        self,
        coordinates: Int32[Tensor, "voxels 4"],
        features: Float[Tensor, "voxels channels"],
    ) -> Float[Tensor, "voxels out_channels"]:
        """Features of each voxel, rows in the order of the input.

        Args:
            coordinates: batch index, x, y, z (voxels); no row twice; may be negative.
            features: one row per voxel.

        Raises:
            GeometryError: the batch has no voxels, or a voxel occurs twice.
        """
        x = self._voxels(coordinates, features)
        # The engine's layers follow the precision of their input.
        with torch.autocast(features.device.type, enabled=False):
            for stage in self._stages(x):
                x = stage
            return self._engine.rows(x if self.final is None else self.final(x))

    def cells(
        self, coordinates: Int32[Tensor, "voxels 4"], features: Float[Tensor, "voxels channels"]
    ) -> list[Cells]:
        """The decoder's features at the strides 8 and 4, for detection; arguments as `forward`."""
        x = self._voxels(coordinates, features)
        with torch.autocast(features.device.type, enabled=False):
            stages = zip(STRIDES, self._stages(x), strict=False)
            return [self._engine.cells(stage, stride) for stride, stage in stages]

    def _voxels(self, coordinates: Tensor, features: Tensor) -> Any:
        if len(coordinates) == 0:
            raise GeometryError("the batch has no voxels; expected at least one")
        return self._engine.sparse_tensor(coordinates, features)

    def _stages(self, x: Any) -> Iterator[Any]:
        """What each decoder stage gives, at the strides 8, 4, 2 and 1, each computed on demand."""
        x = self.relu(self.bn0(self.conv0p1s1(x)))
        skips = [x]
        for level in range(ENCODER_LEVELS):
            x = self._run(x, f"conv{level + 1}p{2**level}s2", f"bn{level + 1}")
            x = self.get_submodule(f"block{level + 1}")(x)
            skips.append(x)
        skips.pop()
        for level in range(ENCODER_LEVELS, 2 * ENCODER_LEVELS):
            x = self._run(x, f"convtr{level}p{2 ** (8 - level)}s2", f"bntr{level}")
            x = self._engine.cat(x, skips.pop())
            x = self.get_submodule(f"block{level + 1}")(x)
            yield x

    def _run(self, x: Any, conv: str, norm: str) -> Any:
        return self.relu(self.get_submodule(norm)(self.get_submodule(conv)(x)))
