"""Pictures of a frame's points: any value of a point, drawn at the point's pixel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, UInt8
from PIL import Image, ImageDraw, ImageFont

from p2pkit.viewer import FeatureLayer

Rows = Int64[np.ndarray, "rows"]
ReadFeatures = Callable[[Rows], Float32[np.ndarray, "rows channels"]]
"""Features of the wanted rows (0 … count - 1) of one frame."""

FITTED_ROWS, CHUNK = 8192, 16384
COMPONENTS = 8
"""Number of components by which the viewer compares points; the first three are their colours."""
FILL_ROUNDS = 2
NEIGHBOURS = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
# Dark violet over teal to yellow: brightness increases throughout, so it also works in grey.
DEPTH_ANCHORS = np.array(
    [[48, 18, 84], [49, 84, 141], [33, 145, 140], [94, 201, 98], [253, 231, 37]]
)
_BRIGHT = np.array(
    [
        [128, 128, 128], [166, 124, 82], [198, 205, 214], [240, 228, 160], [220, 80, 60],
        [60, 130, 220], [140, 90, 190], [40, 160, 120], [235, 130, 190], [245, 160, 40],
        [150, 210, 60], [70, 200, 220], [120, 70, 40], [30, 70, 130], [190, 190, 30],
        [90, 110, 70], [170, 30, 90], [20, 100, 100], [250, 190, 170], [110, 150, 190],
    ],
    dtype=np.uint8,
)  # fmt: skip
PALETTE = np.concatenate([_BRIGHT, (0.55 * _BRIGHT).astype(np.uint8)])
"""Colours of labels: twenty, then darker versions of them, for sets as large as NYU40."""


def draw_points(
    colors: UInt8[np.ndarray, "points 3"],
    pixel_uv: Float[np.ndarray, "points 2"],
    depth_m: Float[np.ndarray, " points"],
    image_size: tuple[int, int],
) -> UInt8[np.ndarray, "height width 4"]:
    """An RGBA image with each colour at its nearest pixel, near points over far ones.

    Small holes take a neighbour's colour; pixels farther than that from any point stay
    transparent.

    Args:
        colors: RGB of each point.
        pixel_uv: its projection (px, centres at integers).
        depth_m: along the optical axis (m).
        image_size: width and height (px).
    """
    width, height = image_size
    image = np.zeros((height, width, 4), dtype=np.uint8)
    pixel = np.rint(pixel_uv).astype(np.int64)
    inside = ((pixel >= 0) & (pixel < image_size)).all(axis=1)
    far_to_near = np.argsort(-depth_m[inside], kind="stable")
    u, v = pixel[inside][far_to_near].T
    image[v, u, :3] = colors[inside][far_to_near]
    image[v, u, 3] = 255
    for _ in range(FILL_ROUNDS):
        _fill_holes(image)
    return image


def _fill_holes(image: UInt8[np.ndarray, "height width 4"]) -> None:
    height, width, _ = image.shape
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    for down, right in NEIGHBOURS:
        neighbour = padded[1 + down : 1 + down + height, 1 + right : 1 + right + width]
        empty = image[..., 3] == 0
        image[empty] = neighbour[empty]


@dataclass(frozen=True, eq=False)
class PrincipalBasis:
    """Principal components of features, and their colours.

    Args:
        mean: of the features.
        components: unit vectors, the strongest first.
        low, high: values of the first three components that are drawn as 0 and as 255.
    """

    mean: Float64[np.ndarray, " channels"]
    components: Float64[np.ndarray, "channels components"]
    low: Float64[np.ndarray, "3"]
    high: Float64[np.ndarray, "3"]

    def project(self, count: int, read: ReadFeatures) -> Float32[np.ndarray, "rows components"]:
        """The components of all `count` rows of a frame, which are read in chunks."""
        chunks = np.array_split(np.arange(count), -(-count // CHUNK))
        parts = [(read(rows) - self.mean) @ self.components for rows in chunks]
        return np.concatenate(parts).astype(np.float32)

    def colors(
        self, projected: Float32[np.ndarray, "rows components"]
    ) -> UInt8[np.ndarray, "rows 3"]:
        """The first three components as red, green and blue."""
        share = (projected[:, :3] - self.low) / np.maximum(self.high - self.low, 1e-12)
        return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)

    def layer(self, projected: Float32[np.ndarray, "rows components"]) -> FeatureLayer:
        """All components for the viewer, quantised to 8 bits; outliers are clipped."""
        factor = 127 / max(float(np.percentile(np.abs(projected), 99.9)), 1e-12)
        vectors = np.clip(np.rint(projected * factor), -127, 127).astype(np.int8)
        high = np.maximum(self.high, self.low + 1e-12)
        return FeatureLayer(vectors, _three(self.low * factor), _three(high * factor))


def _three(values: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = values.tolist()
    return red, green, blue


def principal_basis(frames: Sequence[tuple[int, ReadFeatures]]) -> PrincipalBasis:
    """One basis and one range of colours for all frames, fitted to rows drawn at random.

    Args:
        frames: number of rows of each frame, and the function that reads them.
    """
    random = np.random.default_rng(0)
    fitted = [
        read(np.sort(random.choice(count, size=min(count, FITTED_ROWS), replace=False)))
        for count, read in frames
    ]
    features = np.concatenate(fitted).astype(np.float64)
    mean = features.mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov(features.T))
    basis = vectors[:, ::-1][:, :COMPONENTS]
    largest = np.abs(basis).argmax(axis=0)
    basis = basis * np.sign(basis[largest, np.arange(basis.shape[1])])
    low, high = np.percentile((features - mean) @ basis[:, :3], [2, 98], axis=0)
    return PrincipalBasis(mean, basis, low, high)


def principal_colors(
    frames: Sequence[tuple[int, ReadFeatures]],
) -> list[UInt8[np.ndarray, "points 3"]]:
    """The first three principal components of features as red, green and blue.

    One basis serves all frames, so colours are comparable among them, but not between two calls.
    """
    basis = principal_basis(frames)
    return [basis.colors(basis.project(count, read)) for count, read in frames]


def depth_colors(
    depth_m: Float[np.ndarray, " points"], near_m: float, far_m: float
) -> UInt8[np.ndarray, "points 3"]:
    """Dark at `near_m`, bright at `far_m` (m)."""
    share = np.clip((depth_m - near_m) / max(far_m - near_m, 1e-9), 0, 1)
    stops = np.linspace(0, 1, len(DEPTH_ANCHORS))
    channels = [np.interp(share, stops, anchors) for anchors in DEPTH_ANCHORS.T]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


def label_colors(labels: UInt8[np.ndarray, " points"]) -> UInt8[np.ndarray, "points 3"]:
    """A fixed colour per class; from class 20 on colours repeat."""
    return PALETTE[labels.astype(np.int64) % len(PALETTE)]


def mark_pixels(
    image: UInt8[np.ndarray, "height width 4"], pixel_uv: Float[np.ndarray, "marks 2"]
) -> UInt8[np.ndarray, "height width 4"]:
    """A copy with a white, dark-edged dot at each of the positions (px) that lie inside."""
    marked = image.copy()
    height, width, _ = image.shape
    for u, v in np.rint(pixel_uv).astype(np.int64):
        for radius, color in ((2, (20, 20, 20, 255)), (1, (255, 255, 255, 255))):
            if 0 <= u < width and 0 <= v < height:
                rows = slice(max(v - radius + 1, 0), v + radius)
                marked[rows, max(u - radius + 1, 0) : u + radius] = color
    return marked


def draw_dots(
    image: UInt8[np.ndarray, "height width 4"],
    pixel_uv: Float[np.ndarray, "dots 2"],
    colors: UInt8[np.ndarray, "dots 3"],
    *,
    radius: int,
) -> UInt8[np.ndarray, "height width 4"]:
    """A dimmed grey copy with a filled square of 2 `radius` + 1 px around each position inside."""
    grey = image[..., :3].mean(axis=2, keepdims=True) * 0.6 + 60
    drawn = np.concatenate([np.repeat(grey, 3, axis=2), image[..., 3:]], axis=2).astype(np.uint8)
    height, width, _ = image.shape
    for (u, v), color in zip(np.rint(pixel_uv).astype(np.int64), colors, strict=True):
        if 0 <= u < width and 0 <= v < height:
            rows = slice(max(v - radius, 0), v + radius + 1)
            drawn[rows, max(u - radius, 0) : u + radius + 1] = (*color, 255)
    return drawn


def draw_ring(
    picture: UInt8[np.ndarray, "height width 4"],
    pixel_uv: Float[np.ndarray, "2"],
    color: tuple[int, int, int],
    *,
    text: str = "",
    share: float = 1 / 32,
) -> UInt8[np.ndarray, "height width 4"]:
    """A copy with a dark-edged ring round a position (px), and a short text beside it.

    Args:
        picture: RGBA.
        pixel_uv: the ring's centre.
        color: RGB.
        text: beside the ring.
        share: the ring's radius as a part of the picture's width.
    """
    height, width, _ = picture.shape
    marked = Image.fromarray(picture)
    pen = ImageDraw.Draw(marked)
    u, v = (float(value) for value in pixel_uv)
    radius, line = max(width * share, 3.0), max(round(width * share / 5), 1)
    for extra, ink in ((line, (10, 10, 10)), (0, color)):
        outer = radius + extra
        box = (u - outer, v - outer, u + outer, v + outer)
        pen.ellipse(box, outline=(*ink, 255), width=line + 2 * extra)
    if text:
        size = max(width // 22, 8)
        left = u + radius + line if u < 0.9 * width else u - radius - size
        place = (left, min(max(v - size / 2, 0), height - size))
        pen.text(
            place,
            text,
            fill=(*color, 255),
            font=ImageFont.load_default(size),
            stroke_width=max(line, 1),
            stroke_fill=(10, 10, 10, 255),
        )
    return np.asarray(marked)


def cut_out(
    picture: UInt8[np.ndarray, "height width 4"], pixel_uv: Float[np.ndarray, "2"], side: int
) -> UInt8[np.ndarray, "side side 4"]:
    """A square of `side` px round a position (px), transparent beyond the picture's border."""
    u, v = np.rint(pixel_uv).astype(np.int64)
    padded = np.pad(picture, ((side, side), (side, side), (0, 0)))
    top, left = int(v) + side - side // 2, int(u) + side - side // 2
    return padded[top : top + side, left : left + side]
