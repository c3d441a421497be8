"""Measuring where the cells of a network's map sit in its input.

The centres come from a copy of the network that averages positions (see `position_network`): fed
with an image of pixel coordinates, each of its cells answers with its own centre. The network
itself, with its real weights, is then poked at the centres found and must answer in those cells.
"""

import copy
import inspect
import math
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from p2pkit.errors import TeacherError, first_line
from p2pkit.geometry.maps.grid import FeatureGrid

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

    def forward(self, *given: object, **named: object) -> Tensor:
        return _first_tensor(given, named)


def _first_tensor(given: tuple[object, ...], named: dict[str, object]) -> Tensor:
    return next(value for value in (*given, *named.values()) if isinstance(value, Tensor))


class _Nothing(nn.Module):
    """Attention mixes all positions; without it the residual stream keeps each token's own.

    Args:
        with_weights: give (output, None), as attention that also gives its weights.
    """

    def __init__(self, *, with_weights: bool) -> None:
        super().__init__()
        self.with_weights = with_weights

    def forward(self, *given: object, **named: object) -> Tensor | tuple[Tensor, None]:
        nothing = torch.zeros_like(_first_tensor(given, named))
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


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
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
        annotation = str(inspect.signature(type(module).forward).return_annotation)
        return _Nothing(with_weights="tuple" in annotation.lower())
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


# Input level of the position network: a functional activation (ReLU, GELU, hard swish) passes
# values of this size unchanged.
_LEVEL = 1024.0

_STRAIGHT_PX = 1e-3

_DECIMALS = 6

_PROBED_CELLS = 6

# The poke's standard deviation in strides, and its height in units of the normalised input.
_POKE_WIDTH, _POKE_HEIGHT = 1 / 3, 3.0

_POKED_PLACES = 4

DECLARED_TOLERANCE = 0.35
"""Strides between what a file declares and where its map answers."""


def measure_grid(
    network: nn.Module, input_size: tuple[int, int], *, nominal_stride: int, name: str
) -> FeatureGrid:
    """Stride, offset and number of the cells for one input size.

    Padding depends on the size only modulo the stride, so that the centres are measured on a small
    input with the same remainder; a network of fixed input size is measured at that size.

    Args:
        network: takes NCHW images and returns one map, channels-last.
        input_size: (width, height) of the network's input (px).
        nominal_stride: distance of the cells (px) as the network reports it.
        name: what the messages call the network.

    Raises:
        TeacherError: the network cannot take the size, does not keep positions on a regular grid,
            or answers elsewhere than measured.
    """
    image = _noise(input_size)
    answer = _map(network, image.to(_device_of(network)), name)
    small = tuple(side % nominal_stride + _PROBED_CELLS * nominal_stride for side in input_size)
    (stride_u, offset_u), (stride_v, offset_v) = _fit_any(
        position_network(network), [(small[0], small[1]), input_size], name
    )
    grid = FeatureGrid(
        stride=(stride_u, stride_v),
        offset=(offset_u, offset_v),
        cells=(answer.shape[2], answer.shape[1]),
        input_size=input_size,
    )
    check_response(network, grid, name=name, before=answer)
    return grid


def _fit_any(
    probe: nn.Module, sizes: list[tuple[int, int]], name: str
) -> tuple[tuple[float, float], tuple[float, float]]:
    """(stride, offset) along u and v, from the first size that can be measured."""
    failures: list[TeacherError] = []
    for size in sizes:
        try:
            centres = _cell_centres(probe, size, name)
            return _fit(centres[..., 0], name), _fit(centres[..., 1].T, name)
        except TeacherError as error:
            failures.append(error)
    raise failures[-1]


def _cell_centres(probe: nn.Module, size: tuple[int, int], name: str) -> Tensor:
    """Centre (u, v) of each cell (px), [cells_v, cells_u, 2]; NaN where a cell sees nothing."""
    width, height = size
    flat = torch.full((3, height, width), _LEVEL, dtype=torch.float64)
    ramp_u = torch.arange(width, dtype=torch.float64).expand_as(flat)
    ramp_v = torch.arange(height, dtype=torch.float64)[:, None].expand_as(flat)
    images = torch.stack([flat, 2 * flat, flat + ramp_u, flat + ramp_v])
    try:
        answer = _run(probe, images)
    except Exception as error:
        # Modules of any library, of which some get what they do not expect.
        raise TeacherError(
            f"teacher {name}: the position of its cells cannot be measured, because the probe "
            f"does not know how {_failing_module(error)} moves positions ({first_line(error)}). "
            "Networks of "
            "convolutions, plain ViTs and windowed transformers such as Swin can be measured; "
            "choose another, or export it and declare its grid: --teacher onnx:FILE"
        ) from error
    # The network is affine: the differences carry its weights, alone and times the coordinate.
    weight = answer[1] - answer[0]
    moments = (answer[2:] - answer[0]) * _LEVEL
    return ((moments * weight).sum(-1) / weight.square().sum(-1)).permute(1, 2, 0)


def _run(network: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", category=UserWarning)
        return network(images)


def _map(network: nn.Module, images: Tensor, name: str) -> Tensor:
    """The map of the network itself; TeacherError if it does not accept the size."""
    try:
        return _run(network, images)
    except Exception as error:
        # Networks of any library, which fail in their own ways.
        height, width = images.shape[2:]
        raise TeacherError(
            f"teacher {name} cannot take an input of {width} x {height} px: {first_line(error)}. "
            "Set input_size, or the scale of a scaled view, to what it accepts, for a ViT a "
            "multiple of its patch"
        ) from error


def _failing_module(error: Exception) -> str:
    """Class of the innermost module that was not torch's own when an error came."""
    name, step = "a module", error.__traceback__
    while step is not None:
        module = step.tb_frame.f_locals.get("self")
        if isinstance(module, nn.Module) and not type(module).__module__.startswith("torch."):
            name = type(module).__name__
        step = step.tb_next
    return name


def _fit(centres: Tensor, name: str) -> tuple[float, float]:
    """(stride, offset) of cells along the last axis; border cells may be cut and are left out."""
    inner = centres[1:-1, 1:-1]
    count = inner.shape[1]
    if inner.shape[0] < 1 or count < 2:
        raise TeacherError(
            f"teacher {name}: a map of {centres.shape[1]} x {centres.shape[0]} cells is too small "
            "to measure; expected at least 4 cells per side: use larger images or an input_size"
        )
    stride = float((inner[0, -1] - inner[0, 0]) / (count - 1))
    offset = float(inner[0, 0]) - stride
    line = offset + stride * torch.arange(1, count + 1, dtype=torch.float64)
    deviation = float((inner - line).abs().max())
    if not (stride >= 0.5 and deviation <= _STRAIGHT_PX):
        raise TeacherError(
            f"teacher {name}: its cells do not sit on a regular grid that the probe can measure "
            f"(stride {stride:g} px, deviation {deviation:g} px); it mixes positions by a module "
            "that the probe does not know. Choose another network"
        )
    return round(stride, _DECIMALS), round(offset, _DECIMALS)


def check_response(
    network: nn.Module, grid: FeatureGrid, *, name: str, before: Tensor | None = None
) -> None:
    """Poke the input around the centre of the map's middle cell: the map must change there.

    The change is located with the network's own weights, which need not be symmetric (those of
    TensorFlow-padded networks are shifted by half a stride), so that this catches a wrong cell but
    does not improve on the measured centre. `before` is the network's map of the probe's noise,
    where that is known already.

    Raises:
        TeacherError: the centroid of the change is a stride or more away from the cell.
    """
    cell = (grid.cells[0] // 2, grid.cells[1] // 2)
    [found] = _answers(network, grid, [(float(cell[0]), float(cell[1]))], name, before)
    if not max(abs(found[axis] - cell[axis]) for axis in (0, 1)) < 1:
        raise TeacherError(
            f"teacher {name}: an input changed around the centre of cell {cell} changes the map "
            f"around cell ({found[0]:.2f}, {found[1]:.2f}); the measured grid {grid} is wrong for "
            "this network, so its features cannot be matched with pixels. Choose another network"
        )


def check_declared(network: nn.Module, grid: FeatureGrid, *, name: str) -> None:
    """Poke the input all over the map's middle cell: the map must change around each poke.

    One poke is answered by whole cells, and looks right with a grid that is half a stride off. The
    mean over pokes that are spread evenly over a stride does not round.

    Raises:
        TeacherError: the mean of the answers is `DECLARED_TOLERANCE` strides or more away.
    """
    shift = answer_shift(network, grid, name=name)
    if max(abs(value) for value in shift) < DECLARED_TOLERANCE:
        return
    seen = [grid.offset[axis] - grid.stride[axis] * shift[axis] for axis in (0, 1)]
    raise TeacherError(
        f"teacher {name} declares the first centre at {grid.offset[0]:g} px and a stride of "
        f"{grid.stride[0]:g} px, but its map changes with the input as if the first centre were at "
        f"({seen[0]:.1f}, {seen[1]:.1f}) px. Declare the offset that the network has, such as "
        "(stride - 1) / 2 for patches and 0 for ResNets; if it is known and the weights are "
        'lopsided, as TensorFlow-padded ones may be, add "trust_offset": true beside it'
    )


def answer_shift(network: nn.Module, grid: FeatureGrid, *, name: str) -> tuple[float, float]:
    """Mean distance (u, v) from pokes over the map's middle cell to where it changes (strides)."""
    cell = (grid.cells[0] // 2, grid.cells[1] // 2)
    steps = [(step + 0.5) / _POKED_PLACES - 0.5 for step in range(_POKED_PLACES)]
    turned = steps[_POKED_PLACES // 2 :] + steps[: _POKED_PLACES // 2]
    places = [(cell[0] + u, cell[1] + v) for u, v in zip(steps, turned, strict=True)]
    found = list(_answers(network, grid, places, name))
    shifts = torch.tensor(found, dtype=torch.float64) - torch.tensor(places, dtype=torch.float64)
    return float(shifts[:, 0].mean()), float(shifts[:, 1].mean())


def _answers(
    network: nn.Module,
    grid: FeatureGrid,
    places: Sequence[tuple[float, float]],
    name: str,
    before: Tensor | None = None,
) -> Iterator[tuple[float, float]]:
    """Where the map changes (u, v in cells) when the input does at each place (u, v in cells)."""
    device = _device_of(network)
    image = _noise(grid.input_size)
    if before is None:
        before = _map(network, image.to(device), name)
    for place in places:
        poked = image + _POKE_HEIGHT * _poke(grid, place)
        change = (_map(network, poked.to(device), name) - before)[0].double().square().sum(-1)
        change = change.square().cpu()
        change /= change.sum()
        u, v = (float((change.sum(axis) * torch.arange(grid.cells[axis])).sum()) for axis in (0, 1))
        yield u, v


def _poke(grid: FeatureGrid, place: tuple[float, float]) -> Tensor:
    """A bump of height 1 at a place (u, v in cells), [height, width]."""
    poke = torch.ones(grid.input_size[::-1])
    for axis in (0, 1):
        centre = grid.offset[axis] + grid.stride[axis] * place[axis]
        distance = (torch.arange(grid.input_size[axis]) - centre) / grid.stride[axis]
        profile = torch.exp(-0.5 * (distance / _POKE_WIDTH) ** 2)
        poke *= profile if axis == 0 else profile[:, None]
    return poke


def _noise(size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, size[1], size[0], generator=generator).mul_(0.5)


def _device_of(network: nn.Module) -> torch.device:
    # A scripted network may have its weights as constants.
    return next((value.device for value in network.parameters()), torch.device("cpu"))
