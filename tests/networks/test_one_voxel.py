"""Frames so small that a deep stride has a single voxel."""

import numpy as np
import pytest
import torch

from p2pkit.networks import build_student
from p2pkit.networks.engines.sync_norm import synchronise_norms
from p2pkit.networks.engines.voxel_norm import VoxelNorm1d


@pytest.mark.parametrize("engine", ["torch", "minkowski"])
def test_a_student_trains_on_a_frame_with_one_deep_voxel(engine: str) -> None:
    student = build_student("Res16UNet14A", in_channels=3, conv1_kernel_size=3, engine=engine)
    synchronise_norms(student)
    grid = np.stack(np.meshgrid(*[np.arange(6)] * 3), axis=-1).reshape(-1, 3)
    coordinates = torch.from_numpy(np.insert(grid, 0, 0, axis=1).astype(np.int32))
    rows = student.train()(coordinates, torch.rand(len(grid), 3))
    rows.square().sum().backward()
    assert rows.isfinite().all()
    for parameter in student.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
    assert all(value.isfinite().all() for value in student.state_dict().values())


def test_one_row_becomes_the_bias_and_leaves_the_statistics() -> None:
    norm, plain = VoxelNorm1d(4), torch.nn.BatchNorm1d(4)
    torch.nn.init.uniform_(norm.bias)
    row = torch.rand(1, 4, requires_grad=True)
    found = norm.train()(row)
    torch.testing.assert_close(found[0], norm.bias)
    found.sum().backward()
    assert torch.equal(row.grad, torch.zeros(1, 4))
    torch.testing.assert_close(norm.running_mean, plain.running_mean)
    torch.testing.assert_close(norm.running_var, plain.running_var)


def test_more_rows_are_as_in_torch() -> None:
    norm, plain = VoxelNorm1d(4).train(), torch.nn.BatchNorm1d(4).train()
    rows = torch.rand(7, 4)
    torch.testing.assert_close(norm(rows), plain(rows), rtol=0, atol=0)
    torch.testing.assert_close(norm.state_dict(), plain.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(norm.eval()(rows[:1]), plain.eval()(rows[:1]), rtol=0, atol=0)
