"""Superpixels of an image: connected regions of like colour, by SLIC."""

import numpy as np
from jaxtyping import Int64, UInt8

from p2pkit.settings.layers import SLIC, SuperpixelConfig


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

    found = slic(image, n_segments=config.segments, compactness=config.compactness, **SLIC)
    return found.astype(np.int64, copy=False)
