"""Superpixels of an image: connected regions of like colour, by SLIC."""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from p2pkit.errors import ConfigError

METHOD = "slic"
_SETTINGS: dict[str, Any] = {
    "max_num_iter": 10,
    "sigma": 3.0,
    "spacing": None,
    "convert2lab": True,
    "enforce_connectivity": True,
    "min_size_factor": 0.5,
    "max_size_factor": 3,
    "slic_zero": False,
    "start_label": 0,
    "mask": None,
    "channel_axis": -1,
}
"""What else scikit-image's SLIC takes: its defaults in full, but for `sigma` (px), SLidR's."""


@dataclass(frozen=True)
class SuperpixelConfig:
    """How an image is cut into superpixels. The defaults are SLidR's (Sautier et al. 2022).

    Args:
        segments: how many are asked for in each image; SLIC gives about as many.
        compactness: weight of nearness against likeness of colour; higher gives squarer ones.

    Raises:
        ConfigError: either is not positive.
    """

    segments: int = 150
    compactness: float = 6.0

    def __post_init__(self) -> None:
        if self.segments < 1:
            raise ConfigError(f"superpixels: {self.segments} segments; at least 1 is needed")
        if not 0 < self.compactness < np.inf:
            raise ConfigError(
                f"superpixels: the compactness is {self.compactness}; it must be positive, such "
                "as 6"
            )

    @property
    def name(self) -> str:
        """What `parse_superpixels` reads: slic:SEGMENTS:COMPACTNESS."""
        return f"{METHOD}:{self.segments}:{self.compactness:g}"

    def fingerprint(self) -> dict[str, Any]:
        """JSON of all that determines the superpixels of an image."""
        return {
            "method": METHOD,
            "n_segments": self.segments,
            "compactness": self.compactness,
            **_SETTINGS,
            "library": f"scikit-image {version('scikit-image')}",
        }


def parse_superpixels(text: str) -> SuperpixelConfig:
    """Read `slic:SEGMENTS` or `slic:SEGMENTS:COMPACTNESS`.

    Raises:
        ConfigError: it is neither, or a number is not positive.
    """
    method, *numbers = text.split(":")
    try:
        if method != METHOD or not 1 <= len(numbers) <= 2:
            raise ValueError
        return SuperpixelConfig(int(numbers[0]), *map(float, numbers[1:]))
    except ValueError:
        raise ConfigError(
            f"superpixels are {text!r}; they must be slic:SEGMENTS or slic:SEGMENTS:COMPACTNESS, "
            "such as slic:150 or slic:150:6"
        ) from None


def superpixels(
    image: UInt8[np.ndarray, "height width 3"], config: SuperpixelConfig
) -> Int64[np.ndarray, "height width"]:
    """The superpixel of each pixel, numbered from 0 without gaps; the same at every call.

    Achanta et al., "SLIC superpixels compared to state-of-the-art superpixel methods", TPAMI 2012:
    k-means of colour (CIELAB) and position, then regions that hang together.

    Args:
        image: RGB, undistorted.
        config: how many, and how square.
    """
    from skimage.segmentation import slic

    found = slic(image, n_segments=config.segments, compactness=config.compactness, **_SETTINGS)
    return found.astype(np.int64, copy=False)
