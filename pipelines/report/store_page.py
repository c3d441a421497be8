"""report of a store: what it holds and how it looks, as one HTML file; needs no MinkowskiEngine."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any, Literal

import numpy as np

from p2pkit.errors import ConfigError
from p2pkit.files import write_atomic
from p2pkit.geometry.project import project
from p2pkit.layers.features import pair_features
from p2pkit.pipelines.held_out import chosen_samples
from p2pkit.pipelines.report.frames import FrameView, Picture, open_view, teacher_reader
from p2pkit.pipelines.report.html import definitions, figures, grid_text, page, table
from p2pkit.pipelines.report.pictures import ReadFeatures, draw_dots, draw_points, principal_colors
from p2pkit.pipelines.settings import StoreReportConfig
from p2pkit.store.reading import open_store
from p2pkit.store.summary import store_summary
from p2pkit.viewer import point_viewer

SHOWN_PAIRS = 600
TURN_DEGREES = 25.0
IMAGE_STEP_PX = 4


def source_kind(source: str) -> Literal["run", "store"]:
    """What lies at a path or URL; a URL is taken for a store.

    Raises:
        ConfigError: it is neither a run nor a store.
    """
    if "://" in source or (Path(source) / "p2pkit.json").is_file():
        return "store"
    if (Path(source) / "config.json").is_file() and (Path(source) / "store.json").is_file():
        return "run"
    raise ConfigError(
        f"{source} is neither a store (it has no p2pkit.json) nor a run (config.json and "
        "store.json): name what `p2pkit extract` or `p2pkit train` wrote"
    )


def run(config: StoreReportConfig) -> Path:
    """Write the report.

    Returns:
        The file's path.

    Raises:
        StoreError: the store cannot be read, or has no such layer.
        ConfigError: it has no feature layer.
    """
    store = open_store(config.store)
    if not store.feature_layers:
        raise ConfigError(
            f"{config.store} holds geometry only, and a report draws features: add a teacher with "
            "`p2pkit extract`"
        )
    layer = store.layer(config.layer or store.feature_layers[0]).name
    samples = chosen_samples(np.arange(store.samples), config.frames)
    views = [open_view(store, layer, sample) for sample in samples]
    summary = store_summary(store)
    name = str(summary["dataset"]["dataset"])
    sections = [
        *_summary_section(name, summary),
        *_frames_section(layer, views),
    ]
    write_atomic(config.out, page(f"p2pkit: store of {name}", sections).encode())
    return config.out


def _summary_section(name: str, summary: Mapping[str, Any]) -> list[str]:
    layers: Sequence[Mapping[str, Any]] = summary["layers"]
    rows = [
        [
            layer["name"],
            f"{layer['samples']}",
            f"{layer['shards']} of {summary['plan']['shards']}",
            f"{layer['failures']}",
            f"{layer['bytes'] / 1e6:,.1f}",
            f"{layer['bytes'] / max(layer['samples'], 1) / 1e3:,.0f}",
        ]
        for layer in layers
    ]
    header = ["layer", "frames", "shards", "left out as bad", "MB", "kB a frame"]
    parts = [f"<h1>{escape(name)}: a store</h1>", table(header, rows)]
    for layer in layers:
        parts += [f"<h2>Layer {escape(layer['name'])}</h2>", definitions(_layer_facts(layer))]
    return parts


def _layer_facts(layer: Mapping[str, Any]) -> dict[str, str]:
    facts = {
        name.replace("_", " ").capitalize(): f"{value}"
        for name, value in layer["provenance"].items()
    }
    details = layer["details"]
    if "channels" in details:
        facts["Channels"] = f"{details['channels']}"
    if "stored_views" in details:
        facts["Views of each image"] = f"as it is; {details['stored_views'].replace(',', '; ')}"
    if "upsampling" in details:
        facts["Upsampling"] = f"{details['upsampling']}"
    if "grids" in details:
        facts["Measured grid"] = "; ".join(
            grid_text(image, grid) for image, grid in details["grids"].items()
        )
    facts["Fields"] = "; ".join(
        f"{field['name']} ({', '.join(field['axes'])}) {field['dtype']}, {field['codec']}"
        for field in layer["fields"]
    )
    facts["Fingerprint"] = f"sha256 {layer['fingerprint_sha256']}"
    return facts


def _frames_section(layer: str, views: Sequence[FrameView]) -> list[str]:
    dense = [view for view in views if "map" in view.features.arrays]
    readers = [(len(view.rows), teacher_reader(view)) for view in views]
    readers += [_image_reader(view) for view in dense]
    colors = principal_colors(readers)
    on_points, on_image = colors[: len(views)], colors[len(views) :]
    lines = [
        f"<h2>{len(views)} frames, features of {escape(layer)}</h2>",
        "<p>A store keeps no images: the first picture draws the colours of the 3D points at their "
        "pixels. Features are shown as their first three principal components in red, green and "
        "blue, which compare over all frames. White dots are the measured centres of the teacher’s "
        "cells. Squares are pairs of a pixel and a point: dark near or doubtful, bright far or "
        "sure.</p>",
    ]
    for number, view in enumerate(views):
        image = on_image[number] if dense else None
        pictures = _pictures(view, on_points[number], image)
        lines.append(f"<p class='soft'><code>{escape(view.cloud.key)}</code></p>")
        lines.append(figures(pictures))
    frames = [
        view.points({"2D teacher": found}) for view, found in zip(views, on_points, strict=True)
    ]
    return [*lines, "<h2>Turn the points</h2>", point_viewer(frames)]


def _pictures(
    view: FrameView, on_points: np.ndarray, on_image: np.ndarray | None
) -> dict[str, Picture]:
    colors = view.plain_colors()
    image = view.image()
    found = {"Image (colours of the points)": image}
    if on_image is not None:
        whole = np.full((len(on_image), 4), 255, dtype=np.uint8)
        whole[:, :3] = on_image
        found["2D teacher on the image"] = whole.reshape(*_image_rows(view).shape[:2], 4)
    found["2D teacher on the points"] = view.draw_with_cells(on_points)
    found[f"The points, turned by {TURN_DEGREES:g}°"] = _turned(view, on_points)
    shown = np.linspace(0, len(view.rows) - 1, min(SHOWN_PAIRS, len(view.rows))).astype(np.int64)
    near, far = view.depth_range_m
    captions = {
        "depth": f"Pairs by depth, {near:.1f} m dark to {far:.1f} m bright",
        "pair confidence": "Pairs by confidence",
    }
    for name, caption in captions.items():
        if name in colors:
            uv = view.drawn_uv(view.cloud.pixels[view.rows[shown]])
            radius = max(view.drawn_size[0] // 300, 1)
            found[caption] = draw_dots(image, uv, colors[name][shown], radius=radius)
    return found


def _image_rows(view: FrameView) -> np.ndarray:
    """Every fourth pixel of the image, rows by columns by (u, v)."""
    width, height = view.image_size
    u, v = np.arange(0, width, IMAGE_STEP_PX), np.arange(0, height, IMAGE_STEP_PX)
    return np.stack(np.meshgrid(u, v), axis=-1).astype(np.float32)


def _image_reader(view: FrameView) -> tuple[int, ReadFeatures]:
    """Reads the teacher's features at pixels of the image, seen by a point or not."""
    uv = _image_rows(view).reshape(-1, 2)
    everywhere = replace(
        view.cloud,
        pixels=uv,
        pair_view=np.full(len(uv), view.number, dtype=np.uint8),
        pair_point=np.zeros(len(uv), dtype=np.int64),
        pair_confidence=None,
    )
    return len(uv), lambda rows: pair_features(view.features, everywhere, rows)


def _turned(view: FrameView, colors: np.ndarray) -> Picture:
    """The points as a camera sees them that moved round their middle to the right."""
    angle = np.radians(TURN_DEGREES)
    turn = np.eye(4)
    turn[[0, 0, 2, 2], [0, 2, 0, 2]] = np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)
    middle = np.median(view.camera_points, axis=0).astype(np.float64)
    turn[:3, 3] = middle - turn[:3, :3] @ middle
    found = project(view.camera_points, view.camera, turn)
    seen = found.visible
    uv = view.drawn_uv(found.pixel_uv[seen])
    return draw_points(colors[seen], uv, found.depth_m[seen], view.drawn_size)
