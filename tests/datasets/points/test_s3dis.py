"""S3DIS rooms as published; the real data set is not at hand, so these files are written here."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from s3dis_written import NUMBERS_OF, write_room, write_rooms, write_rows

from p2pkit.datasets.frame import Frame, FrameSource, SourceOptions
from p2pkit.datasets.left_out import left_out_by
from p2pkit.datasets.points.point_text import read_rows
from p2pkit.datasets.registry import open_source
from p2pkit.errors import FrameError, SourceError
from p2pkit.geometry.transforms import transform_points
from p2pkit.layers.geometry import GeometryConfig, decode_geometry, encode_geometry
from p2pkit.pipelines.check.fields import field_problems

ROOMS = ("Area_1/office_1", "Area_5/hallway_6", "Area_5/office_1")
KEY = "Area_5_hallway_6"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_rooms(tmp_path / "Stanford3dDataset_v1.2_Aligned_Version", ROOMS)


def annotations(root: Path) -> Path:
    return root / "Area_5" / "hallway_6" / "Annotations"


def load(root: Path, key: str = KEY) -> Frame:
    return open_source("s3dis", SourceOptions(root)).load(key)


def labels_of(frame: Frame) -> np.ndarray:
    assert frame.labels is not None
    return frame.labels


def test_rooms_of_a_data_set_an_area_or_one(root: Path) -> None:
    source = open_source("s3dis", SourceOptions(root))
    assert isinstance(source, FrameSource)
    assert source.keys() == ["Area_1_office_1", KEY, "Area_5_office_1"]
    assert source.label_names is not None
    assert (len(source.label_names), source.ignore_label) == (14, 0)
    area = open_source("s3dis", SourceOptions(root / "Area_5"))
    assert area.keys() == [KEY, "Area_5_office_1"]
    room = open_source("s3dis", SourceOptions(root / "Area_5" / "office_1"))
    assert room.keys() == ["Area_5_office_1"]
    assert np.array_equal(load(root).points, area.load(KEY).points)


def test_a_room_is_level_and_its_pose_leads_back(root: Path) -> None:
    frame = load(root)
    assert frame.points is not None
    assert frame.world_from_sensor is not None
    assert field_problems(frame, open_source("s3dis", SourceOptions(root)).label_names) == []
    low, high = frame.points.min(axis=0), frame.points.max(axis=0)
    np.testing.assert_allclose(low[:2] + high[:2], 0, atol=1e-5)
    assert low[2] == 0
    assert (frame.points[labels_of(frame) == NUMBERS_OF["floor"], 2] < 0.01).all()
    assert (frame.points[labels_of(frame) == NUMBERS_OF["ceiling"], 2] > 2.4).all()
    published = np.concatenate(
        [np.loadtxt(path)[:, :3] for path in sorted(annotations(root).glob("*.txt"))]
    )
    back = transform_points(frame.world_from_sensor, frame.points)
    np.testing.assert_allclose(back, published, atol=1e-5)
    assert (frame.views, frame.sequence) == ((), KEY)


def test_colours_and_classes_are_those_of_the_files(root: Path) -> None:
    frame = load(root)
    assert frame.colors is not None
    assert np.array_equal(frame.colors // 18, np.repeat(labels_of(frame)[:, None], 3, axis=1))
    assert set(labels_of(frame).tolist()) == {
        NUMBERS_OF[name] for name in ("floor", "ceiling", "wall", "table", "chair")
    }


@pytest.mark.parametrize("spelling", sorted(NUMBERS_OF))
def test_every_spelling_has_its_class(tmp_path: Path, spelling: str) -> None:
    folder = tmp_path / "Area_3" / "lounge_1"
    write_rows(folder / "Annotations" / f"{spelling}_12.txt", np.ones((3, 6)))
    frame = load(tmp_path, "Area_3_lounge_1")
    assert labels_of(frame).tolist() == 3 * [NUMBERS_OF[spelling]]
    names = open_source("s3dis", SourceOptions(tmp_path)).label_names
    assert names is not None
    assert names[NUMBERS_OF[spelling]] == ("clutter" if spelling == "stairs" else spelling)


def test_other_names_are_void_and_copies_are_left_out(root: Path) -> None:
    before = load(root)
    write_rows(annotations(root) / "wall_3 (1).txt", np.ones((5, 6)))
    (annotations(root) / "Icon\r").write_bytes(b"")
    (annotations(root) / ".DS_Store").write_bytes(b"\0\1")
    assert len(labels_of(load(root))) == len(labels_of(before))
    write_rows(annotations(root) / "plant_1.txt", np.array([[11, -19, 1, 9, 9, 9.0]]))
    after = labels_of(load(root))
    assert np.count_nonzero(after == 0) == 1
    assert len(after) == len(labels_of(before)) + 1


def test_line_ends_and_blank_lines_do_not_matter(root: Path, tmp_path: Path) -> None:
    other = write_rooms(tmp_path / "crlf", ROOMS, end="\r\n")
    floor = annotations(other) / "floor_1.txt"
    floor.write_bytes(b"\r\n" + floor.read_bytes() + b"\r\n\r\n")
    here, there = load(root), load(other)
    assert np.array_equal(here.points, there.points)
    assert np.array_equal(here.colors, there.colors)
    assert np.array_equal(here.labels, there.labels)


@pytest.mark.parametrize("stray", [b"\x10", b"\x00", b"\x0b", b"\x85", b"\xa0", b"\xff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_stray_character_of_the_public_file_is_mended(
    root: Path, stray: bytes, end: str
) -> None:
    path = annotations(root) / "ceiling_1.txt"
    write_rows(path, np.array([[22.35, 6.692, 3.048, 185, 187, 182]]), end=end)
    path.write_bytes(path.read_bytes().replace(b"185 187", b"185" + stray + b"187"))
    rows = read_rows(path, KEY, 6)
    np.testing.assert_allclose(rows, [[22.35, 6.692, 3.048, 185, 187, 182]], rtol=1e-6)
    assert labels_of(load(root)).tolist().count(NUMBERS_OF["ceiling"]) == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "1 2 3 4 5",
            r"hallway_6/Annotations/chair_1\.txt, line 3, is '1 2 3 4 5'; expected 6 numbers",
        ),
        ("1 2 3 4 5 6 7", "line 3, is '1 2 3 4 5 6 7'"),
        ("1 2 three 4 5 6", "line 3"),
        ("1 2 3 4 5 1_0", "line 3"),
        ("# 2 3 4 5 6", "line 3"),
        ("1 nan 3 4 5 6", "row 2 contains NaN or infinity"),
        ("1 2 3 4 5 256", r"row 2 has the colour \[4.0, 5.0, 256.0\]; expected 0 to 255"),
        ("1 2 3 -1 5 6", "row 2 has the colour"),
    ],
)
def test_a_wrong_line_is_named(root: Path, line: str, reason: str) -> None:
    path = annotations(root) / "chair_1.txt"
    path.write_text(f"1 2 3 4 5 6\n\n{line}\n1 2 3 4 5 6\n")
    with pytest.raises(FrameError, match=reason):
        load(root)


def test_empty_and_missing_files(root: Path) -> None:
    source = open_source("s3dis", SourceOptions(root))
    (annotations(root) / "chair_1.txt").write_text("\n")
    with pytest.raises(FrameError, match=r"chair_1\.txt is empty; expected rows of 6 numbers"):
        source.load(KEY)
    (annotations(root) / "chair_1.txt").unlink()
    with pytest.raises(FrameError, match=r"chair_1\.txt cannot be read"):
        source.load(KEY)


def test_folders_that_are_no_rooms(root: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="contains no Area_N/ROOM/Annotations"):
        open_source("s3dis", SourceOptions(tmp_path / "Stanford3dDataset_v1.2_Aligned_Version/.."))
    write_room(tmp_path / "elsewhere" / "office_1", np.zeros(3))
    with pytest.raises(SourceError, match="is not in a folder Area_N"):
        open_source("s3dis", SourceOptions(tmp_path / "elsewhere" / "office_1"))
    (root / "Area_5" / "empty_1" / "Annotations").mkdir(parents=True)
    (part,) = left_out_by(open_source("s3dis", SourceOptions(root)))
    assert part.name == "empty_1"
    assert "contains no file such as chair_1.txt" in part.reason
    with pytest.raises(SourceError, match=r"contains no file such as chair_1\.txt"):
        open_source("s3dis", SourceOptions(root / "Area_5" / "empty_1"))


def test_points_come_back_from_a_store_with_their_own_colours(root: Path) -> None:
    frame = load(root)
    cloud = decode_geometry(encode_geometry(frame, GeometryConfig(voxel_size=0.0)))
    assert np.array_equal(cloud.points, frame.points)
    assert np.array_equal(cloud.colors, frame.colors)
    assert np.array_equal(cloud.labels, frame.labels)
    assert (len(cloud.pair_point), cloud.pair_uv.shape, cloud.image_sizes) == (0, (0, 2), ())
    with pytest.raises(FrameError, match="neither views nor colours"):
        encode_geometry(Frame(KEY, (), points=frame.points), GeometryConfig())


def test_another_list_of_files_is_another_fingerprint(root: Path) -> None:
    before = open_source("s3dis", SourceOptions(root)).fingerprint()
    write_rows(annotations(root) / "chair_2.txt", np.ones((1, 6)))
    after = open_source("s3dis", SourceOptions(root)).fingerprint()
    assert before["frame_list"] != after["frame_list"]
    assert {**before, "frame_list": 0} == {**after, "frame_list": 0}


@settings(deadline=None, max_examples=80)
@given(text=st.text(alphabet="0123456789.-e \t\r\n\x10\xa0n#_", max_size=60))
def test_any_text_gives_finite_rows_or_a_frame_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any_1.txt"
    path.write_bytes(text.encode("latin-1"))
    with contextlib.suppress(FrameError):
        rows = read_rows(path, KEY, 6)
        assert rows.shape[1] == 6
        assert np.isfinite(rows).all()
