import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scannet_written import (
    sens_bytes,
    surface,
    write_exported,
    write_mesh,
    write_segments,
    write_table,
)

from p2pkit.datasets.frame import DepthImage, Frame, SourceOptions, View
from p2pkit.datasets.left_out import left_out_by
from p2pkit.datasets.points.ply import read_vertices
from p2pkit.datasets.registry import open_source
from p2pkit.datasets.rgbd.scannet.labels import CLASSES_20, class_ids_200, mesh_200, read_table
from p2pkit.datasets.rgbd.scannet.sens import read_frame
from p2pkit.errors import FrameError, P2pkitError, SourceError
from p2pkit.geometry.camera import Camera

SCENE = "scene0000_00"
TINY = Camera(width=8, height=6, fx=7.0, fy=7.0, cx=3.5, cy=2.5)


@pytest.fixture(scope="module")
def office(data_root: Path) -> list[Frame]:
    """Real frames in millimetres whose colour is registered, as ScanNet's is."""
    source = open_source("posed-rgbd", SourceOptions(data_root / "slambook2_office"))
    return [source.load(key) for key in source.keys()[:3]]


def tiny_frames(count: int) -> list[Frame]:
    random = np.random.default_rng(0)
    frames: list[Frame] = []
    for number in range(count):
        image = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        depth = DepthImage(random.integers(500, 3000, (6, 8), dtype=np.uint16), TINY, 1000.0)
        pose = np.eye(4)
        pose[0, 3] = number
        frames.append(Frame("x", (View(image, TINY, np.eye(4)),), depth, world_from_sensor=pose))
    return frames


def write_sens(root: Path, frames: list[Frame], scene: str = SCENE) -> Path:
    path = root / scene / f"{scene}.sens"
    path.parent.mkdir(parents=True)
    path.write_bytes(sens_bytes(frames))
    return path


@pytest.mark.realdata
def test_sens_gives_the_real_frames(office: list[Frame], tmp_path: Path) -> None:
    write_sens(tmp_path, office)
    source = open_source("scannet", SourceOptions(tmp_path))
    assert source.keys() == [f"{SCENE}_{number:06d}" for number in range(3)]
    assert source.label_names is None
    for key, real in zip(source.keys(), office, strict=True):
        frame = source.load(key)
        assert frame.depth is not None
        assert real.depth is not None
        np.testing.assert_array_equal(frame.depth.values, real.depth.values)
        assert frame.depth.units_per_metre == 1000.0
        np.testing.assert_allclose(frame.world_from_sensor, real.world_from_sensor, atol=1e-6)
        difference = frame.views[0].image.astype(int) - real.views[0].image
        assert np.abs(difference).mean() < 4
        assert frame.views[0].camera.fx == pytest.approx(real.views[0].camera.fx)
        assert frame.views[0].time_offset_s == pytest.approx(-0.002)
        assert frame.sequence == SCENE
    assert set(tmp_path.rglob("*")) == {tmp_path / SCENE, tmp_path / SCENE / f"{SCENE}.sens"}


def test_every_nth_frame_of_each_scene(tmp_path: Path) -> None:
    write_sens(tmp_path, tiny_frames(7))
    write_sens(tmp_path, tiny_frames(4), "scene0001_00")
    source = open_source("scannet", SourceOptions(tmp_path, every=3))
    numbers = [(key[8], int(key[-1])) for key in list(source.keys())]
    assert numbers == [("0", 0), ("0", 3), ("0", 6), ("1", 0), ("1", 3)]
    pose = source.load(f"{SCENE}_000006").world_from_sensor
    assert pose is not None
    assert pose[0, 3] == 6


def test_the_speed_is_that_between_the_neighbours(tmp_path: Path) -> None:
    frames = tiny_frames(4)
    frames[3] = replace(frames[3], world_from_sensor=np.full((4, 4), np.inf))
    write_sens(tmp_path, frames)
    source = open_source("scannet", SourceOptions(tmp_path))
    speeds = [source.load(f"{SCENE}_{number:06d}").speed_m_s for number in range(4)]
    # A metre in each 33333 us; a neighbour whose tracking was lost tells nothing.
    assert speeds == pytest.approx([1e6 / 33333, 1e6 / 33333, 0.0, 0.0])


def test_a_cut_file_loses_only_its_last_frames(tmp_path: Path) -> None:
    path = write_sens(tmp_path, tiny_frames(3))
    path.write_bytes(path.read_bytes()[:-200])
    source = open_source("scannet", SourceOptions(tmp_path))
    source.load(f"{SCENE}_000001")
    with pytest.raises(FrameError, match="is truncated: it has 2 of its 3 frames"):
        source.load(f"{SCENE}_000002")


def test_a_frame_with_lost_tracking_has_no_pose(tmp_path: Path) -> None:
    first, second = tiny_frames(2)
    lost = np.full((4, 4), -np.inf)
    write_sens(tmp_path, [replace(first, world_from_sensor=lost), second])
    source = open_source("scannet", SourceOptions(tmp_path))
    assert source.load(f"{SCENE}_000000").world_from_sensor is None
    assert source.load(f"{SCENE}_000001").world_from_sensor is not None


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (0, 3, "version 3"),
        (27 + 256, 9, "colour coding 9"),
        (27 + 260, 2, "depth coding 2"),
        (27 + 264, 0, "images of"),
        (27 + 284, 2**31 - 1, "too small for them"),
    ],
)
def test_wrong_header(tmp_path: Path, at: int, value: int, reason: str) -> None:
    path = write_sens(tmp_path, tiny_frames(1))
    data = bytearray(path.read_bytes())
    data[at : at + 4] = value.to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(SourceError, match=reason):
        open_source("scannet", SourceOptions(tmp_path))


def test_uncalibrated_and_cut_headers(tmp_path: Path) -> None:
    path = write_sens(tmp_path, tiny_frames(1))
    moved = np.eye(4)
    moved[0, 3] = 0.03
    path.write_bytes(sens_bytes(tiny_frames(1), extrinsic=moved))
    with pytest.raises(SourceError, match="depth camera's extrinsics"):
        open_source("scannet", SourceOptions(tmp_path))
    other = write_sens(tmp_path / "cut", tiny_frames(1))
    other.write_bytes(other.read_bytes()[:100])
    with pytest.raises(SourceError, match="ends within its header"):
        open_source("scannet", SourceOptions(tmp_path / "cut"))


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
def test_any_damage_is_one_of_our_errors(
    tmp_path_factory: pytest.TempPathFactory, place: float, byte: int, cut: bool
) -> None:
    path = tmp_path_factory.mktemp("sens") / "any.sens"
    data = bytearray(sens_bytes(tiny_frames(1)))
    at = int(place * len(data))
    if cut:
        del data[at:]
    else:
        data[at] = byte
    path.write_bytes(data)
    with contextlib.suppress(P2pkitError):
        frame = read_frame(path, 0, "key")
        assert frame.depth.dtype == np.uint16


@pytest.mark.realdata
def test_exported_folders_and_shrunk_colour(office: list[Frame], tmp_path: Path) -> None:
    folder = tmp_path / SCENE
    write_exported(folder, office, (320, 240))
    sizes = "colorWidth = 640\ncolorHeight = 480\ndepthWidth = 640\ndepthHeight = 480\n"
    (folder / f"{SCENE}.txt").write_text(sizes + "sceneType = Office\n")
    source = open_source("scannet", SourceOptions(folder))
    frame = source.load(source.keys()[2])
    real = office[2]
    assert frame.depth is not None
    assert real.depth is not None
    np.testing.assert_array_equal(frame.depth.values, real.depth.values)
    half = real.views[0].camera.resized(320, 240)
    camera = frame.views[0].camera
    assert (camera.width, camera.height) == (320, 240)
    # 325.5 -> 162.5: half of cx + 0.5, less 0.5, and not 162.75.
    assert (camera.fx, camera.cx, camera.cy) == pytest.approx((half.fx, half.cx, half.cy))
    assert camera.cx == pytest.approx(162.5)
    np.testing.assert_allclose(frame.world_from_sensor, real.world_from_sensor, atol=1e-5)
    (folder / "color" / "1.jpg").rename(folder / "color" / "1.JPEG")
    assert open_source("scannet", SourceOptions(folder)).keys() == source.keys()
    (folder / "color" / "1.JPEG").rename(folder / "color" / "1.jpg")
    (folder / "pose" / "2.txt").write_text("-inf " * 16)
    assert source.load(source.keys()[2]).world_from_sensor is None
    Image.fromarray(np.zeros((240, 240, 3), np.uint8)).save(folder / "color" / "0.jpg")
    with pytest.raises(FrameError, match="240 x 240 px"):
        open_source("scannet", SourceOptions(folder)).load(source.keys()[0])
    (folder / "intrinsic" / "intrinsic_color.txt").write_text("1 2 3")
    with pytest.raises(FrameError, match=r"intrinsic_color\.txt or 0\.jpg cannot be used"):
        open_source("scannet", SourceOptions(folder)).load(source.keys()[0])


def expected_side(frame: Frame) -> np.ndarray:
    """Which pixels see points with a world x above the frame's median."""
    points = surface(frame, 1)
    assert frame.depth is not None
    side = np.zeros(frame.depth.values.size, dtype=np.int64)
    seen = np.flatnonzero(frame.depth.values)
    side[seen] = 1 + (points[:, 0] > np.median(surface(frame, 1)[:, 0]))
    return side.reshape(frame.depth.values.shape)


@pytest.mark.realdata
def test_scannet20_labels_are_those_of_the_nearest_vertex(
    office: list[Frame], tmp_path: Path
) -> None:
    write_sens(tmp_path, office[:1])
    folder = tmp_path / SCENE
    points = surface(office[0], 7)
    middle = np.median(surface(office[0], 1)[:, 0])
    nyu40 = np.where(points[:, 0] > middle, 39, 5)
    write_mesh(folder / f"{SCENE}_vh_clean_2.labels.ply", points, nyu40)
    write_sens(tmp_path, tiny_frames(1), "scene0707_00")
    source = open_source("scannet", SourceOptions(tmp_path))
    assert source.label_names == ("void", *CLASSES_20.values())
    labels = source.load(f"{SCENE}_000000").labels
    assert labels is not None
    side = expected_side(office[0])
    names = np.array(source.label_names)
    assert (labels[side == 0] == 0).all()
    labelled = labels > 0
    assert labelled[side > 0].mean() > 0.9
    right = names[labels] == np.array(["", "chair", "otherfurniture"])[side]
    assert right[labelled].mean() > 0.99
    test_scene = source.load("scene0707_00_000000").labels
    assert test_scene is not None
    assert not test_scene.any()


@pytest.mark.realdata
def test_scannet200_labels_through_segments_and_groups(office: list[Frame], tmp_path: Path) -> None:
    write_sens(tmp_path / "scans", office[:1])
    folder = tmp_path / "scans" / SCENE
    points = surface(office[0], 7)
    middle = np.median(surface(office[0], 1)[:, 0])
    write_mesh(folder / f"{SCENE}_vh_clean_2.ply", points, None)
    segment_of = np.where(points[:, 0] > middle, 40, 17)
    write_segments(folder, segment_of, {"office chair": [40, 41], "unheard-of": [17]})
    with pytest.raises(SourceError, match=r"combined\.tsv does not exist"):
        open_source("scannet200", SourceOptions(tmp_path / "scans"))
    write_table(tmp_path / "scannetv2-labels.combined.tsv", class_ids_200())
    source = open_source("scannet200", SourceOptions(tmp_path / "scans"))
    assert source.label_names is not None
    assert len(source.label_names) == 201
    assert source.label_names[:4] == ("void", "wall", "chair", "floor")
    labels = source.load(f"{SCENE}_000000").labels
    assert labels is not None
    assert set(np.unique(labels)) == {0, 2}
    side = expected_side(office[0])
    assert (labels[side == 1] == 2).mean() < 0.02
    assert (labels[side == 2] == 2).mean() > 0.9
    write_segments(folder, segment_of[:-1], {"office chair": [40]})
    # Another table, since meshes are kept by folder and table.
    table = read_table(tmp_path / "scannetv2-labels.combined.tsv")
    table = replace(table, class_of=table.class_of | {"new": 1})
    with pytest.raises(SourceError, match="entries, but the mesh has"):
        mesh_200(folder, table)


def test_the_200_ids() -> None:
    ids = class_ids_200()
    assert len(ids) == len(set(ids)) == 200
    assert (ids[0], ids[10], ids[11], ids[-1]) == (1, 11, 13, 1191)
    assert list(ids) == sorted(ids)


def test_ply_vertices_in_three_forms(tmp_path: Path) -> None:
    header = (
        "ply\nformat {} 1.0\ncomment made by hand\nelement vertex 2\nproperty float x\n"
        "property double y\nproperty ushort label\nelement face 0\n"
        "property list uchar int vertex_indices\nend_header\n"
    )
    path = tmp_path / "v.ply"
    rows = [(1.5, -2.0, 39), (0.25, 4.0, 1)]
    for form, order in (("binary_little_endian", "<"), ("binary_big_endian", ">")):
        kinds = [("x", order + "f4"), ("y", order + "f8"), ("label", order + "u2")]
        data = np.array(rows, dtype=kinds)
        path.write_bytes(header.format(form).encode() + data.tobytes())
        assert read_vertices(path).tolist() == rows
    path.write_text(header.format("ascii") + "1.5 -2.0 39\n0.25 4.0 1\n")
    assert read_vertices(path).tolist() == rows


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("off", "is not a PLY file"),
        (
            "ply\nformat ascii 1.0\nelement vertex 1\nproperty list uchar int x\nend_header\n",
            "not supported",
        ),
        ("ply\nformat ascii 1.0\nend_header\n", "vertices with distinct properties"),
        (
            "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nend_header\n1\n",
            "2 lines of 1",
        ),
        ("ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\na\n", "could not"),
        (
            "ply\nformat binary_little_endian 1.0\nelement vertex 9\nproperty int x\nend_header\n",
            "is truncated: expected 9 vertices",
        ),
    ],
)
def test_wrong_ply(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "wrong.ply"
    path.write_text(text)
    with pytest.raises(SourceError, match=reason):
        read_vertices(path)


def test_incomplete_scenes_are_reported(tmp_path: Path) -> None:
    write_sens(tmp_path, tiny_frames(1))
    for name in ("scene0001_00/color", "scene0002_00/color", "scene0002_00/depth", "tools"):
        (tmp_path / name).mkdir(parents=True)
    source = open_source("scannet", SourceOptions(tmp_path))
    assert source.keys() == [f"{SCENE}_000000"]
    assert left_out_by(source) == (
        ("scene0001_00", "contains neither scene0001_00.sens nor color/ and depth/"),
        ("scene0002_00", "scene0002_00: color/ and depth/ have no images of one number"),
    )


def test_folder_without_scenes(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"is a scene with NAME\.sens"):
        open_source("scannet", SourceOptions(tmp_path))
