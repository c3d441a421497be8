"""report of a store: its content and pictures, as one HTML file; needs no MinkowskiEngine."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from p2pkit.errors import ConfigError
from p2pkit.files import write_text
from p2pkit.geometry.project import project
from p2pkit.layers.features import pair_features
from p2pkit.pipelines.held_out import chosen_samples
from p2pkit.pipelines.report.frames import (
    IMAGE,
    TEACHER,
    DrawnFrame,
    FrameView,
    Picture,
    open_view,
    teacher_reader,
)
from p2pkit.pipelines.report.page import Tile, captioned, grid_text, render
from p2pkit.pipelines.report.pictures import ReadFeatures, draw_dots, draw_points, principal_basis
from p2pkit.pipelines.settings import StoreReportConfig
from p2pkit.sampling import evenly_spread
from p2pkit.store.reading import open_store
from p2pkit.store.summary import store_summary
from p2pkit.viewer import point_viewer

SHOWN_PAIRS = 600
TURN_DEGREES = 25.0
IMAGE_STEP_PX = 4
IMAGE_COLORS = "image"
"""The viewer's name of the points' own colours, see `FrameView.plain_colors`."""


def source_kind(source: str) -> Literal["run", "store"]:
    """Whether a path is a run or a store; a URL is assumed to be a store.

    Raises:
        ConfigError: it is neither a run nor a store.
    """
    if "://" in source or (Path(source) / "p2pkit.json").is_file():
        return "store"
    if (Path(source) / "config.json").is_file() and (Path(source) / "store.json").is_file():
        return "run"
    raise ConfigError(
        f"{source} is neither a store (it has no p2pkit.json) nor a run (config.json and "
        "store.json): name the output of `p2pkit extract` or `p2pkit train`"
    )


def run(config: StoreReportConfig) -> Path:
    """Write the report.

    Returns:
        The file's path.

    Raises:
        StoreError: the store cannot be read, or the layer does not exist.
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
    frames = _drawn_frames(views)
    text = render(
        "store.html",
        title=f"Store: {recording_name(config.store, summary)}",
        dataset=summary["dataset"]["dataset"],
        tiles=_tiles(summary, layer),
        shown_layer=layer,
        frames=[{"key": frame.key, "pictures": captioned(frame.pictures)} for frame in frames],
        viewer=point_viewer([frame.points for frame in frames], first=[IMAGE_COLORS, TEACHER]),
        layers=[
            {"name": found["name"], "facts": _layer_facts(found)} for found in summary["layers"]
        ],
    )
    write_text(config.out, text)
    return config.out


def recording_name(store: str, summary: Mapping[str, Any]) -> str:
    """A page's name for a store's recording: the store's name, which usually is the recording's.

    `p2pkit pretrain` calls all stores alike; the folder around them has the name.
    """
    if summary["dataset"]["dataset"] == "demo-scene":
        return "generated rooms"
    place = Path(store.rstrip("/"))
    if place.name == "store":
        return place.absolute().parent.name.removesuffix("-pretrained")
    return place.name.removesuffix(".store")


def _tiles(summary: Mapping[str, Any], layer: str) -> list[Tile]:
    layers = {found["name"]: found for found in summary["layers"]}
    geometry, features = layers["geometry"], layers[layer]
    bad = f"{geometry['failures']} left out as bad"
    complete = f"{features['shards']} of {summary['plan']['shards']} shards"
    return [
        Tile("Frames", f"{geometry['samples']:,}", bad),
        Tile("Frames with features", f"{features['samples']:,}", complete),
        Tile("Geometry", *_size(geometry)),
        Tile("Features", *_size(features)),
    ]


def _size(layer: Mapping[str, Any]) -> tuple[str, str]:
    a_frame = layer["bytes"] / max(layer["samples"], 1)
    return f"{layer['bytes'] / 1e6:,.1f} MB", f"{a_frame / 1e3:,.0f} kB a frame"


def _layer_facts(layer: Mapping[str, Any]) -> dict[str, str]:
    facts = {
        "Frames": f"{layer['samples']:,} in {layer['shards']} shards, {layer['failures']} left out "
        "as bad",
        "Size": f"{layer['bytes'] / 1e6:,.1f} MB",
    }
    facts |= {
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


def _drawn_frames(views: Sequence[FrameView]) -> list[DrawnFrame]:
    """The frames with the teacher's features in one basis, on their points and on their images."""
    on_points = [(len(view.rows), teacher_reader(view)) for view in views]
    on_image = [_image_reader(view) if _is_dense(view) else None for view in views]
    basis = principal_basis([*on_points, *(reader for reader in on_image if reader is not None)])
    drawn: list[DrawnFrame] = []
    for view, points, image in zip(views, on_points, on_image, strict=True):
        projected = basis.project(*points)
        image_colors = None if image is None else basis.colors(basis.project(*image))
        pictures = _pictures(view, basis.colors(projected), image_colors)
        frame = view.points({TEACHER: basis.layer(projected)})
        drawn.append(DrawnFrame(view.key, pictures, (), frame))
    return drawn


def _is_dense(view: FrameView) -> bool:
    """Whether the layer has the teacher's map, and so features at pixels without points, too."""
    return "map" in view.features.arrays


def _pictures(
    view: FrameView, on_points: np.ndarray, on_image: np.ndarray | None
) -> dict[str, Picture]:
    colors = view.plain_colors()
    image = view.image()
    found = {IMAGE: image}
    if on_image is not None:
        found[f"{TEACHER} on the image"] = on_image.reshape(*_image_rows(view).shape[:2], 3)
    found[f"{TEACHER} on the points"] = view.draw_with_cells(on_points)
    found[f"The points, turned by {TURN_DEGREES:g}°"] = _turned(view, on_points)
    shown = evenly_spread(len(view.rows), SHOWN_PAIRS)
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
    """Reads the teacher's features at pixels of the image, with or without a point."""
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
    """The points as seen by a camera that has moved around their centre to the right."""
    angle = np.radians(TURN_DEGREES)
    turn = np.eye(4)
    turn[[0, 0, 2, 2], [0, 2, 0, 2]] = np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)
    middle = np.median(view.camera_points, axis=0).astype(np.float64)
    turn[:3, 3] = middle - turn[:3, :3] @ middle
    found = project(view.camera_points, view.camera, turn)
    seen = found.visible
    uv = view.drawn_uv(found.pixel_uv[seen])
    return draw_points(colors[seen], uv, found.depth_m[seen], view.drawn_size)
