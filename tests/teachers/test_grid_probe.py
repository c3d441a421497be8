import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from p2pkit.errors import TeacherError
from p2pkit.geometry.maps.grid import FeatureGrid
from p2pkit.teachers import TeacherOptions, open_teacher
from p2pkit.teachers.grid_probe import answer_shift, check_declared, check_response, measure_grid
from p2pkit.teachers.timm_network import build_network


def same_padding_offset(size: int, levels: int = 5) -> float:
    """Centre of cell 0 behind `levels` 3 x 3 stride-2 convolutions with TensorFlow's SAME padding.

    Odd sizes are padded on both sides, even ones at the end only, which moves the centre by one
    pixel of that level.
    """
    offset = 0.0
    for level in range(levels):
        offset += 2**level * (1 - size % 2)
        size = math.ceil(size / 2)
    return offset


@pytest.mark.parametrize("size", [(640, 480), (320, 240), (641, 479), (96, 66)])
def test_tensorflow_padding_depends_on_the_parity_of_each_level(size: tuple[int, int]) -> None:
    grid = open_teacher(TeacherOptions()).grid(size)
    assert grid.stride == (32.0, 32.0)
    assert grid.offset == tuple(same_padding_offset(side) for side in size)
    assert grid.cells == tuple(math.ceil(side / 32) for side in size)
    if size == (640, 480):
        assert grid.offset == (31.0, 31.0)


@pytest.mark.parametrize(
    ("options", "stride", "offset"),
    [
        (TeacherOptions(name="resnet18"), 32, 0),
        (TeacherOptions(name="resnet18", layer=1), 4, 0),
        (TeacherOptions(name="resnet50", output_stride=8), 8, 0),
        (TeacherOptions(name="convnext_atto"), 32, 15.5),
        (TeacherOptions(name="vit_tiny_patch16_224"), 16, 7.5),
        (TeacherOptions(name="vit_tiny_patch16_224", layer=3), 16, 7.5),
        (TeacherOptions(name="mobilenetv3_small_050"), 32, 0),
        (TeacherOptions(name="swin_s3_tiny_224"), 32, 15.5),
        (TeacherOptions(name="vgg11"), 32, 15.5),
    ],
    ids=lambda value: f"{value.name}:{value.layer}" if isinstance(value, TeacherOptions) else None,
)
def test_known_families(options: TeacherOptions, stride: float, offset: float) -> None:
    grid = open_teacher(dataclasses.replace(options, weights="random")).grid((128, 160))
    assert grid.stride == (stride, stride)
    assert grid.offset == (offset, offset)
    assert grid.cells == (128 // stride, 160 // stride)


class Window(nn.Module):
    """One convolution, as the probe takes a network."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, images: Tensor) -> Tensor:
        return self.convolution(images).permute(0, 2, 3, 1)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("dilation", [1, 2])
def test_windows_are_centred_where_autograd_says(
    kernel: int, stride: int, padding: int, dilation: int
) -> None:
    network = Window(
        nn.Conv2d(3, 2, kernel, stride=stride, padding=padding, dilation=dilation, bias=False)
    )
    nn.init.constant_(network.convolution.weight, 1.0)
    grid = measure_grid(network, (60, 48), nominal_stride=stride, name="window")
    image = torch.zeros(1, 3, 48, 60, requires_grad=True)
    cell = (5, 7)
    network(image)[0, cell[1], cell[0], 0].backward()
    assert image.grad is not None
    rows, columns = torch.nonzero(image.grad[0, 0], as_tuple=True)
    centre = (columns.double().mean().item(), rows.double().mean().item())
    for axis in (0, 1):
        assert grid.offset[axis] + grid.stride[axis] * cell[axis] == pytest.approx(centre[axis])


def test_a_wrong_grid_is_noticed() -> None:
    network = Window(nn.Conv2d(3, 4, 8, stride=8))
    grid = measure_grid(network, (64, 64), nominal_stride=8, name="patches")
    assert grid == FeatureGrid((8.0, 8.0), (3.5, 3.5), (8, 8), (64, 64))
    wrong = dataclasses.replace(grid, offset=(3.5, 3.5 + 12))
    with pytest.raises(TeacherError, match=r"patches.*the measured grid .* is wrong"):
        check_response(network, wrong, name="patches")


@pytest.mark.parametrize(
    ("name", "stride", "offset"),
    [("resnet18", 32.0, 0.0), ("convnext_atto", 32.0, 15.5), ("regnetx_002", 32.0, 0.0)],
)
def test_half_a_stride_is_noticed(name: str, stride: float, offset: float) -> None:
    options = TeacherOptions(name=name, weights="random", input_size=(320, 256))
    layer = build_network(options, name).layer
    grid = FeatureGrid((stride, stride), (offset, offset), (10, 8), (320, 256))
    assert max(map(abs, answer_shift(layer, grid, name=name))) < 0.1
    check_declared(layer, grid, name=name)
    for u, v in ((0.5, 0.0), (0.0, -0.5)):
        wrong = dataclasses.replace(grid, offset=(offset + u * stride, offset + v * stride))
        assert answer_shift(layer, wrong, name=name) == pytest.approx((u, v), abs=0.1)
        with pytest.raises(TeacherError, match=rf"{name} declares the first centre at .* as if"):
            check_declared(layer, wrong, name=name)
        check_response(layer, wrong, name=name)


def test_trained_weights_may_look_to_one_side(lite0_layer: torch.nn.Module) -> None:
    """Which is why an offset can be trusted, and the check of what is measured is coarse."""
    grid = measure_grid(lite0_layer, (320, 256), nominal_stride=32, name="lite0")
    assert grid.offset == (31.0, 31.0)
    assert all(0.3 < value < 0.5 for value in answer_shift(lite0_layer, grid, name="lite0"))


@pytest.fixture
def lite0_layer() -> torch.nn.Module:
    return build_network(TeacherOptions(), "tf_efficientnet_lite0").layer


class Mixer(nn.Module):
    """A network that mixes all positions: no cell has a place."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 8, stride=8)
        self.mixing = nn.Linear(64, 64)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2)
        return self.mixing(tokens).unflatten(2, (8, 8)).permute(0, 2, 3, 1)


def test_cells_without_a_place_are_an_error() -> None:
    with pytest.raises(TeacherError, match="do not sit on a regular grid"):
        measure_grid(Mixer(), (64, 64), nominal_stride=8, name="mixer")
