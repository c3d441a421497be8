"""What holds for the students of every family: the width they declare, and what they train."""

import numpy as np
import pytest
import torch

from p2pkit.networks import build_student, prepared_for
from p2pkit.settings.students import WaffleIronConfig

SMALL_FIELD = WaffleIronConfig(fov=(-1.0, -1.0, -1.0, 1.0, 1.0, 1.0), cells=(4, 5, 3), neighbours=4)


@pytest.mark.parametrize(
    "name", ["Res16UNet14A", "SpUNet", "PTv3-small", "PTv3-encoder", "WaffleIron-12-256"]
)
def test_a_student_gives_its_width_and_all_that_it_trains_gets_a_gradient(name: str) -> None:
    """Several processes wait for the gradient of every parameter that is to be trained."""
    student = build_student(
        name, in_channels=3, out_channels=7, engine="torch", waffleiron=SMALL_FIELD
    ).train()
    cells = np.random.default_rng(0).integers(0, 6, (60, 3), dtype=np.int32)
    voxels = np.unique(cells, axis=0)
    points = (voxels * 0.05).astype(np.float32)
    coordinates = torch.from_numpy(np.insert(voxels, 0, 0, axis=1))
    prepared = prepared_for(student, [(points, voxels)])
    rows = student(coordinates, torch.from_numpy(points), **prepared)
    assert student.out_channels == rows.shape[1] == 7
    rows.square().sum().backward()
    trained = {key: value for key, value in student.named_parameters() if value.requires_grad}
    assert len(trained) > 10
    assert [key for key, value in trained.items() if value.grad is None] == []
