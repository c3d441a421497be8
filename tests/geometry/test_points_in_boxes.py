"""Points counted in boxes strip by strip are those that every box holds."""

import numpy as np
import pytest
from box_points import points_in_boxes

from p2pkit.geometry.boxes import Upright, count_in_boxes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spread", [0.5, 40.0])
def test_counts_are_those_of_each_box_alone(spread: float, dtype: type) -> None:
    random = np.random.default_rng(0)
    points = random.uniform(-spread, spread, (20_000, 3)).astype(dtype)
    boxes = Upright(
        random.uniform(-spread, spread, (60, 3)),
        random.uniform(0.05, spread, (60, 3)),
        random.uniform(-7, 7, 60),
    )
    counts = count_in_boxes(points, boxes)
    np.testing.assert_array_equal(counts, points_in_boxes(points, boxes).sum(axis=0))
    assert counts.sum() > 50


def test_points_on_a_face_count() -> None:
    faces = np.array([[1, 0, 0], [-1, 0, 0], [0, 2, 0], [0, -2, 0], [0, 0, 3], [0, 0, -3]], float)
    box = Upright(np.zeros((1, 3)), np.array([[2.0, 4.0, 6.0]]), np.zeros(1))
    assert count_in_boxes(faces, box).tolist() == [6]
    assert count_in_boxes(np.nextafter(faces, 2 * faces), box).tolist() == [0]


def test_what_is_not_finite_holds_nothing_and_hides_nothing() -> None:
    points = np.array([[0, 0, 0], [np.nan, 0, 0], [np.inf, 0, 0]])
    size = np.array([[1.0, 1, 1], [np.inf, 1, 1], [np.nan, 1, 1], [1, 1, 1], [-1, 1, 1]])
    boxes = Upright(np.zeros((5, 3)), size, np.array([0, 0, 0, np.nan, 0]))
    assert count_in_boxes(points, boxes).tolist() == [1, 0, 0, 0, 0]
    nothing = Upright(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0))
    assert count_in_boxes(points, nothing).tolist() == []
