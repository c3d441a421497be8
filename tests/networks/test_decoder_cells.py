"""The decoder's features at two strides, which detection reads."""

from typing import Any

import pytest
import torch
from torch import Tensor

from p2pkit.networks import build_student
from p2pkit.networks.cells import STRIDES


def batch() -> tuple[Tensor, Tensor]:
    """Two frames of scattered voxels, some at negative positions."""
    torch.manual_seed(0)
    places = torch.randint(-9, 9, (300, 3)).unique(dim=0)
    rows = [torch.nn.functional.pad(places[frame::2], (1, 0), value=frame) for frame in (0, 1)]
    coordinates = torch.cat(rows).int()
    return coordinates, torch.randn(len(coordinates), 3)


@pytest.mark.parametrize("engine", ["torch", "minkowski"])
@pytest.mark.parametrize("name", ["Res16UNet14A", "SpUNet"])
def test_cells_are_the_occupied_ones_at_both_strides(name: str, engine: str) -> None:
    student: Any = build_student(name, in_channels=3, engine=engine).eval()
    coordinates, inputs = batch()
    levels = student.cells(coordinates, inputs)
    assert tuple(cells.stride for cells in levels) == STRIDES
    for cells, width in zip(levels, student.cell_channels, strict=True):
        assert cells.rows.shape == (len(cells.places), width)
        floored = coordinates.long()
        floored[:, 1:] = floored[:, 1:].div(cells.stride, rounding_mode="floor") * cells.stride
        expected = {tuple(row) for row in floored.tolist()}
        assert {tuple(row) for row in cells.places.tolist()} == expected
        assert len(cells.places) == len(expected)


@pytest.mark.minkowski
def test_both_engines_give_the_same_features_for_each_cell() -> None:
    torch.manual_seed(1)
    ours: Any = build_student("Res16UNet14A", in_channels=3, engine="torch").eval()
    theirs: Any = build_student("Res16UNet14A", in_channels=3, engine="minkowski").eval()
    theirs.load_state_dict(ours.state_dict())
    coordinates, inputs = batch()
    pairs = zip(ours.cells(coordinates, inputs), theirs.cells(coordinates, inputs), strict=True)
    for one, other in pairs:
        found = dict(zip(map(tuple, other.places.tolist()), other.rows, strict=True))
        expected = torch.stack([found[tuple(place)] for place in one.places.tolist()])
        torch.testing.assert_close(one.rows, expected, atol=1e-4, rtol=1e-4)


def test_gradients_reach_the_encoder_through_the_cells() -> None:
    student: Any = build_student("Res16UNet14A", in_channels=3, engine="torch")
    rows = [cells.rows.flatten() for cells in student.cells(*batch())]
    torch.cat(rows).square().sum().backward()
    assert student.conv0p1s1.kernel.grad.abs().sum() > 0
    assert student.convtr6p4s2.kernel.grad is None
