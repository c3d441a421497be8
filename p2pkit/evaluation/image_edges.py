"""How strongly an image changes at each pixel, as a rank that does not depend on its contrast."""

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image
from scipy import ndimage

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
    """Without what lies near the border of the content; the image's own border is none."""
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
