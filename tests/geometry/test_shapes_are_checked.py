"""The run-time check of signatures, which tests/conftest.py switches on for unit tests."""

import jaxtyping
import numpy as np
import pytest

from p2pkit.geometry.camera import Camera
from p2pkit.geometry.project import project

CAMERA = Camera(width=16, height=12, fx=14.0, fy=14.0, cx=7.5, cy=5.5)


def test_an_array_of_another_shape_or_type_is_refused() -> None:
    assert len(project(np.ones((5, 3), np.float32), CAMERA).depth_m) == 5
    for wrong in (np.ones((5, 4), np.float32), np.ones((5, 3), np.int64)):
        with pytest.raises(jaxtyping.TypeCheckError):
            project(wrong, CAMERA)
