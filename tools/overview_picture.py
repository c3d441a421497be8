"""Draw docs/images/overview.png, the README's picture, from a finished `p2pkit demo`.

Example: p2pkit demo && python tools/overview_picture.py demo
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw, ImageFont

from p2pkit.pipelines.held_out import chosen_samples, holdout_split
from p2pkit.pipelines.report.frames import (
    FrameView,
    Picture,
    embedded_student,
    embedded_teacher,
    open_view,
)
from p2pkit.pipelines.report.networks import RunNetworks, run_networks
from p2pkit.pipelines.report.pictures import draw_points, draw_ring, principal_basis
from p2pkit.pipelines.train.run_folder import read_config_for_use
from p2pkit.store.reading import open_store

TARGET = Path(__file__).parents[1] / "docs" / "images" / "overview.png"
MARGIN, HEADING, CAPTION = 12, 30, 28
INK, SOFT = "#1d2330", "#5a6372"
LINK_COLORS = ((255, 210, 60), (90, 220, 255), (255, 130, 220))
LINKED_PLACES = ((0.27, 0.62), (0.5, 0.32), (0.72, 0.75))
"""Positions of the marked pixels, as shares of the image's width and height."""
TURN_DEG, TILT_DEG = 30.0, 20.0


@dataclass(frozen=True)
class Stage:
    """A column: what one command needs or makes, as two captioned pictures."""

    heading: str
    panels: tuple[tuple[Picture, str], tuple[Picture, str]]


def embedding_colors(view: FrameView, networks: RunNetworks) -> list[UInt8[np.ndarray, "rows 3"]]:
    """Colours of the embeddings of pixels, points, and points before training, in one space: equal
    colours mean equal features.
    """
    readers = [
        embedded_teacher(view, networks),
        embedded_student(view, networks, "pretrained"),
        embedded_student(view, networks, "random"),
    ]
    basis = principal_basis([(len(view.rows), read) for read in readers[:2]])
    return [basis.colors(basis.project(len(view.rows), read)) for read in readers]


def seen_from_the_side(
    view: FrameView,
) -> tuple[Float32[np.ndarray, "rows 2"], Float32[np.ndarray, " rows"]]:
    """Positions of the points in a picture from the right and above, and their distances to it.

    Parallel projection, scaled to fill the picture.
    """
    turn, tilt = np.radians([TURN_DEG, TILT_DEG])
    about_y = np.array(
        [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
    )
    about_x = np.array(
        [[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]]
    )
    points = view.camera_points @ (about_x @ about_y).T.astype(np.float32)
    size = np.array(view.drawn_size, np.float32)
    low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    scale = (0.96 * size / (high - low)).min()
    return (points[:, :2] - (low + high) / 2) * scale + size / 2, points[:, 2]


def linked_pictures(view: FrameView) -> tuple[Picture, Picture]:
    """The image, and its points from the side, with the same rings at a few pairs."""
    image, own = view.image(), view.drawn_uv(view.cloud.pixels[view.rows])
    side, depth_m = seen_from_the_side(view)
    points = draw_points(view.of_points(view.cloud.colors), side, depth_m, view.drawn_size)
    for number, (place, color) in enumerate(zip(LINKED_PLACES, LINK_COLORS, strict=True), start=1):
        row = np.square(own - np.array(place) * view.drawn_size).sum(axis=1).argmin()
        image = draw_ring(image, own[row], color, text=f"{number}")
        points = draw_ring(points, side[row], color, text=f"{number}")
    return image, points


def stages(view: FrameView, networks: RunNetworks) -> list[Stage]:
    """Input, cache and output for one frame."""
    image, points = linked_pictures(view)
    pixels, pretrained, random = embedding_colors(view, networks)
    return [
        Stage(
            "In: your recording",
            ((image, "colour image"), (view.draw(view.depth_colors()), "depth (or LiDAR)")),
        ),
        Stage(
            "Cached once: p2pkit extract",
            (
                (view.draw_with_cells(pixels), "2D network's features, kept at the dots"),
                (points, "3D points, each linked to its pixel"),
            ),
        ),
        Stage(
            "Out: p2pkit train",
            (
                (view.draw(pretrained), "3D network, which sees the points alone"),
                (view.draw(random), "the same 3D network before training"),
            ),
        ),
    ]


def sheet(columns: list[Stage]) -> Image.Image:
    """The columns side by side on white."""
    height, width = columns[0].panels[0][0].shape[:2]
    step = width + MARGIN
    size = (len(columns) * step - MARGIN, HEADING + 2 * (height + CAPTION))
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    for number, column in enumerate(columns):
        left = number * step
        pen.text((left, 2), column.heading, fill=INK, font=ImageFont.load_default(20))
        for row, (picture, caption) in enumerate(column.panels):
            top, drawn = HEADING + row * (height + CAPTION), Image.fromarray(picture)
            canvas.paste(drawn, (left, top), drawn)
            place = (left, top + height + 3)
            pen.text(place, caption, fill=SOFT, font=ImageFont.load_default(15))
    return canvas


def demo_view(demo: Path) -> tuple[FrameView, RunNetworks]:
    """A held-out frame of a finished demo, and its networks."""
    store = open_store(str(demo / "store"))
    kept, held = holdout_split(store, read_config_for_use(demo / "run").holdout)
    networks = run_networks(demo / "run", store, kept, seed=1)
    return open_view(store, networks.layer, chosen_samples(held, 3)[0]), networks


def main(demo: Path, target: Path = TARGET) -> None:
    """Draw the first held-out frame of the demo in `demo`."""
    view, networks = demo_view(demo)
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet(stages(view, networks)).save(target, optimize=True)
    print(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
