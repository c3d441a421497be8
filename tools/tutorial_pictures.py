"""Draw the pictures of docs/tutorial.md from a finished `p2pkit demo`.

Example: p2pkit demo && python tools/tutorial_pictures.py demo
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from overview_picture import demo_view, stages
from PIL import Image, ImageDraw, ImageFont

from p2pkit.pipelines.report.frames import Picture
from p2pkit.pipelines.report.pictures import label_colors

FOLDER = Path(__file__).parents[1] / "docs" / "images"
HEIGHT, MARGIN, CAPTION = 210, 8, 22
COLORS = 256
"""Of the palette, so that the pictures stay small."""

Panel = tuple[Picture, str]


def row_of(panels: Sequence[Panel]) -> Image.Image:
    """Captioned pictures of one height side by side on white."""
    drawn = [Image.fromarray(picture).convert("RGBA") for picture, _ in panels]
    scaled = [one.resize((round(one.width * HEIGHT / one.height), HEIGHT)) for one in drawn]
    width = sum(one.width for one in scaled) + MARGIN * (len(scaled) - 1)
    canvas = Image.new("RGB", (width, HEIGHT + CAPTION), "white")
    pen, left = ImageDraw.Draw(canvas), 0
    for picture, (_, caption) in zip(scaled, panels, strict=True):
        canvas.paste(picture, (left, 0), picture)
        place = (left, HEIGHT + 3)
        pen.text(place, caption, fill="#5a6372", font=ImageFont.load_default(14))
        left += picture.width + MARGIN
    return canvas.quantize(COLORS)


def pictures(demo: Path) -> dict[str, Sequence[Panel]]:
    """The panels of each stage by the picture's name."""
    view, networks = demo_view(demo)
    recorded, cached, learned = stages(view, networks)
    overlays = sorted((demo / "check" / "overlays").glob("*.png"))[:2]
    assert view.cloud.labels is not None
    labels = view.draw(label_colors(view.of_points(view.cloud.labels)))
    overlaid = [(np.asarray(Image.open(path)), "pairs drawn over the image") for path in overlays]
    return {
        "recording": recorded.panels,
        "check": overlaid,
        "extract": cached.panels,
        "train": learned.panels,
        "evaluate": [(view.image(), "held-out frame"), (labels, "its labels, one colour a class")],
    }


def main(demo: Path, folder: Path = FOLDER) -> None:
    """Draw one PNG for each stage into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, panels in pictures(demo).items():
        path = folder / f"tutorial-{name}.png"
        row_of(panels).save(path, optimize=True)
        print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
