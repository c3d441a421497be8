"""A store as a source of frames for the checks. A store keeps no images, so these are limited."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8
from scipy import ndimage

from p2pkit.datasets.frame import DepthImage, Frame, View
from p2pkit.evaluation.verdicts import Verdict
from p2pkit.geometry.camera import Camera, camera_from_json
from p2pkit.geometry.project import project
from p2pkit.pipelines.splits import all_keys
from p2pkit.shards.geometry_layer import PointCloud, decode_geometry
from p2pkit.shards.model import Sample
from p2pkit.shards.store import Store

TOLERANCE_PX = 0.05
ENOUGH_FILLED = 0.2
EMPTY: UInt8[np.ndarray, "height width 3"] = np.zeros((0, 0, 3), np.uint8)


class StoreSource:
    """Frames of a store, with images made of the colours at the points.

    A pixel without a point takes the nearest one's colour. Where that is the case for more than
    four of five pixels, as with LiDAR, the image is left empty.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.name = str(store.manifest.dataset.get("dataset", "store"))
        self.label_names: Sequence[str] | None = None
        self.ignore_label: int | None = None

    def keys(self) -> Sequence[str]:
        """Sorted, i.e. in recording order."""
        return sorted(all_keys(self._store))

    def load(self, key: str) -> Frame:
        """The frame of a sample."""
        sample = self._store.read("geometry", *self._store.find(key))
        cloud = decode_geometry(sample)
        pose = sample.meta["world_from_sensor"]
        depth = _depth_image(sample) if "depth" in sample.arrays else None
        return Frame(
            key=key,
            views=tuple(
                View(_image(cloud, number, camera), camera, transform)
                for number, (camera, transform) in enumerate(views_of(sample))
            ),
            depth=depth,
            points=None if depth is not None else cloud.points,
            world_from_sensor=None if pose is None else np.array(pose),
            sequence=cloud.sequence,
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
            stored = cloud.pair_uv[rows]
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


def _image(cloud: PointCloud, view: int, camera: Camera) -> UInt8[np.ndarray, "height width 3"]:
    rows = cloud.pair_view == view
    u, v = np.rint(cloud.pair_uv[rows]).astype(np.int64).T
    inside = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
    image = np.zeros((camera.height, camera.width, 3), np.uint8)
    empty = np.ones((camera.height, camera.width), np.bool_)
    image[v[inside], u[inside]] = cloud.colors[cloud.pair_point[rows]][inside]
    empty[v[inside], u[inside]] = False
    if empty.mean() > 1 - ENOUGH_FILLED:
        return EMPTY
    nearest = ndimage.distance_transform_edt(empty, return_distances=False, return_indices=True)
    assert nearest is not None
    return image[tuple(nearest)]
