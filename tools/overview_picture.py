"""Draw docs/images/overview.png, the README's picture, from a finished `p2pkit demo`.

Example: p2pkit demo && python tools/overview_picture.py demo
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from p2pkit.pipelines.report_frames import frame_pictures, open_view
from p2pkit.pipelines.report_networks import run_networks
from p2pkit.pipelines.runs import read_config_for_use
from p2pkit.pipelines.splits import chosen_samples, holdout_split
from p2pkit.shards.store import open_store

TARGET = Path(__file__).parents[1] / "docs" / "images" / "overview.png"
MARGIN, CAPTION = 8, 26


def panel(picture: np.ndarray, caption: str) -> Image.Image:
    """A picture on white with its caption below."""
    drawn = Image.fromarray(picture)
    canvas = Image.new("RGB", (drawn.width, drawn.height + CAPTION), "white")
    canvas.paste(drawn, (0, 0), drawn)
    font = ImageFont.load_default(15)
    ImageDraw.Draw(canvas).text((2, drawn.height + 4), caption, fill="#1d2330", font=font)
    return canvas


def main(demo: Path) -> None:
    """Draw the first held-out frame of the demo in `demo`."""
    store = open_store(str(demo / "store"))
    kept, held = holdout_split(store, read_config_for_use(demo / "run").holdout)
    networks = run_networks(demo / "run", store, kept, seed=1)
    views = [open_view(store, networks.layer, sample) for sample in chosen_samples(held, 3)]
    frame = frame_pictures(views, networks)[0]
    panels = [
        panel(frame.colors, "image, at its 3D points"),
        panel(frame.teacher, "2D network's features"),
        panel(frame.random, "3D network, random weights"),
        panel(frame.pretrained, "3D network, pretrained"),
    ]
    width = sum(part.width + MARGIN for part in panels) - MARGIN
    sheet = Image.new("RGB", (width, panels[0].height), "white")
    left = 0
    for part in panels:
        sheet.paste(part, (left, 0))
        left += part.width + MARGIN
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(TARGET, optimize=True)
    print(TARGET)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
