from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from p2pkit.errors import ConfigError
from p2pkit.teachers import TeacherOptions, open_teacher
from p2pkit.teachers.grid_probe import position_network
from p2pkit.teachers.network import Preprocessing, TeacherNetwork
from p2pkit.teachers.network_teacher import NetworkTeacher
from p2pkit.teachers.views import ViewsTeacher

# Cells at 3.5 + 8 i px: their mirror images fall on themselves only in widths of whole patches.
STRIDE, OFFSET = 8.0, 3.5


class Positions(nn.Module):
    """Each cell answers with the image's value at its own centre."""

    def __init__(self) -> None:
        super().__init__()
        self.network = position_network(nn.Sequential(nn.Conv2d(3, 2, 8, stride=8), nn.GELU()))

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.double()).float().permute(0, 2, 3, 1)


def teacher(views: str, **use: Any) -> ViewsTeacher:
    unit = (1.0, 1.0, 1.0)
    network = TeacherNetwork(
        layer=Positions(),
        layer_index=0,
        channels=2,
        nominal_stride=8,
        weights_sha256="0" * 64,
        preprocessing=Preprocessing((0.0, 0.0, 0.0), unit, "bilinear", use.get("input_size")),
        library="a test",
        declared_grid=(STRIDE, OFFSET),
    )
    return ViewsTeacher(NetworkTeacher("positions", network, TeacherOptions()), views)


def ramp(width: int, height: int, axis: int) -> np.ndarray:
    """An image whose value is its pixels' u (axis 1) or v (axis 0)."""
    value = np.indices((height, width))[axis].astype(np.uint8)
    return np.repeat(value[..., None], 3, axis=2)


@pytest.mark.parametrize("views", ["flip", "scale:2", "scale:0.5", "flip,scale:0.75", "flip,flip"])
@pytest.mark.parametrize("size", [(56, 40), (59, 45), (100, 62)])
@pytest.mark.parametrize("axis", [0, 1])
def test_every_view_tells_the_same_position(views: str, size: tuple[int, int], axis: int) -> None:
    looks = teacher(views)
    found = looks.features([ramp(*size, axis)])[0].astype(np.float64) * 255
    columns, rows = looks.grid(size).cells
    centres = looks.grid(size).cell_centres(size).reshape(rows, columns, 2)
    # The last cells may lie beyond a view's last cell, and a resize bends a ramp at its ends.
    inside = np.s_[2:-2, 2:-2] if "scale" in views else np.s_[:, 1:-1]
    wanted = np.repeat(centres[inside][..., 1 - axis, None], 2, axis=-1)
    # Bytes are whole numbers; an unscaled ramp is exact but for half precision.
    np.testing.assert_allclose(found[inside], wanted, atol=0.35 if "scale" in views else 0.05)


def test_reversing_the_map_would_be_off() -> None:
    looks = teacher("flip")
    image = ramp(59, 45, 1)
    mirrored = ramp(59, 45, 1)[:, ::-1].copy()
    base = teacher("").features([image])[0].astype(np.float64) * 255
    reversed_ = teacher("").features([mirrored])[0][:, ::-1].astype(np.float64) * 255
    assert np.abs(reversed_ - base).min() == pytest.approx(3, abs=0.1)
    found = looks.features([image])[0].astype(np.float64) * 255
    np.testing.assert_allclose(found[:, 1:-1], base[:, 1:-1], atol=0.05)


def test_a_mirror_image_has_the_mirrored_map() -> None:
    options = TeacherOptions(name="resnet18", layer=2, weights="random", views="flip")
    looks, image = open_teacher(options), np.random.default_rng(0)
    # Cells at 8 i px: in 65 px the first is on the first pixel and the last on the last.
    picture = image.integers(0, 256, (49, 65, 3), dtype=np.uint8)
    assert looks.grid((65, 49)).offset == (0, 0)
    found = looks.features([picture, np.ascontiguousarray(picture[:, ::-1])]).astype(np.float32)
    np.testing.assert_allclose(found[1], found[0][:, ::-1], atol=2e-3)
    plain = open_teacher(TeacherOptions(name="resnet18", layer=2, weights="random"))
    assert looks.fingerprint() == {**plain.fingerprint(), "views": "flip"}


@pytest.mark.parametrize("views", ["flop", "scale", "scale:0", "scale:9", "scale:nan", "flip,"])
def test_what_is_no_view_is_told(views: str) -> None:
    with pytest.raises(ConfigError, match=r"write flip, scale:S with S in 0\.25–4"):
        teacher(views)


def test_scaling_a_fixed_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="leave one of them out"):
        teacher("scale:0.5", input_size=(64, 48))
    found = teacher("flip", input_size=(64, 48)).features([ramp(59, 45, 0)])
    assert found.shape == (1, 6, 8, 2)
