"""A stored frame as a PLY file, for any point-cloud viewer."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from p2pkit.errors import MissingDependencyError, StoreError
from p2pkit.layers.geometry import decode_geometry
from p2pkit.store.manifest import GEOMETRY
from p2pkit.store.reading import Store


def write_ply(store: Store, key: str, path: Path) -> Path:
    """Write a sample's points (m, in the world frame where the frame has a pose) and colours.

    Raises:
        StoreError: the store has no such key, or the file cannot be written.
        MissingDependencyError: open3d, or a system library that it needs, is not installed.
    """
    open3d = _open3d()
    sample = store.read(GEOMETRY, *store.find(key))
    cloud = decode_geometry(sample)
    drawn = open3d.geometry.PointCloud()
    drawn.points = open3d.utility.Vector3dVector(cloud.points.astype(np.float64))
    drawn.colors = open3d.utility.Vector3dVector(cloud.colors / 255)
    if sample.meta["world_from_sensor"] is not None:
        drawn.transform(np.array(sample.meta["world_from_sensor"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".ply" or not open3d.io.write_point_cloud(str(path), drawn):
        raise StoreError(f"{path} cannot be written as a point cloud; name a writable *.ply file")
    return path


def _open3d() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import open3d
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"open3d does not import ({error}); `p2pkit doctor` names the command that mends it, "
            "for a missing libusb: apt-get install libusb-1.0-0"
        ) from None
    return open3d
