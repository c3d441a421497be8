"""Several views of an image: what they are, and a teacher's maps of them, averaged on its grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float16, UInt8
from PIL import Image as PillowImage

from p2pkit.errors import ConfigError
from p2pkit.geometry.maps.grid import FeatureGrid, pixel_in_view
from p2pkit.geometry.maps.sample_map import sample_map
from p2pkit.teachers.teacher import Image, Teacher

_SCALES = (0.25, 4.0)


@dataclass(frozen=True)
class View:
    """One further view of an image.

    Args:
        flip: left and right exchanged.
        scale: of both sides; each side is rounded to whole pixels.
    """

    flip: bool = False
    scale: float = 1.0

    def size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of the view (px)."""
        width, height = (max(1, round(side * self.scale)) for side in image_size)
        return width, height

    def of(self, image: Image) -> UInt8[np.ndarray, "view_height view_width 3"]:
        """The image as this view has it; resized by Pillow's bicubic filter."""
        size = (image.shape[1], image.shape[0])
        if self.size(size) != size:
            resized = PillowImage.fromarray(image).resize(
                self.size(size), PillowImage.Resampling.BICUBIC
            )
            image = np.array(resized)
        return np.ascontiguousarray(image[:, ::-1]) if self.flip else image

    def pixel(
        self, pixel_uv: Float[np.ndarray, "cells 2"], image_size: tuple[int, int]
    ) -> Float[np.ndarray, "cells 2"]:
        """Where pixels of the image (px, centres at integers) lie in the view."""
        return pixel_in_view(pixel_uv, image_size, self.size(image_size), flip=self.flip)


def parse_views(text: str) -> tuple[View, ...]:
    """Read `flip`, `scale:S`, or several of them with commas; each is one view more.

    Raises:
        ConfigError: a word is none of these, or a scale is not in 0.25–4.
    """
    return tuple(_view(word.strip()) for word in text.split(",")) if text else ()


def _view(word: str) -> View:
    if word == "flip":
        return View(flip=True)
    kind, _, number = word.partition(":")
    try:
        scale = float(number)
    except ValueError:
        scale = 0.0
    if kind != "scale" or not _SCALES[0] <= scale <= _SCALES[1]:
        raise ConfigError(
            f"views: {word!r} is not a view; write flip, scale:S with S in {_SCALES[0]:g}–"
            f"{_SCALES[1]:g}, or several with commas, such as flip,scale:0.75"
        )
    return View(scale=scale)


def check_scales(text: str, input_size: Sequence[int] | None) -> None:
    """Raise ConfigError where images are resized to one size, so that scaled views would be too.

    Args:
        text: as `parse_views` reads it.
        input_size: of the teacher (px), or None where images keep their size.
    """
    if input_size and any(view.scale != 1 for view in parse_views(text)):
        raise ConfigError(
            f"views {text!r} with input_size {list(input_size)}: each scaled view would be resized "
            "to the same size again; leave one of them out"
        )


class ViewsTeacher:
    """A teacher whose map is the mean of its maps of the image and of the views.

    A view's map has its own cells: a flipped grid of offset o and stride s does not fall on itself
    unless the width fits. So each view is sampled, bilinearly, at the centres of the cells of the
    unchanged image; centres beyond a view's outermost cells take their values.

    Args:
        teacher: gives the maps.
        views: as `parse_views` reads them.
    """

    def __init__(self, teacher: Teacher, views: str) -> None:
        self.name, self.channels = teacher.name, teacher.channels
        self.weights_sha256 = teacher.weights_sha256
        self.weights_origin: str = getattr(teacher, "weights_origin", "")
        self.preprocessing: dict[str, Any] = teacher.preprocessing
        self.batch_size, self.accelerator = teacher.batch_size, teacher.accelerator
        self._teacher, self._text, self._views = teacher, views, parse_views(views)
        check_scales(views, teacher.fingerprint().get("input_size"))

    def grid(self, image_size: tuple[int, int]) -> FeatureGrid:
        """The grid of the unchanged image."""
        return self._teacher.grid(image_size)

    def features(
        self, images: Sequence[Image]
    ) -> Float16[np.ndarray, "batch cells_v cells_u channels"]:
        """Mean maps of RGB images of one size, summed in float32."""
        total = self._teacher.features(images).astype(np.float32)
        size = (images[0].shape[1], images[0].shape[0])
        centres = self.grid(size).cell_centres(size)
        for view in self._views:
            there = view.size(size)
            cells = self.grid(there).cell_from_pixel(view.pixel(centres, size), there)
            seen = self._teacher.features([view.of(image) for image in images])
            for row, found in enumerate(seen):
                total[row] += sample_map(found, cells).reshape(total[row].shape)
        return (total / (1 + len(self._views))).astype(np.float16)

    def fingerprint(self) -> dict[str, Any]:
        """The teacher's, and the views."""
        return {**self._teacher.fingerprint(), "views": self._text}
