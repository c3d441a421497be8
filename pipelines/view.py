"""view: stored frames as a picture, a point cloud, a Rerun recording, or in Open3D's window."""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from p2pkit.errors import ConfigError, MissingDependencyError
from p2pkit.layers.boxes import decode_boxes
from p2pkit.pipelines.evaluate.inference import read_cloud
from p2pkit.pipelines.held_out import all_keys, samples_in_key_order
from p2pkit.pipelines.report.frames import (
    MOST_WIDTH,
    STUDENT,
    TEACHER,
    FrameView,
    drawn_frames,
    embedded_student,
    embedded_teacher,
    open_view,
    open_views,
    stored_pictures,
    teacher_reader,
)
from p2pkit.pipelines.report.networks import RunNetworks, run_networks
from p2pkit.pipelines.report.pictures import PALETTE, PrincipalBasis, ReadFeatures, principal_basis
from p2pkit.pipelines.settings import ViewConfig
from p2pkit.pipelines.shards.export_ply import write_ply
from p2pkit.pipelines.train.run_folder import feature_layer, kept_and_held
from p2pkit.store.reading import Store, open_store
from p2pkit.stream.order import locate

GAP_PX = 6
FITTED_FRAMES = 8
Picture = np.ndarray


def run(config: ViewConfig) -> list[Path]:
    """Write the requested outputs.

    Returns:
        The paths of the files that were written.

    Raises:
        StoreError: the store cannot be read, or has no such frame.
        ConfigError: several frames are named but only one can be shown, no window can be opened,
            the layer is ambiguous, or `png` has another ending.
        MissingDependencyError: `rrd` is requested and rerun-sdk is not installed.
    """
    if config.png is not None and config.png.suffix.lower() != ".png":
        raise ConfigError(f"--png is {config.png}; the file's name must end in .png")
    store = open_store(config.store)
    samples = [_sample(store, key) for key in config.keys] or _first(store, 1)
    single = {"--ply": config.ply is not None, "--window": config.window}
    refused = [option for option, asked in single.items() if asked]
    if len(samples) > 1 and refused:
        raise ConfigError(f"{refused[0]} shows one frame, found {len(samples)} keys; name one")
    first = all_keys(store)[samples[0]]
    is_asked = config.window or any((config.png, config.ply, config.rrd))
    png = config.png if is_asked else Path(f"{first}.png")
    written: list[Path] = []
    if png is not None:
        written.append(_write_png(store, samples, config, png))
    if config.ply is not None:
        written.append(write_ply(store, first, config.ply))
    if config.rrd is not None:
        shown = samples if config.keys else _first(store, config.limit)
        written.append(_write_rrd(store, shown, config, config.rrd))
    if config.window:
        _open_window(store, samples[0])
    return written


def _sample(store: Store, key: str) -> int:
    store.find(key)  # a StoreError that suggests similar keys, if it does not exist
    return all_keys(store).index(key)


def _first(store: Store, count: int) -> list[int]:
    return samples_in_key_order(store)[:count].tolist()


def _write_png(store: Store, samples: Sequence[int], config: ViewConfig, path: Path) -> Path:
    """Colours, depth, labels and features, if there are any, of each frame in a row."""
    if config.run is None:
        has_teacher = store.feature_layers or config.layer is not None
        layer = feature_layer(store, config.layer, "--layer NAME") if has_teacher else None
        rows = [list(stored_pictures(store, layer, sample).values()) for sample in samples]
    else:
        networks = _networks(store, config.run)
        views = [open_view(store, networks.layer, one, most_width=MOST_WIDTH) for one in samples]
        rows = [list(frame.pictures.values()) for frame in drawn_frames(views, networks)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [_joined(row, axis=1) for row in rows]
    Image.fromarray(_on_white(_joined(pictures, axis=0))).save(path)
    return path


def _joined(pictures: Sequence[Picture], axis: int) -> Picture:
    """RGBA pictures with gaps between them; smaller ones are padded on the other axis."""
    other = 1 - axis
    size = max(picture.shape[other] for picture in pictures)
    parts: list[Picture] = []
    for picture in pictures:
        padding = [(0, 0)] * 3
        padding[other] = (0, size - picture.shape[other])
        gap = [size, size, 4]
        gap[axis] = GAP_PX
        parts += [np.pad(picture, padding), np.zeros(gap, np.uint8)]
    return np.concatenate(parts[:-1], axis=axis)


def _on_white(picture: Picture) -> Picture:
    alpha = picture[..., 3:].astype(np.float32) / 255
    return np.rint(picture[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def _networks(store: Store, run: Path) -> RunNetworks:
    return run_networks(run, store, kept_and_held(run, store)[0], seed=1)


def _open3d() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import open3d
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"a window needs open3d, which does not import ({error}): pip install 'p2pkit[view]', "
            "or write a picture with --png; `p2pkit doctor` names system libraries that it lacks"
        ) from None
    return open3d


def _open_window(store: Store, sample: int) -> None:
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        raise ConfigError(
            "no window can be opened: DISPLAY is not set. Write a picture with --png instead"
        )
    open3d = _open3d()
    cloud = read_cloud(store, sample)
    shown = open3d.geometry.PointCloud()
    shown.points = open3d.utility.Vector3dVector(cloud.points.astype(np.float64))
    shown.colors = open3d.utility.Vector3dVector(cloud.colors / 255.0)
    open3d.visualization.draw_geometries([shown], window_name=cloud.key)


class _Features:
    """Readers of the features of a view by name, and the one basis that colours them all."""

    def __init__(self, store: Store, config: ViewConfig, samples: Sequence[int]) -> None:
        self.networks = None if config.run is None else _networks(store, config.run)
        self.layer = (
            feature_layer(store, config.layer, "--layer NAME")
            if self.networks is None
            else self.networks.layer
        )
        chosen = samples[:: -(-len(samples) // FITTED_FRAMES)]
        views = [open_view(store, self.layer, sample) for sample in chosen]
        readers = [(len(view.rows), read) for view in views for read in self.of(view).values()]
        self.basis: PrincipalBasis = principal_basis(readers)

    def of(self, view: FrameView) -> dict[str, ReadFeatures]:
        if self.networks is None:
            return {TEACHER: teacher_reader(view)}
        return {
            TEACHER: embedded_teacher(view, self.networks),
            STUDENT: embedded_student(view, self.networks, "pretrained"),
        }

    def colors(self, view: FrameView) -> Iterator[tuple[str, np.ndarray]]:
        for name, read in self.of(view).items():
            yield name, self.basis.colors(self.basis.project(len(view.rows), read))


def _write_rrd(store: Store, samples: Sequence[int], config: ViewConfig, path: Path) -> Path:
    """Frames on the timeline `frame`, each under `world/sensor` with its points and cameras."""
    try:
        import rerun
    except ImportError:
        raise MissingDependencyError(
            "--rrd needs the package rerun-sdk, which is not installed: pip install 'p2pkit[rerun]'"
        ) from None
    features = _Features(store, config, samples)
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = rerun.RecordingStream("p2pkit", recording_id=path.stem)
    stream.save(path)
    names: list[str] = store.manifest.dataset.get("label_names") or []
    classes = [
        (number, name, PALETTE[number % len(PALETTE)].tolist()) for number, name in enumerate(names)
    ]
    stream.log("world", rerun.AnnotationContext(classes), static=True)
    fields = {field.name for field in store.layer("geometry").fields}
    axes = rerun.ViewCoordinates
    up = axes.RIGHT_HAND_Z_UP if "points" in fields else axes.RIGHT_HAND_Y_DOWN
    stream.log("world", up, static=True)
    for number, sample in enumerate(samples):
        stream.set_time("frame", sequence=number)
        meta = store.read("geometry", *locate(store.sizes("geometry"), sample), fields=()).meta
        _log_frame(rerun, stream, open_views(store, features.layer, sample), meta, features)
        _log_boxes(rerun, stream, store, sample)
    stream.flush()
    stream.disconnect()
    return path


def _log_frame(
    rerun: Any,
    stream: Any,
    views: Sequence[FrameView],
    meta: dict[str, Any],
    features: _Features,
) -> None:
    cloud, pose = views[0].cloud, meta["world_from_sensor"]
    stream.log("key", rerun.TextDocument(cloud.key))
    # Rerun shows what was logged last: a frame without a pose must not stand at the one before.
    stream.log("world/sensor", rerun.Clear(recursive=True))
    if pose is not None:
        stream.log("world/sensor", _transform(rerun, np.array(pose)))
    stream.log("world/sensor/points", rerun.Points3D(cloud.points, colors=cloud.colors))
    if cloud.labels is not None:
        labelled = rerun.Points3D(cloud.points, class_ids=cloud.labels)
        stream.log("world/sensor/labels", labelled)
    colors = {
        name: np.zeros((len(cloud.points), 4), np.uint8) for name in features.of(views[0])
    }  # transparent where no view sees the point
    for view in views:
        for name, found in features.colors(view):
            rows = cloud.pair_point[view.rows]
            colors[name][rows, :3], colors[name][rows, 3] = found, 255
        _log_camera(rerun, stream, view)
    for name, found in colors.items():
        seen = np.flatnonzero(found[:, 3])
        kind = "teacher" if name == TEACHER else "student"
        shown = rerun.Points3D(cloud.points[seen], colors=found[seen, :3])
        stream.log(f"world/sensor/{kind}", shown)


def _log_boxes(rerun: Any, stream: Any, store: Store, sample: int) -> None:
    """The frame's annotated boxes, in their upright axes, with the names of their classes."""
    for layer in store.manifest.layers:
        if layer.kind != "boxes":
            continue
        boxes = decode_boxes(store.read(layer.name, *locate(store.sizes("geometry"), sample)))
        half = boxes.yaw / 2
        zeros = np.zeros_like(half)
        shown = rerun.Boxes3D(
            centers=boxes.center,
            sizes=boxes.size,
            quaternions=np.stack([zeros, zeros, np.sin(half), np.cos(half)], axis=1),
            labels=[layer.details["classes"][number] for number in boxes.class_id],
        )
        turn = np.eye(4)
        turn[:3, :3] = boxes.upright_from_sensor.T
        stream.log("world/sensor/upright", _transform(rerun, turn))
        stream.log("world/sensor/upright/boxes", shown)


def _log_camera(rerun: Any, stream: Any, view: FrameView) -> None:
    """A camera with what its pairs show of its image; a store keeps no images."""
    place = f"world/sensor/camera{view.number}"
    stream.log(place, _transform(rerun, np.linalg.inv(view.camera_from_sensor)))
    camera = view.camera.resized(*view.drawn_size)
    pinhole = rerun.Pinhole(
        image_from_camera=camera.matrix(),
        resolution=view.drawn_size,
        camera_xyz=rerun.ViewCoordinates.RDF,
    )
    stream.log(place, pinhole)
    stream.log(f"{place}/image", rerun.Image(view.image()))
    depth_m = np.zeros(view.drawn_size[::-1], np.float32)
    u, v = np.rint(view.drawn_uv(view.cloud.pixels[view.rows])).astype(np.int64).T
    inside = (u >= 0) & (v >= 0) & (u < depth_m.shape[1]) & (v < depth_m.shape[0])
    order = np.argsort(-view.depth_m[inside], kind="stable")  # near points over far ones
    depth_m[v[inside][order], u[inside][order]] = view.depth_m[inside][order]
    stream.log(f"{place}/depth", rerun.DepthImage(depth_m, meter=1.0))


def _transform(rerun: Any, parent_from_child: np.ndarray) -> Any:
    return rerun.Transform3D(mat3x3=parent_from_child[:3, :3], translation=parent_from_child[:3, 3])
