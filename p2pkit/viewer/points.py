"""Frames of points as the HTML of an interactive viewer: viewer.html, turned by viewer.js."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from jaxtyping import Float32, Int8, UInt8
from markupsafe import Markup

MOST_POINTS = 20_000
STEPS = 65_535
FOLDER = Path(__file__).parent


@dataclass(frozen=True, eq=False)
class FeatureLayer:
    """Features of a frame's points, short enough to be compared in a page.

    Args:
        vectors: principal components of each point's feature, the strongest first, all quantised
            by one factor.
        low, high: values of the first three that are drawn as 0 and as 255 of red, green and blue.
    """

    vectors: Int8[np.ndarray, "points channels"]
    low: tuple[float, float, float]
    high: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class PointFrame:
    """One frame of the viewer.

    Args:
        key: the frame's key.
        points: x right, y down, z forward (m), in the axes of the frame's camera.
        colors: RGB of each point, by the name of what they show.
        features: by their name; points can be compared with a clicked one in these.
        up: unit vector against gravity in the camera's axes; a level camera where unknown.
    """

    key: str
    points: Float32[np.ndarray, "points 3"]
    colors: Mapping[str, UInt8[np.ndarray, "points 3"]]
    features: Mapping[str, FeatureLayer] = field(default_factory=dict)
    up: tuple[float, float, float] = (0.0, -1.0, 0.0)


def point_viewer(
    frames: Sequence[PointFrame], *, first: Sequence[str], most_points: int = MOST_POINTS
) -> Markup:
    """HTML of a viewer of all frames, with one pane per name in `first` and one camera for all.

    Positions are quantised to 16 bits over each frame's extent. Where WebGL 2 or JavaScript is
    missing, a sentence in the viewer's place says so.

    Args:
        frames: at least one; each may have its own kinds of colours.
        first: the layers (colours or features) that the panes show to begin with.
        most_points: larger frames are thinned to this many, evenly at random.
    """
    template = jinja2.Template((FOLDER / "viewer.html").read_text(), autoescape=True)
    return Markup(
        template.render(
            frames=frames,
            first=first,
            most_points=most_points,
            frames_json=_frames_json(frames, most_points),
            script=Markup((FOLDER / "viewer.js").read_text()),
        )
    )


def _frames_json(frames: Sequence[PointFrame], most_points: int) -> Markup:
    text = json.dumps([_frame_value(frame, most_points) for frame in frames])
    return Markup(text.replace("<", "\\u003c"))


def _frame_value(frame: PointFrame, most_points: int) -> dict[str, Any]:
    count = len(frame.points)
    rows = np.arange(count)
    if count > most_points:
        rows = np.sort(np.random.default_rng(0).choice(count, most_points, replace=False))
    points = frame.points[rows].astype(np.float64)
    low = points.min(axis=0)
    step = np.maximum(points.max(axis=0) - low, 1e-9) / STEPS
    plain = {name: {"rgb": _base64(colors[rows])} for name, colors in frame.colors.items()}
    features = {
        name: {
            "vectors": _base64(layer.vectors[rows]),
            "channels": layer.vectors.shape[1],
            "low": layer.low,
            "high": layer.high,
        }
        for name, layer in frame.features.items()
    }
    return {
        "positions": _base64(np.rint((points - low) / step).astype("<u2")),
        "low": low.tolist(),
        "step": step.tolist(),
        "up": frame.up,
        "layers": {**plain, **features},
    }


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()
