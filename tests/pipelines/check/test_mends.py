"""What `p2pkit check` says to change, and that the change mends the fault."""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import p2pkit
from demo_recording import write_demo_recording
from faulty_recordings import OPENGL

from p2pkit import open_store
from p2pkit.alignment.verdicts import Verdict
from p2pkit.alignment.wrong_calibrations import axis_names
from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.pipelines.check.mends import Declared, mends
from p2pkit.pipelines.check.run import _declared, _Visit
from p2pkit.pipelines.check.statistics import PairStatistics
from p2pkit.pipelines.check.stored import StoreSource
from p2pkit.pipelines.shards.merge import MergeConfig, merge_stores
from p2pkit.store.reading import Store

POSED = Declared(1000.0, 2.0, {"pose": "world_from_color"}, is_store=False)
OTHER = Declared(5000.0, 2.0, {}, is_store=False)
SWEEPS = Declared(None, None, {}, is_store=False)
FUSED = Declared(None, None, {}, is_store=False, takes_units=True)
GL = axis_names(OPENGL)
FRAMES = 3


def failed(fault: str, detail: str) -> Verdict:
    figures = {"better": [{"fault": fault, "detail": detail, "score": 0.5}]}
    return Verdict("depth agreement", "fail", "…", fault, figures)


@pytest.mark.parametrize(
    ("fault", "detail", "declared", "mend"),
    [
        ("wrong depth scale", "multiply the depth by 0.2", POSED, "give --depth-units 5000"),
        ("wrong depth scale", "multiply the points by 5", OTHER, "give --depth-units 1000"),
        (
            "wrong depth scale",
            "multiply the depth by 1000",
            POSED,
            "divide the translations of the poses by 1000: the depth, 2 m in the median,",
        ),
        ("wrong depth scale", "multiply the points by 5", SWEEPS, "multiply the points by 5 in"),
        (
            "wrong depth scale",
            "multiply the depth by 0.2",
            FUSED,
            "give --depth-units, 5 times the units per metre of the recording",
        ),
        (
            "wrong axes of the poses",
            f"the sensor's axes in the poses are {GL}",
            POSED,
            'write "pose_axes": "opengl" in camera.json',
        ),
        (
            "wrong axes of the poses",
            f"the sensor's axes in the poses are {GL}",
            POSED._replace(camera_json={"pose_axes": "opengl"}),
            'write "pose_axes": "opencv" in camera.json',
        ),
        (
            "wrong axes of the poses",
            f"the sensor's axes in the poses are {GL}",
            OTHER,
            "multiply the reader's world_from_sensor by diag(1, -1, -1, 1) on the right",
        ),
        ("the poses are inverted", "invert them", POSED, 'write "pose": "color_from_world"'),
        ("the poses are inverted", "invert them", OTHER, "invert the reader's poses"),
        (
            "wrong axes",
            f"the camera's axes are {GL}",
            POSED,
            "multiply color_from_depth in camera.json by diag(1, -1, -1, 1) on the left",
        ),
        ("u and v are swapped", "the image is transposed", OTHER, "transpose the colour images"),
        ("u and v are swapped", "the pixels of the pairs are", OTHER, "(u, v), the column first"),
    ],
)
def test_the_mend_of_a_fault(fault: str, detail: str, declared: Declared, mend: str) -> None:
    (found,) = mends([failed(fault, detail)], declared)
    assert mend in found
    assert found.endswith("; then check again")
    (of_store,) = mends([failed(fault, detail)], declared._replace(is_store=True))
    assert of_store.endswith("; then extract into a new store")


def test_a_fault_is_mended_once_and_a_doubt_not_at_all() -> None:
    fault = failed("wrong depth scale", "multiply the depth by 0.2")
    assert len(mends([fault, fault], POSED)) == 1
    doubt = Verdict("depth agreement", "cannot tell", "…", "", fault.figures)
    assert mends([doubt, failed("the image is mirrored", "mirror it")], POSED) == []


def renamed(store: Store, dataset: dict[str, Any]) -> Store:
    """The store as if it had been extracted from another dataset."""
    other = copy.copy(store)
    other.manifest = replace(store.manifest, dataset=dataset)
    return other


def declared(store: Store) -> Declared:
    source = StoreSource(store)
    frame = source.load(source.keys()[0])
    visit = _Visit(PairStatistics(), overlays_of=0)
    if frame.depth is not None:
        visit.units_per_metre.add(frame.depth.units_per_metre)
    return _declared(source, visit, store)


@pytest.mark.parametrize(
    ("name", "units", "takes_units"),
    [
        ("posed-rgbd", 1000.0, True),
        ("redwood+tum", 1000.0, True),
        ("demo-scene", None, False),
        ("own", None, False),
    ],
)
def test_the_units_of_a_store_are_those_of_its_recording(
    name: str, units: float | None, takes_units: bool, room_store: Path
) -> None:
    store = open_store(room_store)
    found = declared(renamed(store, store.manifest.dataset | {"dataset": name}))
    assert (found.units_per_metre, found.takes_units, found.is_store) == (units, takes_units, True)
    assert found.camera_json.get("pose") == ("world_from_depth" if name == "posed-rgbd" else None)


def test_a_merged_store_declares_what_all_of_its_recordings_do(
    room_store: Path, tmp_path: Path
) -> None:
    merged, nested = tmp_path / "merged", tmp_path / "nested"
    merge_stores(MergeConfig((room_store, room_store), merged, prefixes=("a-", "b-")))
    merge_stores(MergeConfig((merged, room_store), nested, prefixes=("", "c-")))
    store = open_store(nested)
    assert declared(store) == declared(open_store(room_store))
    dataset = copy.deepcopy(store.manifest.dataset)
    dataset["sources"][0]["sources"][1]["calibration"][2]["pose_axes"] = "opengl"
    assert declared(renamed(store, dataset)).camera_json == {}


def _opengl_poses(folder: Path) -> None:
    for path in folder.glob("*.pose.txt"):
        np.savetxt(path, np.loadtxt(path) @ OPENGL)


def _inverted_poses(folder: Path) -> None:
    for path in folder.glob("*.pose.txt"):
        np.savetxt(path, np.linalg.inv(np.loadtxt(path)))


def edit_camera(recording: Path, **settings: Any) -> None:
    path = recording / "camera.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def geometry(recording: Path, **options: Any) -> list[np.ndarray]:
    """Depths (m) and poses of all frames, as they are read."""
    source = open_source("posed-rgbd", SourceOptions(root=recording, **options))
    found: list[np.ndarray] = []
    for frame in map(source.load, source.keys()):
        assert frame.depth is not None
        assert frame.world_from_sensor is not None
        found += [frame.depth.values / frame.depth.units_per_metre, frame.world_from_sensor]
    return found


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording without fault, which passes its check; not to be written."""
    return write_demo_recording(tmp_path_factory.mktemp("sound") / "recording", FRAMES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "message", "setting"),
    [
        (_opengl_poses, '"pose_axes": "opengl"', {"pose_axes": "opengl"}),
        (_inverted_poses, '"pose": "depth_from_world"', {"pose": "depth_from_world"}),
    ],
)
def test_what_check_prints_mends_the_recording(
    spoil: Callable[[Path], None],
    message: str,
    setting: dict[str, Any],
    sound: Path,
    tmp_path: Path,
) -> None:
    recording = shutil.copytree(sound, tmp_path / "recording")
    spoil(recording)
    out = ("--out", tmp_path / "check", "--frames", FRAMES)
    printed = p2pkit("check", recording, *out, code=1).output
    assert f"To fix it, write {message} in camera.json; then check again." in printed
    assert message in (tmp_path / "check" / "check.html").read_text().replace("&#34;", '"')
    assert message in json.loads((tmp_path / "check" / "check.json").read_text())["mends"][0]
    edit_camera(recording, **setting)
    for one, other in zip(geometry(recording), geometry(sound), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.slow
def test_the_units_that_check_prints_mend_the_recording(sound: Path, tmp_path: Path) -> None:
    recording = shutil.copytree(sound, tmp_path / "recording")
    units = json.loads((recording / "camera.json").read_text())["depth_units_per_metre"]
    edit_camera(recording, depth_units_per_metre=units / 2)
    out = ("--out", tmp_path / "check", "--frames", FRAMES)
    printed = p2pkit("check", recording, *out, code=1).output
    assert f"To fix it, give --depth-units {units:g}; then check again." in printed
    mended = p2pkit("check", recording, *out, "--depth-units", f"{units:g}").output
    assert "To fix it" not in mended
    for one, other in zip(geometry(recording, depth_units=units), geometry(sound), strict=True):
        np.testing.assert_array_equal(one, other)
