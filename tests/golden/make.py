"""Golden digests of the geometry that fixed settings give: `python tests/golden/make.py`.

Writes geometry.json, one digest per array of each sample, from the code as it is. Run it where a
change of bytes is meant, and say in the commit why. `--features` prints the layers of two small
frames, fingerprints and feature maps included, to compare by eye before and after a change on one
machine: maps differ between machines.
"""

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import p2pkit
from p2pkit.geometry.maps.superpixels import SuperpixelConfig
from p2pkit.layers.features import FeatureConfig
from p2pkit.layers.geometry import GeometryConfig
from p2pkit.pipelines.extract.run import run
from p2pkit.pipelines.extract.settings import ExtractConfig
from p2pkit.teachers import TeacherOptions

FILE = Path(__file__).with_name("geometry.json")
DATA = Path(os.environ.get("P2PKIT_DATA", Path(__file__).parents[3] / "shared" / "data"))
LIDAR = {"geometry": GeometryConfig(voxel_size=0.05)}
REAL: dict[str, dict[str, Any]] = {
    "7scenes_redkitchen": {"dataset": "posed-rgbd", "limit": 3},
    "nyuv2_half": {"dataset": "nyuv2", "limit": 2},
    "kitti_object": {"dataset": "kitti-object", "limit": 2, **LIDAR},
    "pandaset": {"dataset": "pandaset", "limit": 1, **LIDAR},
}
"""By folder of the real recordings: what to extract of each."""
GENERATED = "demo-scene"

Digests = dict[str, dict[str, list[Any]]]
"""By `kind/key`, then by array: dtype, shape, sha256 of the C-ordered bytes."""


def digests(store: Path) -> Digests:
    """The digest of every array of a store, whatever its shards look like."""
    opened = p2pkit.open_store(store)
    found: Digests = {}
    for layer in opened.manifest.layers:
        for shard in range(opened.manifest.plan.shards):
            for row, key in enumerate(opened.keys(shard)):
                arrays = opened.read(layer.name, shard, row).arrays
                found[f"{layer.kind}/{key}"] = {name: digest(arrays[name]) for name in arrays}
    return found


def digest(array: np.ndarray) -> list[Any]:
    """dtype, shape and sha256 of one array."""
    data = np.ascontiguousarray(array).tobytes()
    return [array.dtype.str, list(array.shape), hashlib.sha256(data).hexdigest()]


def generated(folder: Path) -> Digests:
    """Three generated frames, with superpixels."""
    cut = SuperpixelConfig()
    config = ExtractConfig(
        GENERATED, None, folder / "demo.store", features=None, limit=3, superpixels=cut
    )
    return digests(run(config))


def real(name: str, recording: Path, folder: Path) -> Digests:
    """A few frames of one real recording."""
    settings = {"root": recording, "out": folder / f"{name}.store", "features": None}
    return digests(run(ExtractConfig(**REAL[name], **settings)))


def features(folder: Path) -> dict[str, Any]:
    """Fingerprints and digests of two generated frames with a network of random weights."""
    teacher = TeacherOptions(name="resnet10t", layer=2, weights="random", input_size=(160, 120))
    settings = {"limit": 2, "features": FeatureConfig(teacher=teacher)}
    store = run(ExtractConfig(GENERATED, None, folder / "features.store", **settings))
    layers = p2pkit.open_store(store).manifest.layers
    return {layer.name: layer.fingerprint_sha256 for layer in layers} | digests(store)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        if "--features" in sys.argv:
            print(json.dumps(features(Path(folder)), indent=1))
            return
        found = {GENERATED: generated(Path(folder))}
        found |= {name: real(name, DATA / name, Path(folder)) for name in REAL}
    FILE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
