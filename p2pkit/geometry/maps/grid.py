"""Where the cells of a teacher's feature map sit in the image."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

Alignment = Literal["measured", "slidr"]


@dataclass(frozen=True)
class FeatureGrid:
    """Geometry of a teacher's map for one input size. All pairs are (u, v), i.e. (x, y).

    Cell i along an axis is centred on pixel `offset + stride * i` of the teacher's input.

    Args:
        stride: distance between neighbouring cells (px of the teacher's input).
        offset: centre of cell 0 (px of the teacher's input, first pixel's centre at 0).
        cells: number of cells (width, height).
        input_size: size of the teacher's input (width, height in px), after any resizing.
    """

    stride: tuple[float, float]
    offset: tuple[float, float]
    cells: tuple[int, int]
    input_size: tuple[int, int]

    def cell_from_pixel(
        self,
        pixel_uv: Float[np.ndarray, "pairs 2"],
        image_size: tuple[int, int],
        alignment: Alignment = "measured",
    ) -> Float[np.ndarray, "pairs 2"]:
        """Continuous cell coordinates (u, v) of pixels of the recording's image, not clamped.

        `measured` uses the probe's stride and offset: u_in = s (u + 0.5) - 0.5 with s the resize
        factor, then (u_in - offset) / stride. `slidr` stretches the map over the image with
        align_corners=True, as SLidR's reference code does (Sautier et al. 2022); it is off by up to
        a stride and exists for comparisons only.

        Args:
            pixel_uv: pixel coordinates in the recording's image (px, centres at integers).
            image_size: (width, height) of the recording's image (px).
            alignment: how the map lies over the image.
        """
        pixels = pixel_uv.astype(np.float64)
        if alignment == "slidr":
            return pixels * (np.subtract(self.cells, 1) / np.subtract(image_size, 1))
        scale = np.divide(self.input_size, image_size)
        return (scale * (pixels + 0.5) - 0.5 - self.offset) / self.stride

    def cell_centres(self, image_size: tuple[int, int]) -> Float[np.ndarray, "cells 2"]:
        """Pixels (u, v) of the recording's image on which the cells are centred, row by row.

        The inverse of the measured `cell_from_pixel`.

        Args:
            image_size: (width, height) of the recording's image (px).
        """
        rows, columns = np.indices(self.cells[::-1])
        cells = np.stack([columns.ravel(), rows.ravel()], axis=1).astype(np.float64)
        centre = cells * self.stride + self.offset
        return (centre + 0.5) * np.divide(image_size, self.input_size) - 0.5

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object; `grid_from_json` reads it back."""
        return {name: list(value) for name, value in asdict(self).items()}


def pixel_in_view(
    pixel_uv: Float[np.ndarray, "pairs 2"],
    image_size: tuple[int, int],
    view_size: tuple[int, int],
    *,
    flip: bool,
) -> Float[np.ndarray, "pairs 2"]:
    """Where pixels of an image lie in the image resized and, after that, mirrored left to right.

    Args:
        pixel_uv: pixel coordinates in the image (px, centres at integers).
        image_size: (width, height) of the image (px).
        view_size: (width, height) after resizing (px).
        flip: whether it is mirrored: u becomes width - 1 - u.
    """
    moved = (pixel_uv.astype(np.float64) + 0.5) * np.divide(view_size, image_size) - 0.5
    if flip:
        moved[:, 0] = view_size[0] - 1 - moved[:, 0]
    return moved


def grid_from_json(value: dict[str, Any]) -> FeatureGrid:
    """Read what `FeatureGrid.to_json` wrote."""
    return FeatureGrid(
        stride=(float(value["stride"][0]), float(value["stride"][1])),
        offset=(float(value["offset"][0]), float(value["offset"][1])),
        cells=(int(value["cells"][0]), int(value["cells"][1])),
        input_size=(int(value["input_size"][0]), int(value["input_size"][1])),
    )
