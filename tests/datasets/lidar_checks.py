"""What is asked of every LiDAR frame, whatever recording it is of."""

import numpy as np

from p2pkit.datasets.frame import Frame
from p2pkit.geometry.project import project


def depth_edge_score(frame: Frame, view: int = 0, shift_px: int = 0) -> float:
    """Image gradient where neighbouring points jump in depth, over the gradient elsewhere.

    Neighbours are points on the same image row block, sorted by column, so that a jump is an edge
    of a nearer object. The score is largest where points and image belong together.
    """
    assert frame.points is not None
    seen = frame.views[view]
    found = project(frame.points, seen.camera, seen.camera_from_sensor)
    grey = seen.image.astype(np.float32).mean(axis=2)
    gradient = np.abs(np.gradient(grey, axis=1))
    rows = found.visible
    u, v = np.rint(found.pixel_uv[rows]).astype(np.int64).T
    depth = found.depth_m[rows]
    order = np.lexsort((u, v // 4))
    u, v, depth = u[order], v[order], depth[order]
    near = np.minimum(depth[1:], depth[:-1])
    beside = (np.diff(u) >= 0) & (np.diff(u) < 12) & (v[1:] // 4 == v[:-1] // 4)
    jump = beside & (np.abs(np.diff(depth)) > 0.15 * near)
    flat = beside & (np.abs(np.diff(depth)) < 0.02 * near)
    middle = np.clip((u[1:] + u[:-1]) // 2 + shift_px, 4, seen.camera.width - 5)
    row = v[1:]
    # The edge lies somewhere between the two points: take the strongest of a few columns.
    strongest = np.max([gradient[row, middle + k] for k in range(-3, 4)], axis=0)
    return float(strongest[jump].mean() / strongest[flat].mean())
