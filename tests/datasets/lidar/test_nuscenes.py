"""Tables in the form of docs/schema_nuscenes.md of the nuscenes-devkit, around a real key frame."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lidar_checks import depth_edge_score
from nuscenes_written import write_tables

from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.lidar.nuscenes import CLASSES
from p2pkit.datasets.lidar.nuscenes_tables import table_records
from p2pkit.datasets.registry import open_source
from p2pkit.errors import FrameError, SourceError

KEY = "scene-0061_0000"
POINTS = 34688


@pytest.fixture
def root(data_root: Path, tmp_path: Path) -> Path:
    labels = np.arange(POINTS) % 4
    return write_tables(data_root / "nuscenes_sample", tmp_path / "nuscenes", labels=labels)


@pytest.mark.realdata
def test_the_chain_through_the_cars_poses_gives_the_real_transform(
    root: Path, data_root: Path
) -> None:
    source = open_source("nuscenes", SourceOptions(root))
    assert list(source.keys()) == [KEY]
    frame = source.load(KEY)
    sample = open_source("nuscenes", SourceOptions(data_root / "nuscenes_sample"))
    real = sample.load(sample.keys()[0])
    assert len(frame.views) == len(real.views) == 6
    by_camera = {view.camera: view for view in real.views}
    for view in frame.views:
        other = by_camera[view.camera]
        np.testing.assert_allclose(view.camera_from_sensor, other.camera_from_sensor, atol=1e-5)
        np.testing.assert_array_equal(view.image, other.image)
        assert view.time_offset_s == other.time_offset_s
        assert view.time_offset_s is not None
        assert -0.05 < view.time_offset_s < 0
    assert frame.world_from_sensor is not None
    np.testing.assert_allclose(frame.world_from_sensor, real.world_from_sensor, atol=1e-4)
    np.testing.assert_array_equal(frame.points, real.points)
    np.testing.assert_array_equal(frame.intensity, real.intensity)
    assert frame.sequence == "scene-0061"
    assert frame.speed_m_s == pytest.approx(10.0, abs=0.1)


@pytest.mark.realdata
def test_the_cars_motion_moves_the_cameras(root: Path) -> None:
    """The test's car drives 10 m/s; the chain without its motion is off by up to 0.4 m."""
    frame = open_source("nuscenes", SourceOptions(root)).load(KEY)
    path = root / "v1.0-mini" / "ego_pose.json"
    poses = json.loads(path.read_text())
    still = poses[0]
    path.write_text(json.dumps([still | {"token": pose["token"]} for pose in poses]))
    frozen = open_source("nuscenes", SourceOptions(root)).load(KEY)
    for view, other in zip(frame.views, frozen.views, strict=True):
        assert view.time_offset_s is not None
        apart = np.linalg.norm((view.camera_from_sensor - other.camera_from_sensor)[:3, 3])
        assert apart == pytest.approx(10 * abs(view.time_offset_s), abs=0.03)


@pytest.mark.realdata
def test_real_sample_is_aligned(data_root: Path) -> None:
    source = open_source("nuscenes", SourceOptions(data_root / "nuscenes_sample"))
    frame = source.load(source.keys()[0])
    assert frame.points is not None
    assert len(frame.points) == POINTS
    assert frame.labels is None
    scores = [[depth_edge_score(frame, view, k) for view in range(6)] for k in (-60, 0, 60)]
    assert np.argmax(np.mean(scores, axis=1)) == 1


@pytest.mark.realdata
def test_labels_become_the_16_classes(root: Path) -> None:
    source = open_source("nuscenes", SourceOptions(root))
    assert source.label_names == CLASSES
    labels = source.load(KEY).labels
    assert labels is not None
    assert [CLASSES[value] for value in labels[:4]] == [
        "void",
        "car",
        "driveable_surface",
        "pedestrian",
    ]


@pytest.mark.realdata
def test_damage_is_named(root: Path) -> None:
    source = open_source("nuscenes", SourceOptions(root))
    labels = root / "lidarseg" / "v1.0-mini" / "d_lidarseg.bin"
    labels.write_bytes(labels.read_bytes()[:-1])
    with pytest.raises(FrameError, match=f"{POINTS} points"):
        source.load(KEY)
    labels.write_bytes(b"\x09" * POINTS)
    with pytest.raises(FrameError, match=r"labels \[9\] are not indices"):
        source.load(KEY)
    sweep = next((root / "samples" / "LIDAR_TOP").iterdir())
    sweep.write_bytes(sweep.read_bytes()[:-6])
    with pytest.raises(FrameError, match="rows of 5 float32"):
        source.load(KEY)
    sweep.unlink()
    with pytest.raises(FrameError, match="does not exist"):
        source.load(KEY)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("table", "text", "reason"),
    [
        ("sample_data", "{}", "expected a list of records"),
        ("sample_data", "[1]", "expected a record that is an object, found 1"),
        ("sample_data", '[{"token": "x"}]', "sample_token is missing"),
        ("sample_data", "[{", "is not JSON at character 1"),
        ("sample_data", "[]", "name no sample"),
        ("ego_pose", "[]", "has no record 'e-LIDAR_TOP'"),
        ("scene", "[]", "do not match: KeyError"),
        ("sample_data", '[{"token": [], "sample_token": []', "is not JSON"),
        ("sensor", '[{"token": [], "channel": "CAM_FRONT"}]', "do not match: TypeError"),
        (
            "ego_pose",
            '[{"token": "e-LIDAR_TOP", "rotation": [2, 0, 0, 0], "translation": [0, 0, 0]}]',
            "has length 2",
        ),
    ],
)
def test_wrong_tables(root: Path, table: str, text: str, reason: str) -> None:
    (root / "v1.0-mini" / f"{table}.json").write_text(text)
    with pytest.raises(SourceError, match=reason):
        open_source("nuscenes", SourceOptions(root))


@pytest.mark.realdata
def test_one_version_is_needed(root: Path) -> None:
    assert list(open_source("nuscenes", SourceOptions(root / "v1.0-mini")).keys()) == [KEY]
    shutil.copytree(root / "v1.0-mini", root / "v1.0-trainval")
    with pytest.raises(SourceError, match=r"found v1\.0-mini, v1\.0-trainval"):
        open_source("nuscenes", SourceOptions(root))
    (root / "v1.0-mini" / "sample.json").unlink()
    with pytest.raises(SourceError, match=r"sample\.json does not exist"):
        open_source("nuscenes", SourceOptions(root / "v1.0-mini"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(records=st.lists(st.dictionaries(st.text(max_size=4), JSON, max_size=4), max_size=5))
@pytest.mark.parametrize("indent", [None, 0, 2])
def test_records_are_those_of_json(
    tmp_path_factory: pytest.TempPathFactory, indent: int | None, records: list
) -> None:
    path = tmp_path_factory.mktemp("table") / "t.json"
    path.write_text(json.dumps(records, indent=indent))
    assert list(table_records(path)) == records


@settings(deadline=None, max_examples=100)
@given(text=st.text(alphabet='[]{}",: \n01ab', max_size=30))
def test_any_text_gives_records_or_a_source_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(text)
    with contextlib.suppress(SourceError):
        assert all(isinstance(record, dict) for record in table_records(path))
