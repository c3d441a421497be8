"""Turning a 2D network into an instrument that says where its cells look."""

import copy
import inspect
import math

import torch
from torch import Tensor, nn

_IDENTITY_FILES = (
    "torch.nn.modules.activation",
    "torch.nn.modules.batchnorm",
    "torch.nn.modules.dropout",
    "torch.nn.modules.instancenorm",
    "torch.nn.modules.normalization",
    "timm.layers.activations",
    "timm.layers.drop",
    "timm.layers.eca",
    "timm.layers.evo_norm",
    "timm.layers.filter_response_norm",
    "timm.layers.gather_excite",
    "timm.layers.global_context",
    "timm.layers.grn",
    "timm.layers.layer_scale",
    "timm.layers.norm",
    "timm.layers.norm_act",
    "timm.layers.squeeze_excite",
)
_IDENTITY_NAMES = ("SqueezeExcite", "LayerScale")
_ATTENTION_NAMES = ("Attention", "Attn")


class _First(nn.Module):
    """Norms, activations and channel gates: they move nothing, so they pass their input on."""

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        return x


class _Nothing(nn.Module):
    """Attention mixes all positions; without it the residual stream keeps each token's own.

    Args:
        with_weights: give (output, None), as attention that also gives its weights.
    """

    def __init__(self, *, with_weights: bool) -> None:
        super().__init__()
        self.with_weights = with_weights

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor | tuple[Tensor, None]:
        nothing = torch.zeros_like(x)
        return (nothing, None) if self.with_weights else nothing


class _ChannelMean(nn.Module):
    """A linear layer with equal weights that sum to one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        return mean.expand(*x.shape[:-1], self.channels).contiguous()


class _CentreTap(nn.Module):
    """A convolution or pooling reduced to the centre of its window.

    Each window is symmetric about its centre, so that any symmetric weights have this centroid; a
    window of even size has the two middle pixels. One tap, unlike a whole window, is never cut by
    the border, so that all cells of a deep network measure exactly at any input size.

    Args:
        window: the convolution or pooling layer.
        channels: output channels, all equal to the mean of the inputs; None keeps each channel.
    """

    def __init__(
        self, window: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d, channels: int | None
    ) -> None:
        super().__init__()
        self.kernel = _pair(window.kernel_size)
        self.stride = _pair(window.stride)
        self.dilation = _pair(getattr(window, "dilation", 1))
        self.ceil_mode = bool(getattr(window, "ceil_mode", False))
        same = window.padding == "same" or "Same" in type(window).__name__
        self.padding = None if same or isinstance(window.padding, str) else _pair(window.padding)
        if window.padding == "valid":
            self.padding = (0, 0)
        self.channels = channels
        # Some networks convert their input to the type of the first convolution's weight.
        self.register_buffer("weight", torch.empty(0, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        if self.channels is not None:
            x = x.mean(1, keepdim=True)
        for axis in (0, 1):
            x = self._tap(x, axis)
        if self.channels is not None:
            x = x.expand(-1, self.channels, -1, -1).contiguous()
        return x

    def _tap(self, x: Tensor, axis: int) -> Tensor:
        size, stride = x.shape[2 + axis], self.stride[axis]
        reach = self.dilation[axis] * (self.kernel[axis] - 1)
        if self.padding is None:
            count = math.ceil(size / stride)
            before = max((count - 1) * stride + reach + 1 - size, 0) // 2
        else:
            before = self.padding[axis]
            steps = (size + 2 * before - reach - 1) / stride
            count = (math.ceil(steps) if self.ceil_mode else math.floor(steps)) + 1
            if self.ceil_mode and (count - 1) * stride >= size + before:
                count -= 1
        first = torch.arange(count, device=x.device) * stride - before
        middle = (first + reach // 2, first + (reach + 1) // 2)
        return 0.5 * (_pick(x, 2 + axis, middle[0]) + _pick(x, 2 + axis, middle[1]))


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _pick(x: Tensor, axis: int, index: Tensor) -> Tensor:
    """Rows `index` of an axis, with zeros where the index lies outside."""
    size = x.shape[axis]
    inside = ((index >= 0) & (index < size)).to(x.dtype)
    shape = [1] * x.ndim
    shape[axis] = -1
    return x.index_select(axis, index.clamp(0, size - 1)) * inside.reshape(shape)


def position_network(network: nn.Module) -> nn.Module:
    """A copy of `network` that is affine and moves positions exactly as the network does.

    Windows become their centres, linear layers means over channels, norms, activations and channel
    gates the identity, and attention nothing; sums, concatenations, resizing and reshaping stay
    the network's own code. In float64 on the CPU; the argument is not changed.
    """
    copied = copy.deepcopy(network).cpu().double().eval()
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            replacement = _replacement(child)
            if replacement is not None:
                setattr(parent, name, replacement)
    return copied


def _replacement(module: nn.Module) -> nn.Module | None:
    family = type(module).__mro__
    if any(word in type(module).__name__ for word in _ATTENTION_NAMES):
        told = str(inspect.signature(type(module).forward).return_annotation)
        return _Nothing(with_weights="tuple" in told.lower())
    if isinstance(module, nn.Conv2d):
        return _CentreTap(module, module.out_channels)
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        return _CentreTap(module, None)
    if isinstance(module, nn.Linear):
        return _ChannelMean(module.out_features)
    if any(word in type(module).__name__ for word in _IDENTITY_NAMES) or any(
        base.__module__ in _IDENTITY_FILES for base in family
    ):
        return _First()
    return None
