"""Further views of the images in a `grid` layer: fields, sample JSON, and where pixels lie in them.

View 0 is the image as it is, in the field `map`. Each other one, such as the mirror image, has its
own field and grids, because another size of the image gives another number of cells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from p2pkit.errors import StoreError
from p2pkit.geometry.maps.grid import Alignment, FeatureGrid, grid_from_json, pixel_in_view
from p2pkit.store.manifest import LayerSpec

STORED_VIEWS = "stored_views"


@dataclass(frozen=True, eq=False)
class SeenImages:
    """One view of all images of a frame, and where the maps of them lie.

    Args:
        grids: of the map of each image.
        sizes: (width, height) of each image in this view (px); None where it is as it is.
        flip: whether it is then mirrored left to right.
    """

    grids: tuple[FeatureGrid, ...]
    sizes: tuple[tuple[int, int], ...] | None = None
    flip: bool = False

    def cell_from_pixel(
        self,
        pixel_uv: Float[np.ndarray, "pairs 2"],
        image: int,
        image_size: tuple[int, int],
        alignment: Alignment = "measured",
    ) -> Float[np.ndarray, "pairs 2"]:
        """Cell coordinates of pixels of the recording's image; see `FeatureGrid.cell_from_pixel`.

        Args:
            pixel_uv: pixel coordinates (px, centres at integers).
            image: number of the image in the frame.
            image_size: (width, height) of the recording's image (px).
            alignment: how the map lies over the image.
        """
        if self.sizes is None:
            return self.grids[image].cell_from_pixel(pixel_uv, image_size, alignment)
        size = self.sizes[image]
        seen_uv = pixel_in_view(pixel_uv, image_size, size, flip=self.flip)
        return self.grids[image].cell_from_pixel(seen_uv, size, alignment)

    def to_json(self) -> dict[str, Any]:
        """An entry of the sample's `stored_views`."""
        return {
            "flip": self.flip,
            "sizes": [list(size) for size in self.sizes or ()],
            "grids": [grid.to_json() for grid in self.grids],
        }


@dataclass(frozen=True, eq=False)
class ViewMaps:
    """What is stored of one further view.

    Args:
        seen: the view.
        maps: of each image, float16 [height, width, channels].
    """

    seen: SeenImages
    maps: Sequence[np.ndarray]


def map_field(view: int) -> str:
    """The field with the maps of a view."""
    return f"map_{view}" if view else "map"


def view_fields(layer: LayerSpec, view: int) -> list[str] | None:
    """The arrays to read of one view; None, all of them, where only the image itself is stored."""
    if stored_views(layer) == 1:
        return None
    field = map_field(view)
    return [spec.name for spec in layer.fields if spec.name in (field, f"{field}_scale")]


def stored_views(layer: LayerSpec) -> int:
    """How many views of each image a layer has, the image itself included."""
    text = str(layer.details.get(STORED_VIEWS, ""))
    return 1 + len(text.split(",")) if text else 1


def seen_images(meta: Mapping[str, Any], view: int) -> SeenImages:
    """A view, from the JSON of a sample.

    Raises:
        StoreError: the sample has no such view.
    """
    if view == 0:
        return SeenImages(_grids(meta["grids"]))
    stored: list[dict[str, Any]] = meta.get(STORED_VIEWS, [])
    if not 0 < view <= len(stored):
        raise StoreError(f"the layer stores no view {view}; it has 0 to {len(stored)}")
    entry = stored[view - 1]
    sizes = tuple((int(width), int(height)) for width, height in entry["sizes"])
    return SeenImages(_grids(entry["grids"]), sizes, bool(entry["flip"]))


def _grids(values: Sequence[dict[str, Any]]) -> tuple[FeatureGrid, ...]:
    return tuple(grid_from_json(value) for value in values)
