"""Boxes of every reader: real ones hold the points of their class, written ones come back."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from box_points import points_in_boxes
from matlab_written import write_box_table
from nuscenes_written import placed, write_tables
from rgbd_written import write_sunrgbd
from scannet_written import surface, write_exported, write_mesh, write_segments
from scipy.spatial.transform import Rotation

from p2pkit.datasets.boxes import (
    Annotation,
    HasBoxes,
    box_fingerprint_of,
    box_names_of,
    chosen_boxes,
    joined_boxes,
    upright_boxes,
)
from p2pkit.datasets.frame import UNKNOWN_CLASS, Boxes, Frame, FrameSource, SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.errors import FrameError
from p2pkit.geometry.backproject import back_project
from p2pkit.geometry.boxes import Upright
from p2pkit.geometry.transforms import invert_rigid
from p2pkit.layers.boxes import encode_boxes


def boxes_of(frame: Frame) -> Boxes:
    assert frame.boxes is not None
    return frame.boxes


def held(boxes: Boxes, points: np.ndarray, spare_m: float = 0.0) -> np.ndarray:
    """[points, boxes]: which sensor points each box holds, if it is that much larger."""
    upright = points.astype(float) @ boxes.upright_from_sensor.T
    return points_in_boxes(upright, Upright(boxes.center, boxes.size + 2 * spare_m, boxes.yaw))


def points_of(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Points of a depth frame, and their labels."""
    assert frame.depth is not None
    assert frame.labels is not None
    found = back_project(frame.depth.values, frame.depth.camera, units_per_metre=1000.0)
    return found.points, frame.labels.reshape(-1)[found.pixel]


def same_boxes(boxes: Boxes, others: Boxes, atol: float) -> None:
    """The same boxes in the same order, whichever way round they are."""
    assert boxes.given == others.given
    np.testing.assert_allclose(boxes.upright_from_sensor, others.upright_from_sensor, atol=atol)
    np.testing.assert_allclose(boxes.center, others.center, atol=atol)
    np.testing.assert_allclose(boxes.size, others.size, atol=atol)
    np.testing.assert_allclose(np.sin(boxes.yaw - others.yaw), 0, atol=atol)


@pytest.fixture(scope="module")
def rooms() -> FrameSource:
    return open_source("demo-scene", SourceOptions(limit=3))


@pytest.fixture(scope="module")
def frames(rooms: FrameSource) -> list[Frame]:
    keys = rooms.keys()
    return [rooms.load(key) for key in keys]


def test_boxes_of_generated_rooms_hold_exactly_their_points(
    rooms: FrameSource, frames: list[Frame]
) -> None:
    assert rooms.label_names is not None
    names = box_names_of(rooms)
    assert names is not None
    assert names == tuple(rooms.label_names[4:])
    for frame in frames:
        boxes, (points, labels) = boxes_of(frame), points_of(frame)
        assert len(boxes.yaw) > 5
        assert [names[number] for number in boxes.class_id] == list(boxes.given)
        for name in dict.fromkeys(boxes.given):
            own = points[labels == rooms.label_names.index(name)]
            rows = [given == name for given in boxes.given]
            # Objects of which fewer than 50 points are seen have no box; noise is centimetres.
            assert held(boxes, own, 0.06)[:, rows].any(axis=1).mean() > 0.9
        ball = boxes.given.index("ball")
        inside = held(boxes, points[labels == rooms.label_names.index("ball")], 0.02)[:, ball]
        own = points[labels == rooms.label_names.index("ball")][inside]
        center = boxes.center[ball] @ boxes.upright_from_sensor
        radii = np.linalg.norm(own - center, axis=1)
        assert np.median(radii) == pytest.approx(boxes.size[ball, 0] / 2, abs=0.01)


def test_one_room_gives_the_same_boxes_in_the_room_from_every_frame(frames: list[Frame]) -> None:
    parts = [(boxes_of(frame), frame.world_from_sensor) for frame in frames]
    room = joined_boxes(parts, np.eye(3))  # pyright: ignore[reportArgumentType]
    seen = [len(boxes.yaw) for boxes, _ in parts]
    assert max(seen) <= len(room.yaw) < sum(seen)
    alone = joined_boxes(parts[:1], np.eye(3))  # pyright: ignore[reportArgumentType]
    same_boxes(replace(room, **{n: getattr(room, n)[: seen[0]] for n in FIELDS}), alone, 1e-9)


FIELDS = ("center", "size", "yaw", "class_id", "given")


def test_fused_rooms_have_the_boxes_of_their_frames(frames: list[Frame]) -> None:
    source = open_source("demo-scene", SourceOptions(limit=3, fuse=3))
    assert isinstance(source, HasBoxes)
    fused = source.load(source.keys()[0])
    boxes = boxes_of(fused)
    assert len(boxes.yaw) >= max(len(boxes_of(frame).yaw) for frame in frames)
    assert np.array_equal(boxes.upright_from_sensor, np.eye(3))
    assert fused.points is not None
    assert (held(boxes, fused.points, 0.02).sum(axis=0) > 5).all()


def test_more_frames_than_four_rooms_give_more_rooms() -> None:
    source = open_source("demo-scene", SourceOptions(limit=7, every=12))
    assert list(source.keys()) == [f"room-{number}_frame-000000" for number in range(7)]


@pytest.mark.realdata
def test_kitti_boxes_hold_points_and_follow_the_published_formula(data_root: Path) -> None:
    root = data_root / "kitti_object"
    source = open_source("kitti-object", SourceOptions(root))
    assert box_names_of(source) is not None
    keys = source.keys()
    for key in keys:
        frame = source.load(key)
        assert frame.points is not None
        assert (held(boxes_of(frame), frame.points).sum(axis=0) > 0).all()
    boxes = boxes_of(source.load("training_000003"))
    assert boxes.given == ("Car",)
    np.testing.assert_allclose(boxes.size[0], [4.15, 1.73, 1.57])
    # The label: at x 1.00, y 1.75 (underside), z 13.22 in the camera's frame, turned by 1.62.
    lines = (root / "training" / "calib" / "000003.txt").read_text().splitlines()
    numbers = {line.split(":")[0]: np.array(line.split()[1:], float) for line in lines if line}
    rectify, velodyne = np.eye(4), np.eye(4)
    rectify[:3, :3] = numbers["R0_rect"].reshape(3, 3)
    velodyne[:3] = numbers["Tr_velo_to_cam"].reshape(3, 4)
    sensor = boxes.center[0] @ boxes.upright_from_sensor
    found = rectify @ velodyne @ [*sensor, 1.0]
    np.testing.assert_allclose(found[:3], [1.00, 1.75 - 1.57 / 2, 13.22], atol=1e-6)


@pytest.mark.realdata
def test_damaged_kitti_labels_cost_the_frame(data_root: Path, tmp_path: Path) -> None:
    for name in ("velodyne/000001.bin", "image_2/000001.png", "calib/000001.txt"):
        (tmp_path / "training" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data_root / "kitti_object" / "training" / name, tmp_path / "training" / name)
    assert box_names_of(open_source("kitti-object", SourceOptions(tmp_path))) is None
    label = tmp_path / "training" / "label_2" / "000001.txt"
    label.parent.mkdir()
    label.write_text("DontCare -1 -1\nTractor" + " 1.0" * 14 + "\nCar" + " nan" * 14 + "\n")
    source = open_source("kitti-object", SourceOptions(tmp_path))
    boxes = boxes_of(source.load("training_000001"))
    assert boxes.given == ("Tractor", "Car")
    assert boxes.class_id.tolist() == [UNKNOWN_CLASS, 0]
    label.write_text("Car 1 2 3")
    with pytest.raises(FrameError, match="Car has 3 numbers; expected 14"):
        source.load("training_000001")


@pytest.mark.realdata
def test_pandaset_cuboids_hold_the_points_of_their_class(data_root: Path) -> None:
    source = open_source("pandaset", SourceOptions(data_root / "pandaset"))
    frame = source.load("002_36")
    assert frame.points is not None
    assert frame.labels is not None
    assert source.label_names is not None
    boxes, inside = boxes_of(frame), held(boxes_of(frame), frame.points, 0.1)
    cars = inside[:, [given == "Car" for given in boxes.given]].any(axis=1)
    labelled = frame.labels == source.label_names.index("Car")
    assert (cars & labelled).sum() > 0.95 * labelled.sum()
    # Turned by 90 degrees, a car is 1.9 m long.
    across = replace(boxes, yaw=boxes.yaw + np.pi / 2)
    crossed = held(across, frame.points, 0.1)[:, [given == "Car" for given in boxes.given]]
    assert (crossed.any(axis=1) & labelled).sum() < 0.8 * labelled.sum()
    cuboids = json.loads((data_root / "pandaset" / "002" / "cuboids" / "36.json").read_text())
    assert len(boxes.yaw) == sum(row["cuboids.sensor_id"] != 1 for row in cuboids)


@pytest.mark.realdata
def test_nuscenes_annotations_are_moved_from_the_world_to_the_sweep(
    data_root: Path, tmp_path: Path
) -> None:
    root = write_tables(data_root / "nuscenes_sample", tmp_path / "nuscenes")
    plain = open_source("nuscenes", SourceOptions(root))
    assert box_names_of(plain) is None
    pose = plain.load(plain.keys()[0]).world_from_sensor
    assert pose is not None
    box = np.eye(4)
    box[:2, :2] = [[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]]
    box[:3, 3] = (8.0, -3.0, -1.0)
    names = {"car": "vehicle.car", "dog": "animal", "ufo": "vehicle.ufo"}
    tables = {
        "category": [{"token": key, "name": name, "index": 1} for key, name in names.items()],
        "instance": [{"token": f"i-{key}", "category_token": key} for key in names],
        "sample_annotation": [
            placed(
                f"b-{key}",
                pose @ box,
                sample_token="a0",
                instance_token=f"i-{key}",
                size=[1.9, 4.5, 1.6],
            )
            for key in names
        ],
    }
    for name, records in tables.items():
        (root / "v1.0-mini" / f"{name}.json").write_text(json.dumps(records))
    source = open_source("nuscenes", SourceOptions(root))
    assert source.fingerprint() == plain.fingerprint()
    boxes = boxes_of(source.load(source.keys()[0]))
    assert boxes.given == ("car", "vehicle.ufo")
    assert boxes.class_id[1] == UNKNOWN_CLASS
    sensor = boxes.center[0] @ boxes.upright_from_sensor
    np.testing.assert_allclose(sensor, box[:3, 3], atol=1e-4)
    np.testing.assert_allclose(boxes.size[0], [4.5, 1.9, 1.6])
    heading = np.array([np.cos(boxes.yaw[0]), np.sin(boxes.yaw[0]), 0]) @ boxes.upright_from_sensor
    # The box is level in the world only, and the car stands at a slope of some degrees.
    assert heading @ box[:3, 0] > 0.99
    # The labels of a test split are hidden: its table is there and empty.
    (root / "v1.0-mini" / "sample_annotation.json").write_text("[]")
    hidden = open_source("nuscenes", SourceOptions(root))
    assert box_names_of(hidden) is None
    assert hidden.load(hidden.keys()[0]).boxes is None


def sunrgbd_annotation(boxes: Boxes, level: np.ndarray) -> dict[str, Any]:
    """The boxes as prisms in the axes of a level camera, in the form of `annotation3Dfinal`."""
    objects: list[dict[str, Any] | None] = [None, {"name": "wall", "polygon": []}]
    for row, name in enumerate(boxes.given):
        half = boxes.size[row] / 2
        cos, sin = np.cos(boxes.yaw[row]), np.sin(boxes.yaw[row])
        local = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half[:2]
        corners = local @ np.array([[cos, sin], [-sin, cos]]) + boxes.center[row, :2]
        upright = np.c_[corners, np.full(4, boxes.center[row, 2])]
        found = upright @ boxes.upright_from_sensor @ level.T
        middle = float(found[0, 1])
        prism = {"X": found[:, 0].tolist(), "Z": found[:, 2].tolist(), "rectangle": True}
        prism |= {"Ymin": middle - half[2], "Ymax": middle + half[2]}
        objects.append({"name": name, "polygon": [prism]})
    return {"objects": objects}


def test_sunrgbd_prisms_come_back(frames: list[Frame], tmp_path: Path) -> None:
    frame = frames[0]
    write_sunrgbd(tmp_path / "b3do" / "img_0001", frame)
    assert box_names_of(open_source("sunrgbd", SourceOptions(tmp_path))) is None
    boxes = boxes_of(frame)
    # Any rotation that makes y point down in the room levels the camera.
    down = -boxes.upright_from_sensor[2]
    right = np.cross(down, boxes.upright_from_sensor[1])
    level = np.stack([right, down, np.cross(right, down)])
    folder = tmp_path / "b3do" / "img_0001"
    for name in ("annotation3Dfinal", "extrinsics"):
        (folder / name).mkdir()
    value = json.dumps(sunrgbd_annotation(boxes, level))
    (folder / "annotation3Dfinal" / "index.json").write_text(value)
    np.savetxt(folder / "extrinsics" / "20140801.txt", np.c_[level, np.zeros(3)])
    source = open_source("sunrgbd", SourceOptions(tmp_path))
    names = box_names_of(source)
    assert names is not None
    found = boxes_of(source.load(source.keys()[0]))
    kept = [row for row, given in enumerate(boxes.given) if given in names]
    expected = replace(
        boxes,
        **{name: getattr(boxes, name)[kept] for name in FIELDS[:-1]},
        given=tuple(boxes.given[row] for row in kept),
    )
    same_boxes(found, expected, 1e-6)
    (folder / "extrinsics" / "20140801.txt").unlink()
    with pytest.raises(FrameError, match="its boxes need one"):
        source.load(source.keys()[0])


def test_the_table_of_sunrgbd_replaces_the_frames_own_annotation(
    frames: list[Frame], tmp_path: Path
) -> None:
    boxes, root = boxes_of(frames[0]), tmp_path / "SUNRGBD"
    for number in (1, 2, 3):
        write_sunrgbd(root / "kv1" / "b3do" / f"img_{number:04d}", frames[0])
    (root / "kv1" / "b3do" / "img_0001" / "annotation3Dfinal").mkdir()
    (root / "kv1" / "b3do" / "img_0001" / "annotation3Dfinal" / "index.json").write_text("[]")
    turn = Rotation.from_euler("z", 0.4).as_matrix()
    forward_from_camera = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])
    tilt = turn @ boxes.upright_from_sensor @ forward_from_camera.T
    rows = [
        (
            name,
            turn @ Rotation.from_euler("z", boxes.yaw[row]).as_matrix(),
            boxes.size[row] / [2, 2, -2],
            turn @ boxes.center[row],
        )
        for row, name in enumerate(boxes.given)
    ]
    rows = [(name, basis.T, coeffs, centroid) for name, basis, coeffs, centroid in rows]
    table = tmp_path / "SUNRGBDMeta3DBB_v2.mat"
    listed = [("SUNRGBD/kv1/b3do/img_0001/", tilt, rows), ("SUNRGBD/kv1/b3do/img_0002", tilt, [])]
    write_box_table(table, listed)
    source = open_source("sunrgbd", SourceOptions(root))
    names = box_names_of(source)
    assert names is not None
    kept = np.array([given in names for given in boxes.given])
    assert 0 < kept.sum() < len(kept)
    first, second, third = source.keys()
    same_boxes(boxes_of(source.load(first)), chosen_boxes(boxes, kept), 1e-6)
    assert len(boxes_of(source.load(second)).yaw) == 0
    with pytest.raises(FrameError, match="no frame img_0003 among its 2: folders below SUNRGBD"):
        source.load(third)
    before = box_fingerprint_of(source)
    write_box_table(table, [(listed[0][0], np.eye(3) * 1.1, rows)])
    source = open_source("sunrgbd", SourceOptions(root))
    assert box_fingerprint_of(source) != before
    with pytest.raises(FrameError, match="Rtilt of SUNRGBD/kv1/b3do/img_0001"):
        source.load(first)
    write_box_table(table, [(listed[0][0], tilt, [(names[0], np.eye(2), *rows[0][2:])])])
    with pytest.raises(FrameError, match="a box of SUNRGBD/kv1/b3do/img_0001/: cannot reshape"):
        open_source("sunrgbd", SourceOptions(root)).load(first)


def test_scannet_boxes_are_those_of_instances_in_the_aligned_scene(
    frames: list[Frame], tmp_path: Path
) -> None:
    scene, frame = tmp_path / "scene0000_00", frames[0]
    write_exported(scene, frames[:1], (320, 240))
    (scene / f"{scene.name}.txt").write_text(
        "colorWidth = 320\ncolorHeight = 240\ndepthWidth = 320\ndepthHeight = 240\n"
    )
    labels = points_of(frame)[1]
    nyu40 = np.array([0, 2, 1, 22, 7, 5, 3, 10, 4, 29, 29, 11])[labels]
    points = surface(frame, 1)
    write_mesh(scene / f"{scene.name}_vh_clean_2.labels.ply", points, nyu40)
    write_segments(scene, nyu40, {"wall": [1], "Table": [7], "bed": [4], "thing": [29]})
    with (scene / f"{scene.name}.txt").open("a") as file:
        cos, sin = np.cos(0.3), np.sin(0.3)
        file.write(f"axisAlignment = {cos} {-sin} 0 1 {sin} {cos} 0 2 0 0 1 0 0 0 0 1\n")
    source = open_source("scannet", SourceOptions(tmp_path))
    names = box_names_of(source)
    assert names is not None
    assert len(names) == 18
    boxes = boxes_of(source.load(source.keys()[0]))
    assert [names[number] for number in boxes.class_id] == list(boxes.given) == ["table", "bed"]
    aligned = points[nyu40 == 7] @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]]).T
    np.testing.assert_allclose(boxes.size[0], np.ptp(aligned, axis=0), atol=1e-4)
    own = points_of(frame)[0][labels == 4]
    assert held(boxes, own, 0.001)[:, 0].all()
    (segments,) = scene.glob("*.segs.json")
    segments.unlink()
    source = open_source("scannet", SourceOptions(tmp_path))
    assert box_names_of(source) is None
    assert source.load(source.keys()[0]).labels is not None


def test_boxes_stand_upright_in_a_tilted_sensor() -> None:
    tilt = np.array([[1, 0, 0, 0.5], [0, 0.8, -0.6, 0], [0, 0.6, 0.8, -1.0], [0, 0, 0, 1.0]])
    one = Annotation("car", (1.0, 2.0, 3.0), (0.0, 2.0, 0.0), (4.0, 2.0, 1.0))
    boxes = upright_boxes([one], ["car"], sensor_from_annotation=tilt, up=(0.0, 0.0, 1.0))
    up = boxes.upright_from_sensor @ tilt[:3, :3] @ [0, 0, 1]
    np.testing.assert_allclose(up, [0, 0, 1], atol=1e-12)
    sensor = boxes.center[0] @ boxes.upright_from_sensor
    np.testing.assert_allclose((invert_rigid(tilt) @ [*sensor, 1])[:3], [1, 2, 3], atol=1e-12)
    point = (tilt @ [1.0, 3.9, 3.4, 1])[:3].astype(np.float32)
    beyond = (tilt @ [2.1, 2.0, 3.0, 1])[:3].astype(np.float32)
    assert held(boxes, np.stack([point, beyond]))[:, 0].tolist() == [True, False]


def test_bad_boxes_are_named_and_kept_out() -> None:
    rows = [
        Annotation("car", (0, 0, 0), (1, 0, 0), (2, 2, 2)),
        Annotation("ufo", (0, 0, 0), (1, 0, 0), (2, 2, 2)),
        Annotation("car", (0, np.nan, 0), (1, 0, 0), (2, 2, 2)),
        Annotation("van", (0, 0, 0), (1, 0, 0), (2, 0, 2)),
        Annotation("van", (9, 0, 0), (1, 0, 0), (2, 2, 2)),
    ]
    boxes = upright_boxes(rows, ["car", "van"], sensor_from_annotation=np.eye(4), up=(0, 0, 1))
    sample = encode_boxes("frame-0", boxes, np.zeros((3, 3), np.float32))
    assert sample.arrays["box_points"].tolist() == [3]
    assert sample.arrays["box_class"].tolist() == [0]
    assert sample.meta["left_out"] == [
        {"class": "ufo", "reason": "an unknown class"},
        {"class": "car", "reason": "NaN or infinite"},
        {"class": "van", "reason": "zero or negative size"},
        {"class": "van", "reason": "no stored point"},
    ]
