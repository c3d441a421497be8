"""A stored frame as a PLY file, for any point-cloud viewer."""

from pathlib import Path

import numpy as np

from p2pkit.errors import StoreError
from p2pkit.files import write_atomic
from p2pkit.geometry.transforms import transform_points
from p2pkit.layers.geometry import decode_geometry
from p2pkit.store.manifest import GEOMETRY
from p2pkit.store.reading import Store

AXES, CHANNELS = ("x", "y", "z"), ("red", "green", "blue")
VERTEX = np.dtype([*((name, "<f8") for name in AXES), *((name, "u1") for name in CHANNELS)])
PLY_TYPES = {"<f8": "double", "|u1": "uchar"}


def write_ply(store: Store, key: str, path: str | Path) -> Path:
    """Write a sample's points (m, in the world frame where the frame has a pose) and colours.

    Raises:
        StoreError: the store has no such key, or the file cannot be written.
    """
    path, sample = Path(path), store.read(GEOMETRY, *store.find(key))
    cloud = decode_geometry(sample)
    points = cloud.points.astype(np.float64)
    if sample.meta["world_from_sensor"] is not None:
        points = transform_points(np.array(sample.meta["world_from_sensor"]), points)
    vertices = np.empty(len(points), VERTEX)
    for axis, name in enumerate(AXES):
        vertices[name] = points[:, axis]
    for channel, name in enumerate(CHANNELS):
        vertices[name] = cloud.colors[:, channel]
    refusal = f"{path} cannot be written as a point cloud; name a writable *.ply file"
    if path.suffix != ".ply":
        raise StoreError(refusal)
    try:
        write_atomic(path, _header(len(points)) + vertices.tobytes())
    except OSError as error:
        raise StoreError(f"{refusal} ({error})") from None
    return path


def _header(vertices: int) -> bytes:
    types = [(name, PLY_TYPES[VERTEX[name].str]) for name in VERTEX.names or ()]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {vertices}"]
    lines += [f"property {kind} {name}" for name, kind in types]
    return "\n".join([*lines, "end_header", ""]).encode()
