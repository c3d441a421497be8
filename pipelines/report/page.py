"""Renders a template of `templates/` to one HTML file that loads nothing from outside."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jinja2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

TEMPLATES = Path(__file__).parent / "templates"
NUMBER_STARTS = frozenset(["", "–", "+", "-", *"0123456789"])


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture with its caption.

    Args:
        picture: RGB or RGBA.
        lines: of the caption; the first one is also its alternative text.
        kind: `hit` or `miss` colours its edge, `query` sets it apart.
    """

    picture: UInt8[np.ndarray, "height width channels"]
    lines: Sequence[str]
    kind: str = ""


@dataclass(frozen=True)
class Tile:
    """A score at the top of a page: its name, its value, and what to compare it with."""

    what: str
    value: str
    against: str


def captioned(pictures: Mapping[str, UInt8[np.ndarray, "height width channels"]]) -> list[Shown]:
    """Pictures by their captions, to be shown side by side."""
    return [Shown(picture, [caption]) for caption, picture in pictures.items()]


def render(template: str, **values: Any) -> str:
    """A whole HTML document from a template; every text that is not `Markup` is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    filters = {"data_uri": data_uri, "numeric_columns": numeric_columns}
    cast("dict[str, object]", environment.filters).update(filters)
    return environment.get_template(template).render(**values)


def data_uri(picture: UInt8[np.ndarray, "height width channels"]) -> str:
    """A WebP picture inside a URI; a fifth of a PNG's size, with no visible loss."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", quality=88, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def numeric_columns(rows: Sequence[Sequence[str]]) -> set[int]:
    """The columns whose cells are numbers or empty, which are right-aligned."""
    columns = enumerate(zip(*rows, strict=True))
    return {
        number
        for number, cells in columns
        if all(cell[:1] in NUMBER_STARTS for cell in cells) and any(cells)
    }


def grid_text(image: str, grid: Mapping[str, Any]) -> str:
    """A teacher's measured grid for images of one size, such as "640x480", in words."""

    def pair(name: str) -> str:
        return " × ".join(f"{value:g}" for value in grid[name])

    first = ", ".join(f"{value:g}" for value in grid["offset"])
    return (
        f"{pair('cells')} cells for images of {image.replace('x', ' × ')} px, which the teacher "
        f"sees at {pair('input_size')} px; one cell every {pair('stride')} px, the first centred "
        f"on pixel ({first})"
    )
