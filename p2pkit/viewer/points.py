"""Frames of points as the HTML of an interactive viewer.

three.js and its OrbitControls (versions.json) are put into the page as they were published; the
browser finds them through an import map of `data:` addresses, so a page works from a local file.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

MOST_POINTS = 30_000
STEPS = 65_535
FOLDER = Path(__file__).parent
MODULES = {
    "three-core": "three.core.min.js",
    "three": "three.module.min.js",
    "orbit-controls": "OrbitControls.js",
}
"""Name by which a script imports each file. A `data:` address cannot be the base of another, so the
one relative import, of the core, is given its name in the import map."""
RELATIVE_CORE = '"./three.core.min.js"'


@dataclass(frozen=True)
class PointFrame:
    """One frame of the viewer.

    Args:
        key: the frame's key.
        points: x right, y down, z forward (m), as the frame's camera sees them.
        colors: RGB of each point, by the name of what they mean.
        up: unit vector against gravity in the camera's axes; a camera held level where unknown.
    """

    key: str
    points: Float32[np.ndarray, "points 3"]
    colors: Mapping[str, UInt8[np.ndarray, "points 3"]]
    up: tuple[float, float, float] = (0.0, -1.0, 0.0)


def point_viewer(frames: Sequence[PointFrame], *, most_points: int = MOST_POINTS) -> str:
    """HTML of one viewer of all frames; once on a page.

    Positions are quantised to 16 bits over each frame's extent. Where WebGL 2 or JavaScript is
    missing, a sentence says so in the viewer's place.

    Args:
        frames: at least one; each may have its own kinds of colours.
        most_points: larger frames are thinned to so many, evenly at random.
    """
    options = "".join(
        f'<option value="{number}">{escape(frame.key)}</option>'
        for number, frame in enumerate(frames)
    )
    return (
        '<figure class="viewer"><div class="controls" hidden>'
        f'<label>Frame <select name="frame">{options}</select></label>'
        '<label>Colours <select name="coloring"></select></label>'
        '<label>Point size <input type="range" name="size" min="0.5" max="6" step="0.25" '
        'value="2"></label><button type="button" name="reset">Reset view</button></div>'
        '<div class="stage">The points can be turned here with JavaScript and WebGL 2.</div>'
        "<figcaption>Drag to turn, wheel or pinch to zoom, right button to move. "
        f"Up to {most_points:,} points of each frame.</figcaption>"
        f'<script type="application/json">{_frames_json(frames, most_points)}</script></figure>'
        f'<script type="importmap">{json.dumps({"imports": _modules()})}</script>'
        f'<script type="module">{(FOLDER / "viewer.js").read_text()}</script>'
    )


def _modules() -> dict[str, str]:
    texts = {name: (FOLDER / file).read_text() for name, file in MODULES.items()}
    texts["three"] = texts["three"].replace(RELATIVE_CORE, '"three-core"')
    return {
        name: f"data:text/javascript;base64,{_base64(text.encode())}"
        for name, text in texts.items()
    }


def _frames_json(frames: Sequence[PointFrame], most_points: int) -> str:
    text = json.dumps([_frame_value(frame, most_points) for frame in frames])
    return text.replace("<", "\\u003c")


def _frame_value(frame: PointFrame, most_points: int) -> dict[str, Any]:
    count = len(frame.points)
    rows = np.arange(count)
    if count > most_points:
        rows = np.sort(np.random.default_rng(0).choice(count, most_points, replace=False))
    points = frame.points[rows].astype(np.float64)
    low = points.min(axis=0)
    step = np.maximum(points.max(axis=0) - low, 1e-9) / STEPS
    return {
        "positions": _base64(np.rint((points - low) / step).astype("<u2").tobytes()),
        "low": low.tolist(),
        "step": step.tolist(),
        "up": frame.up,
        "colors": {name: _base64(colors[rows].tobytes()) for name, colors in frame.colors.items()},
    }


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
