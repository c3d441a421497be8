"""A frame's geometry as read from a shard."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

from p2pkit.geometry.camera import Camera
from p2pkit.geometry.project import project


@dataclass(frozen=True, eq=False)
class ProjectedPixels:
    """Pixels of a depth frame's pairs, of which pair i is point i; projected when asked for.

    A training sample asks for some hundreds of tens of thousands.

    Args:
        points: in the sensor's frame (m).
        camera: of the view.
        camera_from_sensor: from the points' frame to the camera's.
    """

    points: Float32[np.ndarray, "points 3"]
    camera: Camera
    camera_from_sensor: Float64[np.ndarray, "4 4"]

    def __getitem__(
        self, rows: Int64[np.ndarray, " rows"] | Bool[np.ndarray, " pairs"] | slice
    ) -> Float32[np.ndarray, "rows 2"]:
        return project(self.points[rows], self.camera, self.camera_from_sensor).pixel_uv


@dataclass(frozen=True)
class PointCloud:
    """A frame's geometry as read from a shard.

    Args:
        key: the frame's key.
        sequence: the recording or scene that it is of.
        points: in the sensor's frame (m).
        colors: RGB of each point: the recording's, else the views', 0 where none sees it.
        labels: class of each point, or None.
        pair_point: row in `points` of each pair.
        pair_view: view of each pair.
        pixels: what gives the pixels of chosen pairs, `pixels[rows]`, each in its pair's view (px,
            centres at integers).
        image_sizes: (width, height) of each view (px).
        intensity: strength of each point's return, 0 to 1, or None.
        pair_confidence: 0 … 255 for doubtful … sure; None in stores that were written without it.
    """

    key: str
    sequence: str
    points: Float32[np.ndarray, "points 3"]
    colors: UInt8[np.ndarray, "points 3"]
    labels: UInt8[np.ndarray, " points"] | None
    pair_point: Int64[np.ndarray, " pairs"]
    pair_view: UInt8[np.ndarray, " pairs"]
    pixels: Float32[np.ndarray, "pairs 2"] | ProjectedPixels
    image_sizes: tuple[tuple[int, int], ...]
    intensity: Float32[np.ndarray, " points"] | None = None
    pair_confidence: UInt8[np.ndarray, " pairs"] | None = None

    @property
    def pair_uv(self) -> Float32[np.ndarray, "pairs 2"]:
        """Pixel of each pair in its view (px, centres at integers)."""
        return self.pixels[:]
