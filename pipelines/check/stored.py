"""A store as a source of frames for the checks. A store keeps no images, so these are limited."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8
from scipy import ndimage

from p2pkit.alignment.verdicts import Verdict
from p2pkit.datasets.frame import DepthImage, Frame, View
from p2pkit.geometry.camera import Camera, camera_from_json
from p2pkit.geometry.project import project
from p2pkit.layers.geometry import PointCloud, decode_geometry
from p2pkit.pipelines.check.statistics import PairStatistics
from p2pkit.pipelines.held_out import all_keys, samples_in_key_order
from p2pkit.store.manifest import Sample
from p2pkit.store.reading import Store

TOLERANCE_PX = 0.05
POINTS_PER_PIXEL = 0.7
EMPTY: UInt8[np.ndarray, "height width 3"] = np.zeros((0, 0, 3), np.uint8)


class StoreSource:
    """Frames of a store, with images made from the colours of the points.

    The images are small enough that half of the pixels contain a point; the others take the colour
    of the nearest. Point frames, which are too sparse for that, have empty images.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.name = str(store.manifest.dataset.get("dataset", "store"))
        self.label_names: Sequence[str] | None = None
        self.ignore_label: int | None = None

    def keys(self) -> Sequence[str]:
        """In recording order."""
        keys = all_keys(self._store)
        return [keys[sample] for sample in samples_in_key_order(self._store)]

    def load(self, key: str) -> Frame:
        """The frame of a sample."""
        sample = self._store.read("geometry", *self._store.find(key))
        cloud = decode_geometry(sample)
        pose = sample.meta["world_from_sensor"]
        depth = _depth_image(sample) if "depth" in sample.arrays else None
        return Frame(
            key=key,
            views=tuple(
                _view(cloud, number, camera, transform, is_dense=depth is not None)
                for number, (camera, transform) in enumerate(views_of(sample))
            ),
            depth=depth,
            points=None if depth is not None else cloud.points,
            world_from_sensor=None if pose is None else np.array(pose),
            sequence=cloud.sequence,
            intensity=cloud.intensity,
        )

    def fingerprint(self) -> dict[str, Any]:
        """The geometry layer's."""
        return dict(self._store.layer("geometry").fingerprint)


def views_of(sample: Sample) -> list[tuple[Camera, Float64[np.ndarray, "4 4"]]]:
    """Camera and camera_from_sensor of each view of a geometry sample."""
    return [
        (camera_from_json(view["camera"], sample.key), np.array(view["camera_from_sensor"]))
        for view in sample.meta["views"]
    ]


def add_stored(statistics: PairStatistics, sample: Sample) -> None:
    """Count the pairs of a stored sample."""
    cloud = decode_geometry(sample)
    depth = [project(cloud.points, *view).depth_m for view in views_of(sample)]
    of_pair = np.stack(depth)[cloud.pair_view, cloud.pair_point]
    statistics.add_cloud(cloud, of_pair, sparse="depth" not in sample.arrays)


def judge_stored_pairs(samples: Sequence[Sample]) -> Verdict:
    """Do the stored pixels lie where the stored calibration projects the stored points?"""
    name = "stored pairs"
    if "depth" in samples[0].arrays:
        return Verdict(name, "pass", "pixels are rebuilt from depth and calibration when read")
    errors: dict[str, list[float]] = {"as stored": [], "u and v are swapped": []}
    errors["the image is mirrored"] = []
    for sample in samples:
        cloud = decode_geometry(sample)
        for number, (camera, transform) in enumerate(views_of(sample)):
            rows = cloud.pair_view == number
            uv = project(cloud.points[cloud.pair_point[rows]], camera, transform).pixel_uv
            stored = cloud.pixels[rows]
            mirrored = np.stack([camera.width - 1 - stored[:, 0], stored[:, 1]], axis=1)
            tried = (stored, stored[:, ::-1], mirrored)
            for values, found in zip(errors.values(), tried, strict=True):
                values += np.abs(found - uv).max(axis=1).tolist()
    median = {what: float(np.median(values)) for what, values in errors.items() if values}
    worst = max(errors["as stored"], default=0.0)
    if worst <= TOLERANCE_PX:
        return Verdict(name, "pass", f"at most {worst:.4f} px from where the points project")
    best = min(median, key=lambda what: median[what])
    fault = best if best != "as stored" and median[best] <= TOLERANCE_PX else ""
    reason = f"up to {worst:.1f} px from where the points project"
    return Verdict(name, "fail", reason + (f", unless {fault}" if fault else ""), fault)


def _depth_image(sample: Sample) -> DepthImage:
    camera = camera_from_json(sample.meta["depth_camera"], sample.key)
    values = np.zeros(camera.width * camera.height, np.uint16)
    values[sample.arrays["pixel"]] = sample.arrays["depth"]
    shape = (camera.height, camera.width)
    return DepthImage(values.reshape(shape), camera, float(sample.meta["units_per_metre"]))


def _view(
    cloud: PointCloud,
    number: int,
    camera: Camera,
    camera_from_sensor: Float64[np.ndarray, "4 4"],
    *,
    is_dense: bool,
) -> View:
    rows = cloud.pair_view == number
    if not (is_dense and rows.any()):
        return View(EMPTY, camera, camera_from_sensor)
    scale = min(np.sqrt(rows.sum() / POINTS_PER_PIXEL / (camera.width * camera.height)), 1.0)
    small = camera.resized(
        max(round(camera.width * scale), 1), max(round(camera.height * scale), 1)
    )
    shrink = np.array([small.width / camera.width, small.height / camera.height])
    uv = np.rint((cloud.pixels[rows] + 0.5) * shrink - 0.5).astype(np.int64)
    inside = ((uv >= 0) & (uv < (small.width, small.height))).all(axis=1)
    u, v = uv[inside].T
    image = np.zeros((small.height, small.width, 3), np.uint8)
    empty = np.ones((small.height, small.width), np.bool_)
    image[v, u] = cloud.colors[cloud.pair_point[rows]][inside]
    empty[v, u] = False
    nearest = ndimage.distance_transform_edt(empty, return_distances=False, return_indices=True)
    assert nearest is not None
    return View(image[tuple(nearest)], small, camera_from_sensor)
