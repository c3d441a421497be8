"""Do the edges of the geometry fall on edges of the image? One number per calibration tried.

For each point at a step in depth, its contrast is the image's edge strength (a rank) at the pixel
where the point falls, minus the mean strength at the two pixels `DELTA` of the image's width to
either side. Pixels that have nothing to do with the point have a mean contrast of 0 whatever the
image shows, so the score of a wrong calibration is 0 and needs no comparison; a right one is above.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8
from PIL import Image
from scipy import ndimage

from p2pkit.alignment import edge_kernels
from p2pkit.alignment.edge_points import BLOCKS, EdgePoints, edge_points
from p2pkit.datasets.frame import Frame, View
from p2pkit.geometry.camera import Camera

WIDTH_PX = 640

BLUR_PX = 1.3

RANKED_EVERY = 7

BORDER_PX = 6


def edge_strength(
    image: UInt8[np.ndarray, "height width 3"],
    valid: Bool[np.ndarray, "height width"] | None = None,
) -> Float32[np.ndarray, "direction rows columns"]:
    """Squared rank (0 … 1) of the change along u and along v among all pixels of the image.

    The image is made at most `WIDTH_PX` wide first; `reduced_camera` gives its camera. Where it is
    not `valid`, or so near that the border of the content would show as an edge, there is NaN.
    """
    height, width, _ = image.shape
    columns, rows = reduced_size(width, height)
    grey = Image.fromarray(image).convert("L")
    if columns < width:
        grey = grey.resize((columns, rows), Image.Resampling.BOX)
    smooth = ndimage.gaussian_filter(np.asarray(grey, np.float32), BLUR_PX)
    changes = [np.abs(ndimage.sobel(smooth, axis)) for axis in (1, 0)]
    if valid is None:
        return np.stack([_rank(change, change) for change in changes])
    small = Image.fromarray(valid).resize((columns, rows), Image.Resampling.NEAREST)
    inside = _eroded(np.asarray(small))
    if not inside.any():
        return np.full((2, rows, columns), np.nan, np.float32)
    ranks = np.stack([_rank(change, change[inside]) for change in changes])
    ranks[:, ~inside] = np.nan
    return ranks


def _eroded(inside: Bool[np.ndarray, "rows columns"]) -> Bool[np.ndarray, "rows columns"]:
    """Without what lies near the border of the content; the image's own border does not count."""
    return np.asarray(
        ndimage.binary_erosion(inside, iterations=BORDER_PX, border_value=1), np.bool_
    )


def reduced_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of the image on which edges are looked for (px)."""
    if width <= WIDTH_PX:
        return width, height
    return WIDTH_PX, max(round(height * WIDTH_PX / width), 1)


def reduced_camera(camera: Camera) -> Camera:
    """The camera of the image that `edge_strength` works on."""
    return camera.resized(*reduced_size(camera.width, camera.height))


def _rank(
    values: Float32[np.ndarray, "rows columns"], among: Float32[np.ndarray, "..."]
) -> Float32[np.ndarray, "rows columns"]:
    ordered = np.sort(among.ravel()[::RANKED_EVERY])
    # Sorted first, values are looked up along memory: three times as fast as in the image's order.
    order = np.argsort(values, axis=None)
    row = values.ravel()[order]
    found = np.searchsorted(ordered, row, "left") + np.searchsorted(ordered, row, "right")
    ranks = np.empty(values.shape, np.float32)
    ranks.ravel()[order] = (found / (2 * len(ordered))) ** 2
    return ranks


DELTA = 1 / 40

NEAREST_M = 0.05

SLOWEST_M_S = 0.02


class Look(NamedTuple):
    """One view of one frame, ready for trying calibrations.

    Fields:
        frame, view: numbers.
        camera: of the reduced image.
        camera_from_sensor: as declared.
        strength: edge strength along u and v; NaN where the image has no content.
        edges: of the frame.
        depth_camera: of an RGB-D frame, reduced like the image; None for point frames.
        moves: sensor_then_from_now of the neighbouring frames before and after, where known.
        interval_s: time between neighbouring frames, where the sensor's speed is known.
    """

    frame: int
    view: int
    camera: Camera
    camera_from_sensor: Float64[np.ndarray, "4 4"]
    strength: Float32[np.ndarray, "direction rows columns"]
    edges: EdgePoints
    depth_camera: Camera | None
    moves: tuple[Float64[np.ndarray, "4 4"] | None, Float64[np.ndarray, "4 4"] | None]
    interval_s: float | None = None


class Placed(NamedTuple):
    """Where points fall: reduced pixels, and which are in front; `turned` if the image's u and v
    changes are to be exchanged.
    """

    pixel_uv: Float64[np.ndarray, "edges 2"]
    in_front: Bool[np.ndarray, " edges"]
    turned: bool = False


Place = Callable[[Look], Placed]
"""A calibration that is tried: where it puts the edge points of a look."""


class Score(NamedTuple):
    """Sums and numbers of contrasts by cluster; clusters are what is taken to be independent."""

    total: Float64[np.ndarray, "clusters"]
    number: Float64[np.ndarray, "clusters"]

    @property
    def mean(self) -> float:
        """Mean contrast of all edge points; 0 without any."""
        return float(self.total.sum() / max(self.number.sum(), 1.0))

    def influence(self) -> Float64[np.ndarray, "clusters"]:
        """What each cluster adds to the mean; its squares sum to the mean's variance."""
        return (self.total - self.mean * self.number) / max(self.number.sum(), 1.0)

    @property
    def clusters(self) -> int:
        """Clusters that have points."""
        return int((self.number > 0).sum())


def make_looks(
    number: int,
    frame: Frame,
    *,
    moves: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
) -> list[Look]:
    """The looks of a frame, the `number`-th that is measured."""
    edges = edge_points(frame, np.random.default_rng(number))
    return [_look(number, row, frame, view, edges, moves) for row, view in enumerate(frame.views)]


def _look(
    number: int,
    row: int,
    frame: Frame,
    view: View,
    edges: EdgePoints,
    moves: tuple[np.ndarray | None, np.ndarray | None],
) -> Look:
    camera = reduced_camera(view.camera)
    depth = frame.depth
    return Look(
        frame=number,
        view=row,
        camera=camera,
        camera_from_sensor=view.camera_from_sensor,
        strength=edge_strength(view.image, view.valid),
        edges=edges,
        depth_camera=None if depth is None else depth.camera.resized(camera.width, camera.height),
        moves=moves,
        interval_s=_interval_s(frame, moves),
    )


def _interval_s(frame: Frame, moves: tuple[np.ndarray | None, np.ndarray | None]) -> float | None:
    """Distance over speed; None where the sensor hardly moves."""
    ways = [float(np.linalg.norm(move[:3, 3])) for move in moves if move is not None]
    if not ways or frame.speed_m_s < SLOWEST_M_S:
        return None
    return float(np.mean(ways)) / frame.speed_m_s


def place(
    look: Look,
    *,
    camera_side: Float64[np.ndarray, "4 4"] | None = None,
    sensor_side: Float64[np.ndarray, "4 4"] | None = None,
    points_scale: float = 1.0,
) -> Placed:
    """Project the edge points as declared, with a change of axes or motion on either side."""
    matrix = look.camera_from_sensor
    if camera_side is not None:
        matrix = camera_side @ matrix
    if sensor_side is not None:
        matrix = matrix @ sensor_side
    return project_with(look.edges.points * points_scale, matrix, look.camera)


def project_with(
    points: Float64[np.ndarray, "edges 3"],
    camera_from_points: Float64[np.ndarray, "4 4"],
    camera: Camera,
) -> Placed:
    """Pinhole projection without any check of the transform, which may be a wrong one."""
    moved = points @ camera_from_points[:3, :3].T + camera_from_points[:3, 3]
    in_front = moved[:, 2] > NEAREST_M
    depth = np.where(in_front, moved[:, 2], 1.0)
    u = camera.fx * moved[:, 0] / depth + camera.cx
    v = camera.fy * moved[:, 1] / depth + camera.cy
    return Placed(np.stack([u, v], axis=1), in_front)


def score(looks: Sequence[Look], where: Place) -> Score:
    """The contrasts of a calibration, by cluster.

    Clusters are sectors of 7.5 degrees (LiDAR) or 48ths of the depth image's width (RGB-D) of each
    view of each frame, steps along rows and along columns apart.
    """
    views = 1 + max(look.view for look in looks)
    size = (1 + max(look.frame for look in looks)) * views * BLOCKS * 2
    total, count = np.zeros(size), np.zeros(size)
    for look in looks:
        contrast = contrasts(look, where(look))
        kept = np.isfinite(contrast)
        sector = (look.frame * views + look.view) * BLOCKS + look.edges.block
        cluster = 2 * sector + look.edges.direction
        total += np.bincount(cluster[kept], contrast[kept], minlength=size)
        count += np.bincount(cluster[kept], minlength=size)
    return Score(total, count)


def contrasts(look: Look, placed: Placed) -> Float64[np.ndarray, " edges"]:
    """The contrast of each edge point; NaN where it falls outside the image."""
    contrast = np.full(len(placed.pixel_uv), np.nan)
    delta = DELTA * look.camera.width
    for direction, offset in ((0, (delta, 0.0)), (1, (0.0, delta))):
        rows = np.flatnonzero(look.edges.direction == direction)
        axis = 1 - direction if placed.turned else direction
        if placed.turned:
            offset = offset[::-1]
        part = np.empty(len(rows))
        edge_kernels.local_contrast(
            look.strength[axis],
            placed.pixel_uv.take(rows, axis=0),
            placed.in_front[rows],
            offset,
            part,
        )
        contrast[rows] = part
    return contrast
