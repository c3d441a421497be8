"""The students: residual U-Nets on sparse voxels, strides 1 to 16."""

from collections.abc import Iterator
from typing import Any

from p2pkit.networks.blocks import Block, residual_stage
from p2pkit.networks.engines.sparse_engine import SparseEngine
from p2pkit.networks.sparse_unet import SparseUNet

STEM_CHANNELS = 32
ENCODER_LEVELS = 4


class Res16UNet(SparseUNet):
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
        out_channels: width of the features that come out.
        cell_channels: widths of what `cells` gives.
    """

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
        super().__init__(engine)
        self._block, self._momentum = block, bn_momentum
        self.in_channels = in_channels
        decoded = planes[-1] * block.expansion
        self.out_channels = decoded if out_channels is None else out_channels
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
            else engine.convolution(decoded, out_channels, kernel_size=1, bias=True)
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

    def _stages(self, x: Any) -> Iterator[Any]:
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
