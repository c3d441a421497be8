"""Faults in generated rooms are found and named, and untouched rooms pass."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_recordings import FAULTS, FaultySource, not_applicable

from p2pkit.alignment.edges import BORDER_PX, Score, contrasts, edge_strength, make_looks, place
from p2pkit.alignment.poses import FramePair
from p2pkit.alignment.shifts import Misalignment
from p2pkit.alignment.significance import Evidence
from p2pkit.alignment.timing import TimeOffset
from p2pkit.alignment.verdicts import (
    Verdict,
    _judge_shift,
    _judge_time,
    judge_alignment,
    judge_each_view,
    judge_poses,
)
from p2pkit.datasets.frame import Frame, FrameSource, SourceOptions, View
from p2pkit.datasets.registry import open_source
from p2pkit.pipelines.check.frames import gather

FRAMES = 5


class Remembered:
    """Rooms that are rendered once."""

    name = "demo-scene"
    label_names: Sequence[str] | None = None
    ignore_label: int | None = None

    def __init__(self) -> None:
        source = open_source("demo-scene", SourceOptions(limit=FRAMES))
        frames = [source.load(key) for key in list(source.keys())]
        self._frames = {frame.key: replace(frame, labels=None) for frame in frames}

    def keys(self) -> Sequence[str]:
        return list(self._frames)

    def load(self, key: str) -> Frame:
        return self._frames[key]

    def fingerprint(self) -> dict[str, Any]:
        return {}


@cache
def rooms() -> FrameSource:
    return Remembered()


def verdicts(source: FrameSource, frames: int = FRAMES) -> list[Verdict]:
    found = gather(source, frames, problems=lambda frame: [])
    return [*judge_alignment(found.looks), judge_poses(found.pairs)]


def pairs_of(source: FrameSource) -> list[FramePair]:
    return gather(source, FRAMES, problems=lambda frame: []).pairs


def test_untouched_rooms_pass() -> None:
    assert [verdict.outcome for verdict in verdicts(rooms())] == ["pass"] * 4


@pytest.mark.parametrize(
    "fault",
    [
        "U/V swap",
        pytest.param("mirrored image", marks=pytest.mark.slow),
        pytest.param("intrinsics at half size, colour", marks=pytest.mark.slow),
        pytest.param("intrinsics at half size, both", marks=pytest.mark.slow),
        "extrinsic offset",
        "pose inverted",
        pytest.param("wrong axes, camera", marks=pytest.mark.slow),
        pytest.param("wrong axes, pose", marks=pytest.mark.slow),
        pytest.param("stale calibration, 2° about y", marks=pytest.mark.slow),
        pytest.param("images one frame late", marks=pytest.mark.slow),
        "images half a frame late",
        "depth scale × 5",
    ],
)
def test_a_fault_is_found_and_named(fault: str) -> None:
    change, names = FAULTS[fault]
    assert not_applicable(fault, rooms().load(rooms().keys()[0]), FRAMES) is None
    failed = [v for v in verdicts(FaultySource(rooms(), change)) if v.outcome == "fail"]
    assert any(verdict.fault in names for verdict in failed), failed


def test_images_without_texture_give_no_verdict() -> None:
    def grey(source: FrameSource, frame: Frame) -> Frame:
        flat: View = replace(frame.views[0], image=np.full_like(frame.views[0].image, 90))
        return replace(frame, views=(flat,), world_from_sensor=None)

    found = verdicts(FaultySource(rooms(), grey), 4)
    assert [verdict.outcome for verdict in found] == ["cannot tell"] * 4


@pytest.mark.parametrize(("p", "outcome"), [(1e-6, "fail"), (0.2, "cannot tell")])
def test_a_better_place_far_away_is_never_a_pass(p: float, outcome: str) -> None:
    """Sure or not: the declared calibration does not pass while another fits better elsewhere."""
    strong = Score(np.linspace(9.0, 11.0, 40), np.full(40, 50.0))
    better = Score(np.linspace(12.0, 14.0, 40), np.full(40, 50.0))
    moved = Misalignment(
        turn_deg=(0.0, 2.0, 0.0),
        image_scale=1.0,
        shift_m=(0.0, 0.0, 0.0),
        displacement=0.048,
        evidence=Evidence(better.mean - strong.mean, 3.0, p),
        found=better,
    )
    looks = gather(rooms(), 1, problems=lambda frame: []).looks
    found = _judge_shift(looks, strong, moved)
    assert found.outcome == outcome
    assert _judge_shift(looks, strong, moved._replace(displacement=0.001)).outcome == "pass"


@pytest.mark.parametrize(
    ("images", "displacement", "outcome"),
    [
        (1, 0.031, "fail"),
        (1, 0.029, "cannot tell"),
        (4, 0.016, "fail"),
        (4, 0.014, "cannot tell"),
        (4, 0.007, "pass"),
        (16, 0.008, "fail"),
        (64, 0.008, "fail"),
        (64, 0.007, "pass"),
    ],
)
def test_few_images_fail_by_more(images: int, displacement: float, outcome: str) -> None:
    """0.75 % of the width times the root of 16 / images; each image has a little of its own."""
    strong = Score(np.linspace(9.0, 11.0, 40), np.full(40, 50.0))
    better = Score(np.linspace(12.0, 14.0, 40), np.full(40, 50.0))
    sure = Evidence(better.mean - strong.mean, 9.0, 1e-6)
    moved = Misalignment((0.0, 0.5, 0.0), 1.0, (0.0, 0.0, 0.0), displacement, sure, better)
    [look] = gather(rooms(), 1, problems=lambda frame: []).looks
    assert _judge_shift([look] * images, strong, moved).outcome == outcome
    late = TimeOffset(0.5, None, displacement, 1.0, sure, better)
    assert _judge_time(images, strong, late).outcome == outcome


@pytest.mark.parametrize(
    ("declared", "scale", "fault"),
    [
        ("registered", 0.95, "colour is not registered to depth"),
        ("registered", 0.975, "stale calibration"),
        ("moved", 0.95, "wrong focal length"),
        ("another camera", 0.95, "wrong focal length"),
        ("another camera", 1.15, "wrong focal length"),
        ("points", 0.95, "stale calibration"),
        ("points", 1.15, "wrong focal length"),
    ],
)
def test_only_colour_declared_as_registered_can_be_unregistered(
    declared: str, scale: float, fault: str
) -> None:
    strong = Score(np.linspace(9.0, 11.0, 40), np.full(40, 50.0))
    better = Score(np.linspace(12.0, 14.0, 40), np.full(40, 50.0))
    sure = Evidence(better.mean - strong.mean, 9.0, 1e-6)
    moved = Misalignment((0.0, 0.0, 0.0), scale, (0.0, 0.0, 0.0), 0.1, sure, better)
    [look] = gather(rooms(), 1, problems=lambda frame: []).looks
    assert look.depth_camera is not None
    beside = np.eye(4)
    beside[0, 3] = 0.025
    wider = replace(look.depth_camera, fx=0.9 * look.camera.fx)
    look = {
        "registered": look,
        "moved": look._replace(camera_from_sensor=beside),
        "another camera": look._replace(depth_camera=wider),
        "points": look._replace(depth_camera=None),
    }[declared]
    assert _judge_shift([look] * 16, strong, moved).fault == fault


@pytest.mark.realdata
@pytest.mark.parametrize("fault", ["pose inverted", "depth scale × 5", "depth scale × 1.25"])
def test_five_frames_are_enough_for_faults_of_poses_and_units(fault: str, data_root: Path) -> None:
    source = open_source("posed-rgbd", SourceOptions(root=data_root / "slambook2_office"))
    assert judge_poses(pairs_of(source)).outcome == "pass"
    change, names = FAULTS[fault]
    found = judge_poses(pairs_of(FaultySource(source, change)))
    assert found.outcome == "fail"
    assert found.fault in names


def test_a_pose_that_fits_badly_without_a_sure_reason_is_no_pass() -> None:
    change, _ = FAULTS["depth scale × 5"]
    pair = pairs_of(FaultySource(rooms(), change))[:1]
    # A strip of one part of one pair: too little to be sure by.
    one = pair[0].one
    strip = one._replace(points=one.points[one.points[:, 0] < np.quantile(one.points[:, 0], 0.2)])
    found = judge_poses([pair[0]._replace(one=strip)])
    assert found.outcome == "cannot tell"
    assert "wrong depth scale" in found.reason
    assert "too few to be sure" in found.reason


def test_a_sure_time_is_told_in_milliseconds() -> None:
    def moving(source: FrameSource, frame: Frame) -> Frame:
        keys = list(source.keys())
        number = keys.index(frame.key)
        late = FAULTS["images half a frame late"][0](source, frame)
        other = source.load(keys[number + 1 if number + 1 < len(keys) else number - 1])
        assert frame.world_from_sensor is not None
        assert other.world_from_sensor is not None
        way = np.linalg.norm((other.world_from_sensor - frame.world_from_sensor)[:3, 3])
        return replace(late, speed_m_s=float(way / 0.2))

    time = {test.test: test for test in verdicts(FaultySource(rooms(), moving))}["time test"]
    assert time.outcome == "fail"
    assert 50 < time.figures["milliseconds"] < 150
    assert "ms, " in time.reason


def test_pixels_without_content_are_not_scored() -> None:
    """Undistortion leaves a black border, whose edge is none of the scene's."""
    frame = rooms().load(rooms().keys()[0])
    view = frame.views[0]
    valid = np.zeros(view.image.shape[:2], bool)
    valid[40:-40, 60:-60] = True
    image = np.where(valid[..., None], view.image, 0).astype(np.uint8)
    strength = edge_strength(image, valid)
    assert np.isnan(strength[:, :40]).all()
    assert np.isnan(strength[:, 40 : 40 + BORDER_PX]).all()
    inside = np.isfinite(strength)
    assert 0.5 * valid.mean() < inside.mean() < valid.mean()
    assert (edge_strength(image)[:, 38:42, 60:-60] > 0.9).mean() > 0.4
    look = make_looks(0, replace(frame, views=(replace(view, image=image, valid=valid),)))[0]
    found = contrasts(look, place(look))
    all_of_it = contrasts(look._replace(strength=edge_strength(image)), place(look))
    assert 0 < np.isfinite(found).sum() < np.isfinite(all_of_it).sum()
    assert (np.abs(found[np.isfinite(found)]) <= 1).all()


@pytest.mark.slow
@pytest.mark.realdata
def test_the_one_bad_camera_of_a_rig_is_named(data_root: Path) -> None:
    def two_views(source: FrameSource, frame: Frame) -> Frame:
        return replace(frame, views=frame.views[:2])

    recording = open_source("pandaset", SourceOptions(root=data_root / "pandaset"))
    source = FaultySource(recording, two_views)
    change, names = FAULTS["one of the cameras turned by 2° about y"]
    clean, wrong = (
        judge_each_view(gather(one, 8, problems=lambda frame: []).looks)
        for one in (source, FaultySource(source, change))
    )
    assert clean is not None
    assert clean.outcome != "fail"
    assert wrong is not None
    assert wrong.outcome == "fail"
    assert wrong.fault in names
    assert wrong.reason.startswith("views 1 fail on their own")


REAL = {
    "7scenes_redkitchen": "posed-rgbd",
    "tum_fr3_cabinet": "posed-rgbd",
    "kitti_object": "kitti-object",
    "nuscenes_sample": "nuscenes",
    "pandaset": "pandaset",
}
REAL_FAULTS = {
    "7scenes_redkitchen": "colour unregistered",
    "tum_fr3_cabinet": "pose inverted",
    "kitti_object": "mirrored image",
    "nuscenes_sample": "stale calibration, 2° about y",
    "pandaset": "intrinsics at half size, colour",
}


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("folder", REAL)
def test_real_recordings_pass_and_one_fault_in_each_is_named(folder: str, data_root: Path) -> None:
    """benchmarks/check_faults.py has all faults; docs/check.md its table."""
    limit, frames = (2, 2) if folder == "pandaset" else (12, 8)
    source = open_source(REAL[folder], SourceOptions(root=data_root / folder, limit=limit))
    clean = verdicts(source, frames)
    assert all(verdict.outcome != "fail" for verdict in clean), clean
    assert clean[0].outcome == "pass"
    change, names = FAULTS[REAL_FAULTS[folder]]
    failed = [v for v in verdicts(FaultySource(source, change), frames) if v.outcome == "fail"]
    assert any(verdict.fault in names for verdict in failed), failed
