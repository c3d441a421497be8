"""The pinhole camera: pixel centres at integers, axes x right, y down, z forward (OpenCV)."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from p2pkit.errors import GeometryError

LARGEST_SIDE = 1 << 16
"""Pixels of the longest side of an image that may be described."""
MOST_OFF_MIDDLE = 0.2
"""Share of an image's size; up to 0.07 in real frames of KITTI, nuScenes, PandaSet and NYUv2."""


@dataclass(frozen=True)
class Camera:
    """Intrinsics of one undistorted image.

    Args:
        width, height: image size (px).
        fx, fy: focal lengths (px).
        cx, cy: principal point (px), in coordinates where the first pixel's centre is (0, 0).
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise GeometryError(
                f"camera size is {self.width} x {self.height} px; both must be at least 1"
            )
        if not (
            np.isfinite([self.fx, self.fy, self.cx, self.cy]).all() and min(self.fx, self.fy) > 0
        ):
            raise GeometryError(
                f"camera intrinsics fx={self.fx}, fy={self.fy}, cx={self.cx}, cy={self.cy} are not "
                "usable: all must be finite and the focal lengths positive (px)"
            )

    def resized(self, width: int, height: int) -> "Camera":
        """The same camera after its image was resized: c' = s (c + 0.5) - 0.5 per axis."""
        scale_u, scale_v = width / self.width, height / self.height
        return Camera(
            width=width,
            height=height,
            fx=self.fx * scale_u,
            fy=self.fy * scale_v,
            cx=scale_u * (self.cx + 0.5) - 0.5,
            cy=scale_v * (self.cy + 0.5) - 0.5,
        )

    def matrix(self) -> Float64[np.ndarray, "3 3"]:
        """The intrinsic matrix K (px)."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def to_json(self) -> dict[str, int | float]:
        """The fields as a JSON object; `Camera(**value)` reads it back."""
        return asdict(self)


def check_size_fits(camera: Camera, where: str) -> Camera:
    """Return `camera` unless its intrinsics belong to an image of another size.

    For calibrations that do not state their size: images that were shrunk after calibrating put the
    principal point far off their middle.

    Raises:
        GeometryError: the principal point is off by more than a fifth of the width or height.
    """
    off = max(abs(camera.cx / camera.width - 0.5), abs(camera.cy / camera.height - 0.5))
    if off > MOST_OFF_MIDDLE:
        raise GeometryError(
            f"{where}: the principal point ({camera.cx:g}, {camera.cy:g}) is far from the middle "
            f"of {camera.width} x {camera.height} px: give the intrinsics of images of this size"
        )
    return camera


def camera_from_json(value: Any, where: str) -> Camera:
    """Read a camera from a JSON object with width, height, fx, fy, cx and cy.

    Raises:
        GeometryError: a field is missing, unknown or no number; the message names it and `where`.
    """
    names = ("width", "height", "fx", "fy", "cx", "cy")
    if not isinstance(value, dict) or set(value) != set(names):
        found = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise GeometryError(f"{where}: a camera needs exactly the fields {names}; found {found}")
    for name in names:
        if isinstance(value[name], bool) or not isinstance(value[name], int | float):
            raise GeometryError(f"{where}: {name} is {value[name]!r}; expected a number (px)")
    for name in ("width", "height"):
        # The comparison first: NaN and infinity are not whole numbers, and have no `int`.
        if not abs(value[name]) <= LARGEST_SIDE or value[name] != int(value[name]):
            raise GeometryError(
                f"{where}: {name} is {shown_number(value[name])}; expected a whole number of at "
                f"most {LARGEST_SIDE} (px)"
            )
    try:
        fx, fy, cx, cy = (float(value[name]) for name in names[2:])
    except OverflowError:
        raise GeometryError(f"{where}: a number of fx, fy, cx and cy is too large") from None
    width, height = int(value["width"]), int(value["height"])
    return Camera(width=width, height=height, fx=fx, fy=fy, cx=cx, cy=cy)


def shown_number(value: int | float) -> str:
    """A number as messages give it: Python refuses to print very long integers."""
    return repr(value) if isinstance(value, float) or abs(value) < 10**18 else "a huge number"


def camera_from_matrix(matrix: np.ndarray, size: tuple[int, int], where: str) -> Camera:
    """A camera from its intrinsic matrix K (3 x 3, or the upper left of a larger one) and size.

    Raises:
        GeometryError: K is too small, has skew, or its third row is not 0 0 1.
    """
    k = np.asarray(matrix, dtype=np.float64)
    if k.ndim != 2 or min(k.shape) < 3:
        raise GeometryError(f"{where} has shape {k.shape}; expected a 3 x 3 intrinsic matrix")
    if k[0, 1] or k[1, 0] or not np.array_equal(k[2, :3], (0.0, 0.0, 1.0)):
        raise GeometryError(f"{where} is {k[:3, :3].tolist()}; expected a pinhole without skew")
    fx, fy, cx, cy = (float(k[index]) for index in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return Camera(width=size[0], height=size[1], fx=fx, fy=fy, cx=cx, cy=cy)
