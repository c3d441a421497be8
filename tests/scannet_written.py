"""ScanNet scenes written from real frames.

`.sens` is documented by SensReader/c++/src/sensorData.h and SensReader/python/SensorData.py of the
ScanNet repository, the exported folders by its reader.py, the mesh files by its README.
"""

import json
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from p2pkit.datasets.frame import Frame
from p2pkit.geometry.backproject import back_project
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.transforms import transform_points


def matrix_of(camera: Camera) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = camera.matrix()
    return matrix


def jpeg(image: np.ndarray) -> bytes:
    data = BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=95)
    return data.getvalue()


def sens_bytes(frames: list[Frame], *, extrinsic: np.ndarray | None = None) -> bytes:
    """A calibrated `.sens` file, version 4."""
    assert frames[0].depth is not None
    color, depth = frames[0].views[0].camera, frames[0].depth.camera
    name = b"StructureSensor"
    parts = [struct.pack("<IQ", 4, len(name)), name]
    for matrix in (matrix_of(color), np.eye(4), matrix_of(depth), extrinsic):
        parts.append(struct.pack("<16f", *(np.eye(4) if matrix is None else matrix).ravel()))
    parts.append(struct.pack("<ii", 2, 1))
    parts.append(struct.pack("<IIII", color.width, color.height, depth.width, depth.height))
    parts.append(struct.pack("<fQ", 1000.0, len(frames)))
    for number, frame in enumerate(frames):
        assert frame.depth is not None
        assert frame.world_from_sensor is not None
        image, packed = jpeg(frame.views[0].image), zlib.compress(frame.depth.values.tobytes(), 1)
        parts.append(struct.pack("<16f", *frame.world_from_sensor.ravel()))
        times = (1000 + 33333 * number, 3000 + 33333 * number)
        parts.append(struct.pack("<4Q", *times, len(image), len(packed)))
        parts += [image, packed]
    # IMU frames follow; their number comes first.
    return b"".join([*parts, struct.pack("<Q", 0)])


def write_exported(folder: Path, frames: list[Frame], color_size: tuple[int, int]) -> None:
    """Folders as the exporter writes them; colour is shrunk, the intrinsics keep their size."""
    for name in ("color", "depth", "pose", "intrinsic"):
        (folder / name).mkdir(parents=True)
    for number, frame in enumerate(frames):
        assert frame.depth is not None
        image = Image.fromarray(frame.views[0].image).resize(color_size)
        image.save(folder / "color" / f"{number}.jpg", quality=95)
        Image.fromarray(frame.depth.values).save(folder / "depth" / f"{number}.png")
        np.savetxt(folder / "pose" / f"{number}.txt", frame.world_from_sensor, fmt="%f")
    assert frames[0].depth is not None
    for name, camera in (("color", frames[0].views[0].camera), ("depth", frames[0].depth.camera)):
        np.savetxt(folder / "intrinsic" / f"intrinsic_{name}.txt", matrix_of(camera), fmt="%f")
        np.savetxt(folder / "intrinsic" / f"extrinsic_{name}.txt", np.eye(4), fmt="%f")


def surface(frame: Frame, step: int) -> np.ndarray:
    """Every `step`-th point of a frame, in the world."""
    assert frame.depth is not None
    assert frame.world_from_sensor is not None
    found = back_project(frame.depth.values, frame.depth.camera, units_per_metre=1000.0)
    return transform_points(frame.world_from_sensor, found.points)[::step]


def write_mesh(
    path: Path, points: np.ndarray, labels: np.ndarray | None, colors: np.ndarray | None = None
) -> None:
    """A binary PLY with ScanNet's vertex properties, and one face; black without colours."""
    fields = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
    fields += [(name, "u1") for name in ("red", "green", "blue", "alpha")]
    names = [
        "float x",
        "float y",
        "float z",
        "uchar red",
        "uchar green",
        "uchar blue",
        "uchar alpha",
    ]
    if labels is not None:
        fields.append(("label", "<u2"))
        names.append("ushort label")
    vertices = np.zeros(len(points), dtype=fields)
    for column, axis in enumerate("xyz"):
        vertices[axis] = points[:, column]
    if labels is not None:
        vertices["label"] = labels
    for column, name in enumerate(("red", "green", "blue")):
        vertices[name] = 0 if colors is None else colors[:, column]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    lines += [f"property {name}" for name in names]
    lines += ["element face 1", "property list uchar int vertex_indices", "end_header\n"]
    face = struct.pack("<B3i", 3, 0, 1, 2)
    path.write_bytes("\n".join(lines).encode() + vertices.tobytes() + face)


def write_segments(folder: Path, segment_of: np.ndarray, groups: dict[str, list[int]]) -> None:
    """segs.json and aggregation.json of a scene."""
    segs = {"params": {}, "sceneId": folder.name, "segIndices": segment_of.tolist()}
    (folder / f"{folder.name}_vh_clean_2.0.010000.segs.json").write_text(json.dumps(segs))
    listed = [
        {"id": number, "objectId": number, "segments": segments, "label": label}
        for number, (label, segments) in enumerate(groups.items())
    ]
    value = {"sceneId": f"scannet.{folder.name}", "segGroups": listed}
    (folder / f"{folder.name}.aggregation.json").write_text(json.dumps(value))


def write_table(path: Path, ids: tuple[int, ...]) -> None:
    """The label table with invented categories for all but the first classes."""
    known = {1: ("wall", "wall"), 3: ("floor", "floor"), 2: ("office chair", "chair")}
    lines = ["id\traw_category\tcategory\tcount\tnyu40id"]
    for number in ids:
        raw, category = known.get(number, (f"raw {number}", f"category {number}"))
        lines.append(f"{number}\t{raw}\t{category}\t1\t1")
    lines.append("25\tpaper towel\tpaper towel\t1\t40")
    path.write_text("\n".join(lines) + "\n")
