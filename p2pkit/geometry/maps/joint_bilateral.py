"""Joint bilateral upsampling: a coarse map sampled at pixels, guided by the full-size image.

Source: Kopf, Cohen, Lischinski and Uyttendaele, "Joint bilateral upsampling", ACM Transactions on
Graphics 26(3), 2007, article 96, section 3.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float16, Float32, UInt8

from p2pkit.errors import ConfigError, GeometryError
from p2pkit.geometry.checks import check_array
from p2pkit.geometry.kernels import upsampling as upsampling_kernels
from p2pkit.geometry.maps.grid import FeatureGrid
from p2pkit.geometry.maps.sample_map import sample_map

BILINEAR, JOINT_BILATERAL = "bilinear", "joint-bilateral"


@dataclass(frozen=True)
class JointBilateral:
    """How fast the weights of neighbouring cells fall.

    Args:
        range_sigma: of the Gaussian of colour differences; colours are RGB in 0 … 1, their
            difference the Euclidean distance. Infinite: the image has no say.
        spatial_sigma: of the Gaussian of distances (cells).
        radius: cells in each direction from the nearest one; 2 makes windows of 5 x 5.
    """

    range_sigma: float = 0.1
    spatial_sigma: float = 0.5
    radius: int = 2

    def __post_init__(self) -> None:
        for name in ("range_sigma", "spatial_sigma"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.radius < 1:
            raise ConfigError(f"radius is {self.radius} cells; expected at least 1")

    @property
    def name(self) -> str:
        """What `parse_upsampling` reads."""
        return f"{JOINT_BILATERAL}:{self.range_sigma}"


def parse_upsampling(text: str) -> JointBilateral | None:
    """Read `bilinear`, which gives None, `joint-bilateral` or `joint-bilateral:RANGE_SIGMA`.

    Raises:
        ConfigError: it is none of these, or the sigma is not a positive, finite number.
    """
    kind, colon, number = text.partition(":")
    if text == BILINEAR:
        return None
    try:
        sigma = float(number) if colon else JointBilateral.range_sigma
    except ValueError:
        sigma = 0.0
    if kind != JOINT_BILATERAL or not 0 < sigma < np.inf:
        raise ConfigError(
            f"upsampling is {text!r}; it must be {BILINEAR}, {JOINT_BILATERAL} or "
            f"{JOINT_BILATERAL}:RANGE_SIGMA with a positive number, such as {JOINT_BILATERAL}:0.1"
        )
    return JointBilateral(sigma)


def sample_joint_bilateral(
    feature_map: Float16[np.ndarray, "cells_v cells_u channels"]
    | Float32[np.ndarray, "cells_v cells_u channels"],
    grid: FeatureGrid,
    image: UInt8[np.ndarray, "height width 3"],
    pixel_uv: Float[np.ndarray, "pairs 2"],
    weights: JointBilateral,
) -> Float32[np.ndarray, "pairs channels"]:
    """Features of a teacher's map at pixels of the recording's image.

    Equation 3 of Kopf et al. with Gaussians for both filters: at pixel p, over the cells q of the
    window around the cell nearest to p,

        F(p) = sum_q F_q w(q) / sum_q w(q)
        w(q) = exp(-|x(p) - q|² / (2 spatial_sigma²)) exp(-|I(p) - I(x⁻¹(q))|² / (2 range_sigma²))

    with x(p) the cell coordinates of p, as the grid's measured stride and offset give them, I the
    image, bilinear between pixels, and x⁻¹(q) the pixel on which cell q is centred. The window is
    cut at the map's border, and x(p) is clamped into the map, as `sample_map` does. The weights
    depend on the image but not on the map, in which F is linear: a 1 x 1 convolution may come
    before or after.

    Args:
        feature_map: channels last.
        grid: where the map's cells sit.
        image: the recording's, of the size that `pixel_uv` refers to; the guide.
        pixel_uv: (u, v) in the image (px, centres at integers).
        weights: how fast they fall.

    Raises:
        GeometryError: the map is not of the grid's size, or a coordinate is NaN or infinite.
    """
    check_array("feature_map", feature_map, (np.float16, np.float32), (*grid.cells[::-1], None))
    check_array("pixel_uv", pixel_uv, (np.float64, np.float32, np.float16), (None, 2))
    if not np.isfinite(pixel_uv).all():
        row = int(np.argmin(np.isfinite(pixel_uv).all(axis=1)))
        raise GeometryError(
            f"pixel coordinate {row} is {pixel_uv[row].tolist()}; it must be finite: leave out "
            "pairs whose point is not visible"
        )
    size = (image.shape[1], image.shape[0])
    guide = image.astype(np.float32) / np.float32(255)
    sampled = np.empty((len(pixel_uv), feature_map.shape[-1]), np.float32)
    upsampling_kernels.sample_joint_bilateral(
        feature_map.astype(np.float32, order="C", copy=False).reshape(-1, feature_map.shape[-1]),
        grid.cells,
        grid.cell_from_pixel(pixel_uv, size),
        (sample_map(guide, pixel_uv), sample_map(guide, grid.cell_centres(size))),
        (weights.radius, 0.5 / weights.spatial_sigma**2, 0.5 / weights.range_sigma**2),
        sampled,
    )
    return sampled
