"""p2pkit check: files, exit codes, and what it says of sources and stores."""

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_recording import NAMES
from tiny_sweeps import write_sweeps

from p2pkit.cli.commands.check import check
from p2pkit.datasets.frame import Frame, SourceOptions
from p2pkit.datasets.registry import SWEEP_NEAR_LIMIT_M, SWEEP_VOXEL_M, open_source
from p2pkit.errors import ConfigError, FrameError
from p2pkit.layers.geometry import GeometryConfig, encode_geometry
from p2pkit.pipelines.check.fields import field_problems
from p2pkit.pipelines.check.frames import Gathered
from p2pkit.pipelines.check.run import CheckConfig, _judge_coverage, _Visit, check_source, run
from p2pkit.pipelines.check.statistics import PairStatistics
from p2pkit.pipelines.check.stored import judge_stored_pairs


@pytest.fixture(scope="module")
def frame(room_recording: Path) -> Frame:
    source = open_source("posed-rgbd", SourceOptions(root=room_recording))
    return source.load(source.keys()[0])


def as_points(frame: Frame) -> Frame:
    """The depth frame as a LiDAR frame of two views."""
    from p2pkit.geometry.backproject import back_project

    depth = frame.depth
    assert depth is not None
    found = back_project(depth.values, depth.camera, units_per_metre=depth.units_per_metre)
    return replace(
        frame, depth=None, labels=None, points=found.points, views=(frame.views[0], frame.views[0])
    )


def forced(value: Any, **changes: Any) -> Any:
    """A copy with other fields, past the checks of shapes that only tests have."""
    changed = copy.copy(value)
    for name, content in changes.items():
        object.__setattr__(changed, name, content)
    return changed


def with_view(frame: Frame, **changes: Any) -> Frame:
    return forced(frame, views=(forced(frame.views[0], **changes), *frame.views[1:]))


def points_with(frame: Frame, **values: float) -> Frame:
    """The points with one value for all in some of their fields."""
    points = as_points(frame)
    assert points.points is not None
    count = len(points.points)
    arrays: Any = {name: np.full(count, value, np.float32) for name, value in values.items()}
    return replace(points, **arrays)


def labelled(frame: Frame, largest: int) -> Frame:
    assert frame.depth is not None
    labels = np.zeros(frame.depth.values.shape, np.uint8)
    labels[0, 0] = largest
    return replace(frame, labels=labels)


class Single:
    """A source of given frames; None stands for one that cannot be read."""

    name = "single"
    label_names: Sequence[str] | None = NAMES
    ignore_label: int | None = None

    def __init__(self, frames: dict[str, Frame | None]) -> None:
        self._frames = frames

    def keys(self) -> Sequence[str]:
        return list(self._frames)

    def load(self, key: str) -> Frame:
        frame = self._frames[key]
        if frame is None:
            raise FrameError(key, "its image is cut off")
        return frame

    def fingerprint(self) -> dict[str, Any]:
        return {}


def test_a_recording_gives_json_page_and_overlays(room_recording: Path, tmp_path: Path) -> None:
    arguments = [str(room_recording), "--dataset", "posed-rgbd", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(check, [*arguments, "--frames", "3"])
    report = json.loads((tmp_path / "out" / "check.json").read_text())
    assert result.exit_code == (1 if report["outcome"] == "fail" else 0)
    assert [test["test"] for test in report["tests"]] == [
        "fields",
        "coverage",
        "edge alignment",
        "shift test",
        "time test",
        "depth agreement",
    ]
    assert report["tests"][0]["outcome"] == report["tests"][1]["outcome"] == "pass"
    assert len(list((tmp_path / "out" / "overlays").glob("*.png"))) == 3
    page = (tmp_path / "out" / "check.html").read_text()
    assert page.count("data:image/webp") == 1 + 3  # the first one also stands on top
    assert 'src="http' not in page
    assert "turn about z" in page
    assert "depth agreement" in result.output
    assert "earlier result" not in result.stderr
    (tmp_path / "out" / "overlays" / "note-view0.png").touch()
    again = CliRunner().invoke(check, [*arguments, "--frames", "1"])
    left = {path.stem for path in (tmp_path / "out" / "overlays").iterdir()}
    assert len(left) == 2
    assert "note-view0" in left
    assert (
        f"Replacing the earlier result in {tmp_path / 'out'}; name another --out to keep both"
        in again.stderr
    )


def test_a_store_is_checked_by_its_own_fields(room_store: Path, tmp_path: Path) -> None:
    report = run(CheckConfig(source=room_store, out=tmp_path / "out", frames=3))
    by_name = {verdict.test: verdict for verdict in report.verdicts}
    assert by_name["stored pairs"].outcome == "pass"
    assert by_name["coverage"].outcome == "pass"
    assert not list((tmp_path / "out" / "overlays").iterdir())
    assert "A store keeps no images" in (tmp_path / "out" / "check.html").read_text()


def test_a_folder_without_a_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--dataset"):
        run(CheckConfig(source=tmp_path, out=tmp_path / "out"))
    with pytest.raises(ConfigError, match="at least 1"):
        CheckConfig(source=tmp_path, out=tmp_path, frames=0)


def test_bad_frames_fail_the_fields_with_key_and_field(frame: Frame, tmp_path: Path) -> None:
    image = frame.views[0].image
    wrong = replace(frame, key="b", views=(replace(frame.views[0], image=image[:-1]),))
    source = Single({"a": frame, "b": wrong, "c": None})
    report = check_source(source, CheckConfig(source=None, out=tmp_path, frames=3))
    assert not report.ok
    problems = report.verdicts[0].figures["problems"]
    assert any("b: views[0].image is uint8 (47, 64, 3)" in problem for problem in problems)
    assert any("its image is cut off" in problem for problem in problems)


def test_a_recording_of_bad_frames_is_not_called_a_store(tmp_path: Path) -> None:
    report = check_source(Single({"a": None}), CheckConfig(source=None, out=tmp_path))
    edges = {verdict.test: verdict for verdict in report.verdicts}["edge alignment"]
    assert (edges.outcome, edges.reason) == ("cannot tell", "no frame could be read")


def test_cameras_that_see_nothing_fail_the_coverage(frame: Frame, tmp_path: Path) -> None:
    behind = np.diag([1.0, -1.0, -1.0, 1.0])
    blind = replace(frame, views=(replace(frame.views[0], camera_from_sensor=behind),))
    report = check_source(Single({"a": blind}), CheckConfig(source=None, out=tmp_path))
    coverage = {verdict.test: verdict for verdict in report.verdicts}["coverage"]
    assert coverage.outcome == "fail"
    assert "color_from_depth" in coverage.reason


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda f: replace(f, key="a/b"), "key"),
        (lambda f: replace(f, views=()), "views"),
        (lambda f: replace(f, depth=None), "exactly one"),
        (lambda f: replace(f, world_from_sensor=2 * np.eye(4)), "world_from_sensor"),
        (lambda f: replace(f, labels=np.zeros((3, 3), np.uint8)), "labels"),
        (lambda f: replace(f, depth=replace(f.depth, units_per_metre=0.0)), "units_per_metre"),
        (lambda f: replace(as_points(f), points=np.zeros((0, 3), np.float32)), "points"),
        (lambda f: replace(as_points(f), points=np.full((9, 3), np.nan, np.float32)), "points"),
        (lambda f: forced(f, world_from_sensor=np.eye(4)[:3]), "world_from_sensor has shape"),
        (lambda f: replace(f, world_from_sensor=np.full((4, 4), np.nan)), "NaN or infinity"),
        (
            lambda f: with_view(f, image=f.views[0].image[..., 0]),
            "views[0].image is uint8 (48, 64)",
        ),
        (lambda f: with_view(f, image=f.views[0].image / 255.0), "views[0].image is float64"),
        (lambda f: with_view(f, image=None), "views[0].image is a NoneType"),
        (lambda f: with_view(f, valid=np.ones((2, 2), np.bool_)), "views[0].valid"),
        (lambda f: with_view(f, sees=np.ones(3, np.bool_)), "views[0].sees is given"),
        (
            lambda f: with_view(as_points(f), sees=np.ones(3, np.bool_)),
            "views[0].sees is bool (3,)",
        ),
        (lambda f: with_view(f, time_offset_s=np.nan), "views[0].time_offset_s"),
        (lambda f: replace(f, speed_m_s=-1.0), "speed_m_s is -1.0"),
        (lambda f: replace(f, intensity=np.zeros(3, np.float32)), "belong to points"),
        (lambda f: points_with(f, intensity=255.0), "intensity is 255 to 255"),
        (lambda f: points_with(f, point_time_s=1.6e9), "point_time_s is 1.6e+09"),
        (
            lambda f: forced(as_points(f), intensity=np.zeros(3, np.float32)),
            "intensity is float32",
        ),
        (lambda f: labelled(f, 4), "labels holds 4; label_names has names for 0 to 3"),
    ],
)
def test_each_wrong_field_is_named(change: Any, named: str, frame: Frame) -> None:
    assert field_problems(frame, NAMES) == []
    assert any(named in problem for problem in field_problems(change(frame), NAMES))


def test_labels_without_names_are_told(frame: Frame) -> None:
    assert field_problems(labelled(frame, 2), NAMES) == []
    assert any("label_names is None" in problem for problem in field_problems(labelled(frame, 2)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda f: replace(f, depth=None), "exactly one of depth and points"),
        (lambda f: forced(f, world_from_sensor=np.eye(4)[:3]), "expected a 4 x 4 rigid transform"),
        (lambda f: with_view(f, image=f.views[0].image[..., 0]), "expected uint8 (48, 64, 3)"),
    ],
)
def test_a_malformed_frame_is_a_verdict_and_no_traceback(
    change: Any, named: str, frame: Frame, tmp_path: Path
) -> None:
    source = Single({"a": frame, "b": change(replace(frame, key="b"))})
    report = check_source(source, CheckConfig(source=None, out=tmp_path))
    assert report.verdicts[0].outcome == "fail"
    assert "b: " in report.verdicts[0].reason
    assert named in report.verdicts[0].reason


def test_a_last_view_that_sees_nothing_is_named(frame: Frame, tmp_path: Path) -> None:
    points = as_points(frame)
    behind = replace(points.views[1], camera_from_sensor=np.diag([1.0, -1.0, -1.0, 1.0]))
    source = Single({"a": replace(points, views=(points.views[0], behind))})
    report = check_source(source, CheckConfig(source=None, out=tmp_path))
    coverage = {verdict.test: verdict for verdict in report.verdicts}["coverage"]
    assert coverage.outcome == "fail"
    assert "views [1] see no point" in coverage.reason


def test_a_blind_view_is_named_also_beside_a_frame_without_pairs(frame: Frame) -> None:
    points = as_points(frame)
    behind = replace(points.views[1], camera_from_sensor=np.diag([1.0, -1.0, -1.0, 1.0]))
    visit = _Visit(PairStatistics(), overlays_of=0)
    for views in ((points.views[0], behind), (points.views[0], behind), (behind, behind)):
        visit(replace(points, views=views))
    coverage = _judge_coverage(visit, Gathered(["a", "b", "c"], [], [], []))
    assert coverage.outcome == "fail"
    assert "1 frame without any, such as " in coverage.reason
    assert coverage.reason.endswith("; views [1] see no point")


@pytest.mark.parametrize("fault", ["u and v are swapped", "the image is mirrored", ""])
def test_stored_pairs_that_leave_their_calibration_fail(fault: str, frame: Frame) -> None:
    sample = encode_geometry(as_points(frame), GeometryConfig())
    assert judge_stored_pairs([sample]).outcome == "pass"
    uv = sample.arrays["pair_uv"]
    changed = {
        "u and v are swapped": uv[:, ::-1].copy(),
        "the image is mirrored": np.stack([63 - uv[:, 0], uv[:, 1]], axis=1),
        "": uv + np.float32(3),
    }[fault]
    verdict = judge_stored_pairs([replace(sample, arrays={**sample.arrays, "pair_uv": changed})])
    assert (verdict.outcome, verdict.fault) == ("fail", fault)


def test_statistics_count_pairs_per_voxel_cell_and_view(frame: Frame) -> None:
    statistics = PairStatistics()
    statistics.add_frame(as_points(frame))
    found = statistics.to_json()
    assert found["frames"] == 1
    assert found["pairs_by_view"][0] == found["pairs_by_view"][1] > 0
    assert 0.85 < found["covered"] <= 1
    assert found["pairs_per_cell"] == pytest.approx(statistics.pairs / 8, rel=0.01)
    assert found["pairs_per_voxel"] >= 2
    for name in ("depth", "range", "confidence"):
        assert sum(row["share"] for row in found[f"{name}_histogram"]) == pytest.approx(1)


def test_points_are_counted_as_an_extraction_keeps_them(tmp_path: Path) -> None:
    """With the voxels and the near limit of the dataset, here those of sweeps."""
    root = write_sweeps(tmp_path / "drive", sequences=1)
    source = open_source("kitti-odometry", SourceOptions(root))
    frames = [source.load(key) for key in source.keys()]  # noqa: SIM118
    config = CheckConfig(source=root, dataset="kitti-odometry", out=tmp_path / "check")
    check_source(source, config)
    written = json.loads((tmp_path / "check" / "check.json").read_text())
    counted = written["statistics"]["points_per_frame"]
    usual = GeometryConfig(voxel_size=SWEEP_VOXEL_M, near_limit=SWEEP_NEAR_LIMIT_M)
    kept = [
        [len(encode_geometry(frame, geometry).arrays["points"]) for frame in frames]
        for geometry in (usual, GeometryConfig())
    ]
    assert counted == np.mean(kept[0])
    assert counted < np.mean(kept[1])
