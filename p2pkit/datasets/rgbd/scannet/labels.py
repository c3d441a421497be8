"""ScanNet's classes, and the class of each depth pixel from the labelled mesh.

ScanNet20: the benchmark's 20 of the NYU40 classes, in `SCENE_vh_clean_2.labels.ply`. ScanNet200:
Rozenberszki et al., "Language-Grounded Indoor 3D Semantic Segmentation in the Wild", ECCV 2022; ids
of `scannetv2-labels.combined.tsv`, through `SCENE_vh_clean_2.0.010000.segs.json`,
`SCENE.aggregation.json` and `SCENE_vh_clean_2.ply`.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from p2pkit.datasets.boxes import Annotation
from p2pkit.datasets.files.text import json_field, numbers, read_json, read_text, rigid
from p2pkit.datasets.frame import DepthImage
from p2pkit.datasets.points.ply import read_vertices
from p2pkit.errors import SourceError
from p2pkit.geometry.backproject import back_project
from p2pkit.geometry.transforms import transform_points

MAX_DISTANCE_M = 0.05
"""A depth pixel takes the class of the nearest vertex that is at most this far away."""
TABLE = "scannetv2-labels.combined.tsv"

CLASSES_20 = {
    1: "wall",
    2: "floor",
    3: "cabinet",
    4: "bed",
    5: "chair",
    6: "sofa",
    7: "table",
    8: "door",
    9: "window",
    10: "bookshelf",
    11: "picture",
    12: "counter",
    14: "desk",
    16: "curtain",
    24: "refrigerator",
    28: "shower curtain",
    33: "toilet",
    34: "sink",
    36: "bathtub",
    39: "otherfurniture",
}
"""NYU40 id and name of the benchmark's classes."""

WITHOUT_BOXES = ("void", "wall", "floor")
"""Classes whose instances are not objects."""

_IDS_200 = (
    "1-11 13-19 21-24 26-29 31-36 38-42 44-52 54-59 62-80 82 84 86-90 93 95-107 110 112 115 116 "
    "118 120-122 125 128 130-132 134 136 138-141 145 148 154-157 159 161 163 165 166 168-170 177 "
    "180 185 188 191 193 195 202 208 213 214 221 229 230 232 233 242 250 261 264 276 283 286 300 "
    "304 312 323 325 331 342 356 370 392 395 399 408 417 488 540 562 570 572 581 609 748 776 1156 "
    "1163-1176 1178-1191"
)


def class_ids_200() -> tuple[int, ...]:
    """The 200 classes' ids in the table, in the benchmark's order."""
    ids: list[int] = []
    for word in _IDS_200.split():
        first, _, last = word.partition("-")
        ids += range(int(first), int(last or first) + 1)
    return tuple(ids)


@dataclass(frozen=True)
class LabelTable:
    """ScanNet200's classes.

    Args:
        names: of each class value, value 0 being void.
        class_of: class value of each raw category of the annotators.
    """

    names: tuple[str, ...]
    class_of: dict[str, int]


def read_table(path: Path) -> LabelTable:
    """Read `scannetv2-labels.combined.tsv`.

    Raises:
        SourceError: it is missing, lacks a column, or does not name all 200 classes.
    """
    lines = read_text(path, "scannet200").splitlines()
    header = lines[0].split("\t") if lines else []
    missing = [name for name in ("id", "raw_category", "category") if name not in header]
    if missing:
        raise SourceError(
            f"{path}: the columns {', '.join(missing)} are missing from its first line"
        )
    columns = [header.index(name) for name in ("id", "raw_category", "category")]
    value_of = {number: value for value, number in enumerate(class_ids_200(), start=1)}
    names: dict[int, str] = {}
    class_of: dict[str, int] = {}
    for line in lines[1:]:
        cells = line.split("\t")
        if len(cells) < len(header) or not cells[columns[0]].isdecimal():
            continue
        value = value_of.get(int(cells[columns[0]]), 0)
        class_of[cells[columns[1]]] = value
        if value:
            names.setdefault(value, cells[columns[2]])
    if len(names) != len(value_of):
        raise SourceError(f"{path} names {len(names)} of the {len(value_of)} classes of ScanNet200")
    return LabelTable(("void", *(names[value] for value in sorted(names))), class_of)


@dataclass(frozen=True, eq=False)
class LabelledMesh:
    """A scene's vertices for nearest-neighbour search, with their classes."""

    tree: Any
    classes: UInt8[np.ndarray, " vertices"]


@lru_cache(maxsize=4)
def mesh_20(path: Path) -> LabelledMesh:
    """The mesh with NYU40 labels.

    Raises:
        SourceError: it cannot be read, or has no positions and labels.
    """
    vertices = read_vertices(path)
    return _mesh(vertices, classes_20(vertices, path), path)


def classes_20(vertices: np.ndarray, path: Path) -> UInt8[np.ndarray, " vertices"]:
    """The class of each vertex of a mesh with NYU40 labels; 0 (void) for other objects.

    Raises:
        SourceError: the vertices have no labels.
    """
    classes = np.zeros(2**16, dtype=np.uint8)
    classes[list(CLASSES_20)] = np.arange(1, len(CLASSES_20) + 1)
    names = vertices.dtype.names or ()
    if "label" not in names or vertices["label"].dtype.kind not in "iu":
        raise SourceError(
            f"{path}: expected vertices with a label of an integer type, found {names}"
        )
    return classes[vertices["label"].astype(np.uint16)]


def mesh_200(folder: Path, table: LabelTable) -> LabelledMesh:
    """The mesh with the classes of its segments' groups.

    Raises:
        SourceError: a file is missing or wrong, or they do not match.
    """
    return _mesh_200(folder, _hashable(table))


@lru_cache(maxsize=4)
def _mesh_200(folder: Path, class_of: tuple[tuple[str, int], ...]) -> LabelledMesh:
    scene = folder.name
    segments_path = instance_files(folder)[1]
    segments = _segments(folder)
    value_of, class_of_segment = dict(class_of), dict[int, int]()
    for label, own in _groups(folder):
        class_of_segment |= dict.fromkeys(own.tolist(), value_of.get(label, 0))
    mesh_path = folder / f"{scene}_vh_clean_2.ply"
    vertices = read_vertices(mesh_path)
    if len(vertices) != len(segments):
        raise SourceError(
            f"{segments_path} has {len(segments)} entries, but the mesh has {len(vertices)} "
            "vertices"
        )
    unique, inverse = np.unique(segments, return_inverse=True)
    classes = np.array([class_of_segment.get(int(s), 0) for s in unique], dtype=np.uint8)
    return _mesh(vertices, classes[inverse], mesh_path)


def groups_file(folder: Path) -> Path:
    """The instances on the decimated mesh; `_vh_clean.aggregation.json` is of the finer one."""
    return folder / f"{folder.name}.aggregation.json"


def instance_files(folder: Path) -> tuple[Path, Path]:
    """The file of a scene's instances, and that of the segments which they consist of."""
    return groups_file(folder), folder / f"{folder.name}_vh_clean_2.0.010000.segs.json"


def _segments(folder: Path) -> Int64[np.ndarray, " vertices"]:
    path = instance_files(folder)[1]
    return _whole_numbers(read_json(path, "scannet"), "segIndices", path)


def _groups(folder: Path) -> list[tuple[str, Int64[np.ndarray, " segments"]]]:
    """The annotators' word for each instance, and its segments."""
    path = groups_file(folder)
    return [
        (str(json_field(group, "label", path)), _whole_numbers(group, "segments", path))
        for group in json_field(read_json(path, "scannet"), "segGroups", path)
    ]


def axis_alignment(folder: Path) -> Float64[np.ndarray, "4 4"]:
    """aligned_from_world of a scene: `axisAlignment` of SCENE.txt, or the identity without.

    Raises:
        SourceError: it is not a rigid transform.
    """
    path = folder / f"{folder.name}.txt"
    lines = read_text(path, "scannet").splitlines() if path.is_file() else []
    for line in lines:
        name, _, value = line.partition("=")
        if name.strip() == "axisAlignment":
            found = numbers(value.split(), 16, "axisAlignment", path)
            return rigid(np.reshape(found, (4, 4)), f"{path}: axisAlignment")
    return np.eye(4)


@lru_cache(maxsize=4)
def instance_boxes(
    folder: Path, mesh: LabelledMesh, names: tuple[str, ...]
) -> tuple[Annotation, ...]:
    """The smallest axis-aligned box of each instance in the aligned scene (m).

    An instance has the commonest class of its vertices; walls, floors and what has no class of
    the task are left out, as by VoteNet's 18 classes.

    Args:
        folder: of the scene.
        mesh: its labelled vertices.
        names: of the mesh's classes, void first.

    Raises:
        SourceError: a file is missing or wrong, or they do not match.
    """
    segments, align = _segments(folder), axis_alignment(folder)
    points = transform_points(align, np.asarray(mesh.tree.data))
    if len(points) != len(segments):
        raise SourceError(
            f"{instance_files(folder)[1]} has {len(segments)} entries, but the mesh has "
            f"{len(points)} vertices"
        )
    found: list[Annotation] = []
    for _, own in _groups(folder):
        rows = np.isin(segments, own)
        counts = np.bincount(mesh.classes[rows], minlength=1)
        name = names[int(counts.argmax())]
        if name in WITHOUT_BOXES or not counts.any():
            continue
        low, high = points[rows].min(axis=0), points[rows].max(axis=0)
        found.append(Annotation(name, (low + high) / 2, (1.0, 0.0, 0.0), high - low))
    return tuple(found)


def pixel_classes(
    mesh: LabelledMesh, depth: DepthImage, world_from_depth: Float64[np.ndarray, "4 4"]
) -> UInt8[np.ndarray, "height width"]:
    """Class of each depth pixel; 0 without depth or without a vertex nearby."""
    found = back_project(depth.values, depth.camera, units_per_metre=depth.units_per_metre)
    points = transform_points(world_from_depth, found.points)
    distance, vertex = mesh.tree.query(points, distance_upper_bound=MAX_DISTANCE_M)
    near = np.isfinite(distance)
    classes = np.zeros(depth.values.size, dtype=np.uint8)
    classes[found.pixel[near]] = mesh.classes[vertex[near]]
    return classes.reshape(depth.values.shape)


def _mesh(vertices: np.ndarray, classes: np.ndarray, path: Path) -> LabelledMesh:
    from scipy.spatial import KDTree

    return LabelledMesh(KDTree(positions(vertices, path)), np.ascontiguousarray(classes))


def positions(vertices: np.ndarray, path: Path) -> Float64[np.ndarray, "vertices 3"]:
    """x, y, z of a mesh's vertices (m).

    Raises:
        SourceError: they have none, or are not finite.
    """
    names = vertices.dtype.names or ()
    if not {"x", "y", "z"} <= set(names) or not len(vertices):
        raise SourceError(
            f"{path}: expected vertices with x y z, found {len(vertices)} vertices with {names}"
        )
    points = np.stack([vertices[axis].astype(np.float64) for axis in "xyz"], axis=1)
    if not np.isfinite(points).all():
        raise SourceError(f"{path} contains vertices that are NaN or infinite")
    return points


def _whole_numbers(value: Any, name: str, path: Path) -> np.ndarray:
    try:
        return np.array(json_field(value, name, path), dtype=np.int64).reshape(-1)
    except (TypeError, ValueError, OverflowError) as error:
        raise SourceError(f"{path}: {name} must be whole numbers: {error}") from error


def _hashable(table: LabelTable) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(table.class_of.items()))
