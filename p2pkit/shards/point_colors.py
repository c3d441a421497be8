"""Colours of a frame's points: the recording's own, or those of the pixels that see them."""

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from p2pkit.datasets.frame import Frame, View
from p2pkit.errors import FrameError
from p2pkit.geometry.project import nearest_pixels


def own_colors(
    frame: Frame, keep: Int64[np.ndarray, " kept"]
) -> tuple[UInt8[np.ndarray, "kept 3"], Bool[np.ndarray, " kept"]]:
    """The recording's own colours of the kept points, 0 without, and which have one.

    Raises:
        FrameError: the frame has neither colours nor a view that could give them.
    """
    if frame.colors is not None:
        return frame.colors[keep], np.ones(len(keep), dtype=bool)
    if not frame.views:
        raise FrameError(frame.key, "it has neither views nor colours of its points; give either")
    return np.zeros((len(keep), 3), dtype=np.uint8), np.zeros(len(keep), dtype=bool)


def rows_with_image(
    view: View, pixel_uv: Float32[np.ndarray, "points 2"], rows: Int64[np.ndarray, " rows"]
) -> Int64[np.ndarray, " kept"]:
    """The rows whose nearest pixel holds an image; undistortion leaves some without."""
    if view.valid is None:
        return rows
    u, v = nearest_pixels(pixel_uv.take(rows, axis=0), view.camera.width, view.camera.height)
    return rows[view.valid[v, u]]


def colors_at(
    view: View, pixel_uv: Float32[np.ndarray, "points 2"]
) -> UInt8[np.ndarray, "points 3"]:
    """Colour of the nearest pixel."""
    u, v = nearest_pixels(pixel_uv, view.camera.width, view.camera.height)
    # `take` copies rows at several times the speed of an index in brackets.
    return view.image.reshape(-1, 3).take(v * view.image.shape[1] + u, axis=0)
