"""SpUNet: the sparse U-Net of Pointcept (`SpUNet-v1m1`), on either engine for sparse convolutions.

Its topology is not Res16UNet's: strided convolutions change the width and encoder blocks keep it,
so weights of the one never fit the other. Parameters are the engine's; `from_pointcept` and
`to_pointcept` translate names and kernel layouts to and from published files.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from p2pkit.networks.engines.sparse_engine import SparseEngine
from p2pkit.networks.sparse_unet import SparseUNet

NORM_EPS = 1e-3
INITIAL_STD = 0.02
CHANNELS = (32, 64, 128, 256, 256, 128, 96, 96)
LAYERS = (2, 3, 4, 6, 2, 2, 2, 2)
LEVELS = 4
"""Strides 2, 4, 8 and 16."""
NORM_MOMENTUM = 0.01


class SpUNet(SparseUNet):
    """Encoder and decoder of basic blocks with skip connections, strides 1 to 16.

    Args:
        in_channels: input features per voxel.
        out_channels: width of the last layer, `final`; None builds none.
        engine: of the sparse convolutions.
        conv1_kernel_size: side of the first convolution's cube (voxels), odd; published with 5.
        bn_momentum: of all batch norms; published with 0.01.
        base_channels: width of the first convolution.
        channels: widths of the four encoder and the four decoder stages, in that order.
        layers: blocks of each stage, in the same order.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None,
        *,
        engine: SparseEngine,
        conv1_kernel_size: int = 5,
        bn_momentum: float = NORM_MOMENTUM,
        base_channels: int = 32,
        channels: tuple[int, ...] = CHANNELS,
        layers: tuple[int, ...] = LAYERS,
    ) -> None:
        super().__init__(engine)
        self._momentum = bn_momentum
        self.conv_input = self._unit(in_channels, base_channels, kernel_size=conv1_kernel_size)
        self.down, self.enc = nn.ModuleList(), nn.ModuleList()
        self.up, self.dec = nn.ModuleList(), nn.ModuleList()
        skips = (base_channels, *channels[: LEVELS - 1])
        for level in range(LEVELS):
            width = channels[level]
            self.down.append(self._unit(skips[level], width, kernel_size=2, stride=2))
            self.enc.append(self._stage(width, width, layers[level]))
            below, wide = channels[2 * LEVELS - 2 - level], channels[2 * LEVELS - 1 - level]
            if level == LEVELS - 1:
                below = channels[LEVELS - 1]
            norm = self._norm(wide)
            self.up.append(nn.Sequential(engine.upsampling(below, wide), norm, engine.relu()))
            self.dec.append(self._stage(wide + skips[level], wide, layers[2 * LEVELS - 1 - level]))
        self.final = (
            None
            if out_channels is None
            else engine.convolution(channels[-1], out_channels, kernel_size=1, bias=True)
        )
        self.cell_channels = (channels[LEVELS], channels[LEVELS + 1])
        self.out_channels = channels[-1] if out_channels is None else out_channels
        for name, parameter in self.named_parameters():
            if name.endswith("kernel"):
                nn.init.trunc_normal_(parameter, std=INITIAL_STD)

    def _norm(self, channels: int) -> nn.Module:
        norm: Any = self._engine.batch_norm(channels, self._momentum)
        norm.bn.eps = NORM_EPS
        return norm

    def _unit(
        self, in_channels: int, out_channels: int, *, kernel_size: int, stride: int = 1
    ) -> nn.Sequential:
        conv = self._engine.convolution(
            in_channels, out_channels, kernel_size=kernel_size, stride=stride
        )
        return nn.Sequential(conv, self._norm(out_channels), self._engine.relu())

    def _stage(self, in_channels: int, width: int, count: int) -> nn.Sequential:
        stage = nn.Sequential()
        for number in range(count):
            block = _Block(self._engine, in_channels if number == 0 else width, width, self._norm)
            stage.add_module(f"block{number}", block)
        return stage

    def _stages(self, x: Any) -> Iterator[Any]:
        x = self.conv_input(x)
        skips: list[Any] = []
        for down, stage in zip(self.down, self.enc, strict=True):
            skips.append(x)
            x = stage(down(x))
        for level in reversed(range(LEVELS)):
            x = self._engine.cat(self.up[level](x), skips[level])
            x = self.dec[level](x)
            yield x


class _Block(nn.Module):
    """Two 3x3x3 convolutions with a skip connection, `proj` where the width changes."""

    def __init__(self, engine: SparseEngine, in_channels: int, width: int, norm: Any) -> None:
        super().__init__()
        self.conv1 = engine.convolution(in_channels, width, kernel_size=3)
        self.bn1 = norm(width)
        self.conv2 = engine.convolution(width, width, kernel_size=3)
        self.bn2 = norm(width)
        self.relu = engine.relu()
        self.proj = (
            None
            if in_channels == width
            else nn.Sequential(engine.convolution(in_channels, width, kernel_size=1), norm(width))
        )

    def forward(self, x: Any) -> Any:
        """Sparse tensor of the same voxels."""
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.proj is None else self.proj(x)
        return self.relu(out)


def from_pointcept(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state_dict under the names and in the layouts of `SpUNet`.

    Published kernels are (out, x, y, z, in); the engines' are (volume, in, out), x running fastest.
    Of a 1x1x1 kernel spconv reads the same memory as (in, out), without transposing it (seen in
    2.3.8), so that published weights mean that.
    """
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        stem, _, leaf = name.rpartition(".")
        if value.ndim == 5:
            wide, side, narrow = value.shape[0], value.shape[1], value.shape[4]
            kernel = value.permute(3, 2, 1, 4, 0).reshape(-1, narrow, wide)
            found[f"{stem}.kernel"] = value.reshape(narrow, wide) if side == 1 else kernel
        elif stem == "final":
            found[name] = value[None]
        else:
            found[f"{stem}.bn.{leaf}"] = value
    return {name: value.contiguous() for name, value in found.items()}


def to_pointcept(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict of `SpUNet` under the published names; the reverse of `from_pointcept`."""
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name.endswith(".kernel"):
            found[name.removesuffix("kernel") + "weight"] = _published_kernel(value)
        elif name.startswith("final."):
            found[name] = value[0]
        else:
            found[name.replace(".bn.", ".")] = value
    return {name: value.contiguous() for name, value in found.items()}


def _published_kernel(kernel: Tensor) -> Tensor:
    if kernel.ndim == 2:
        return kernel.reshape(kernel.shape[1], 1, 1, 1, kernel.shape[0])
    side = round(len(kernel) ** (1 / 3))
    return kernel.reshape(side, side, side, *kernel.shape[1:]).permute(4, 2, 1, 0, 3)
