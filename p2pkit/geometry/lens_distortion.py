"""Lens distortion as OpenCV defines it, and images without it.

An image is undistorted once, before the teacher sees it; everything else in p2pkit works with
pinholes. The two models and their parameter order are those of OpenCV's documentation: "Camera
Calibration and 3D Reconstruction" (k1 k2 p1 p2 k3 k4 k5 k6) and its fisheye section (k1 k2
k3 k4; Kannala and Brandt, "A generic camera model and calibration method", PAMI 2006).
"""

from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8, UInt16

from p2pkit.errors import GeometryError
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.checks import check_array
from p2pkit.geometry.kernels import lens_distortion as kernels

MODELS = {
    "radial-tangential": kernels.distort_radial_tangential,
    "fisheye": kernels.distort_fisheye,
}
"""Each model's function from ideal to distorted image coordinates at unit depth."""
_BAND_ROWS = 256
"""Rows worked on at a time: images of many megapixels would take gigabytes at once."""
# Threads that start together wait for the first one's result instead of each computing its own.
_ONE_AT_A_TIME = Lock()
_COEFFICIENTS = {"radial-tangential": (4, 5, 8), "fisheye": (4,)}


@dataclass(frozen=True)
class Distortion:
    """How a lens bends rays.

    Args:
        model: a key of `MODELS`.
        coefficients: in OpenCV's order: 4, 5 or 8 for radial-tangential, 4 for fisheye.
    """

    model: str
    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise GeometryError(
                f"distortion model is {self.model!r}; it must be one of {', '.join(MODELS)}"
            )
        allowed = _COEFFICIENTS[self.model]
        if len(self.coefficients) not in allowed or not np.isfinite(self.coefficients).all():
            raise GeometryError(
                f"{self.model} distortion has the coefficients {self.coefficients}; "
                f"expected {' or '.join(map(str, allowed))} finite numbers in OpenCV's order"
            )

    def to_json(self) -> dict[str, Any]:
        """The form that `distortion_from_json` reads."""
        return {"model": self.model, "coefficients": list(self.coefficients)}


class Undistorted(NamedTuple):
    """An image as a pinhole with the same intrinsics would have taken it.

    Fields:
        image: black where the lens saw nothing.
        valid: where the image has content.
    """

    image: UInt8[np.ndarray, "height width 3"]
    valid: Bool[np.ndarray, "height width"]


def distortion_from_json(value: Any, where: str) -> Distortion:
    """Read `{"model": "radial-tangential", "coefficients": [k1, k2, p1, p2]}`.

    Raises:
        GeometryError: another form, an unknown model or a wrong number of coefficients.
    """
    if not isinstance(value, dict) or set(value) != {"model", "coefficients"}:
        raise GeometryError(
            f"{where}: expected model and coefficients in distortion, found {value!r}"
        )
    numbers = value["coefficients"]
    is_numbers = isinstance(numbers, list) and all(
        isinstance(number, int | float) and not isinstance(number, bool) for number in numbers
    )
    if not is_numbers or not isinstance(value["model"], str):
        raise GeometryError(f"{where}: distortion is {value!r}; expected a model and numbers")
    try:
        return Distortion(value["model"], tuple(float(number) for number in numbers))
    except (GeometryError, OverflowError) as error:
        raise GeometryError(f"{where}: {error}") from error


def source_pixels(camera: Camera, distortion: Distortion) -> Float32[np.ndarray, "height width 2"]:
    """Where in the distorted image each pixel of the undistorted one comes from (px).

    Both images have the intrinsics and size of `camera`. The result is shared: do not change it.

    Raises:
        GeometryError: the model turns back within the image: distortion that does not grow with
            the angle shows one scene point twice, and such coefficients are wrong for this lens.
    """
    with _ONE_AT_A_TIME:
        return _source_pixels(camera, distortion)


@lru_cache(maxsize=16)
def _source_pixels(camera: Camera, distortion: Distortion) -> Float32[np.ndarray, "height width 2"]:
    result = np.empty((camera.height, camera.width, 2), dtype=np.float32)
    for start in range(0, camera.height, _BAND_ROWS):
        # One row more, so that each row is compared with the one below it.
        rows = np.arange(start, min(start + _BAND_ROWS + 1, camera.height))
        pixels = _source_rows(camera, distortion, rows)
        if _folds(camera, pixels):
            raise GeometryError(
                f"{distortion.model} distortion {distortion.coefficients} folds the image over "
                f"within {camera.width} x {camera.height} px; check the coefficients and their "
                "order"
            )
        result[rows] = pixels
    result.flags.writeable = False
    return result


def _source_rows(
    camera: Camera, distortion: Distortion, rows: Int64[np.ndarray, " rows"]
) -> Float64[np.ndarray, "rows width 2"]:
    u, v = np.meshgrid(np.arange(camera.width, dtype=np.float64), rows)
    x = ((u - camera.cx) / camera.fx).ravel()
    y = ((v - camera.cy) / camera.fy).ravel()
    coefficients = np.zeros(8)
    coefficients[: len(distortion.coefficients)] = distortion.coefficients
    bent = np.empty((x.size, 2))
    MODELS[distortion.model](x, y, coefficients, bent)
    bent = bent.reshape(len(rows), camera.width, 2)
    return bent * (camera.fx, camera.fy) + (camera.cx, camera.cy)


def _folds(camera: Camera, pixels: Float64[np.ndarray, "rows width 2"]) -> bool:
    """Whether the model turns back within the image."""
    u, v = pixels[..., 0], pixels[..., 1]
    inside = (u >= -1) & (u <= camera.width) & (v >= -1) & (v <= camera.height)
    grows = (np.diff(u, axis=1)[:-1] > 0) & (np.diff(v, axis=0)[:, :-1] > 0)
    return bool(np.any(inside[:-1, :-1] & ~grows))


def undistort_image(
    image: UInt8[np.ndarray, "height width 3"], camera: Camera, distortion: Distortion
) -> Undistorted:
    """Resample a colour image bilinearly.

    Raises:
        GeometryError: the image is not of the camera's size, or as `source_pixels`.
    """
    check_array("image", image, (np.uint8,), (camera.height, camera.width, 3))
    remapped = np.empty_like(image, order="C")
    valid = np.empty(image.shape[:2], dtype=np.bool_)
    source = source_pixels(camera, distortion)
    kernels.remap_bilinear(np.ascontiguousarray(image), source, remapped, valid)
    return Undistorted(remapped, valid)


def undistort_depth(
    values: UInt16[np.ndarray, "height width"], camera: Camera, distortion: Distortion
) -> UInt16[np.ndarray, "height width"]:
    """Resample stored depth by the nearest pixel: mixing two depths would invent a surface.

    Raises:
        GeometryError: the depth is not of the camera's size, or as `source_pixels`.
    """
    check_array("depth", values, (np.uint16,), (camera.height, camera.width))
    remapped = np.empty_like(values, order="C")
    source = source_pixels(camera, distortion)
    kernels.remap_nearest(np.ascontiguousarray(values), source, remapped)
    return remapped
