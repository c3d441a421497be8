"""A plain reference: which points lie in which upright boxes."""

import numpy as np
from jaxtyping import Bool, Float

from p2pkit.geometry.boxes import Upright


def points_in_boxes(
    points: Float[np.ndarray, "points 3"], boxes: Upright
) -> Bool[np.ndarray, "points boxes"]:
    """Their faces included; none in a box with NaN."""
    inside = np.zeros((len(points), len(boxes.yaw)), bool)
    for row, (center, size, yaw) in enumerate(zip(*boxes, strict=True)):
        x, y, z = (points.astype(np.float64) - center).T
        cos, sin = np.cos(yaw), np.sin(yaw)
        half = size / 2
        inside[:, row] = (
            (np.abs(cos * x + sin * y) <= half[0])
            & (np.abs(cos * y - sin * x) <= half[1])
            & (np.abs(z) <= half[2])
        )
    return inside
