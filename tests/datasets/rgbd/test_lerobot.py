"""LeRobot datasets, written by pyarrow around generated frames."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rgbd_written import depth_of, save

from p2pkit.datasets.frame import Frame, SourceOptions
from p2pkit.datasets.recognise import recognise
from p2pkit.datasets.registry import open_source
from p2pkit.errors import FrameError, MissingDependencyError, SourceError

COLOR, DEPTH = "observation.images.top", "observation.images.top_depth"


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    source = open_source("demo-scene", SourceOptions(limit=3))
    return list(map(source.load, source.keys()))


def encoded(pixels: np.ndarray, kind: str = "png") -> dict[str, Any]:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=kind)
    return {"bytes": stream.getvalue(), "path": None}


def camera_json(frame: Frame) -> dict[str, Any]:
    camera = frame.views[0].camera.to_json()
    return {
        "format": "posed-rgbd",
        "depth_units_per_metre": 1000,
        "depth": camera,
        "color": camera,
        "color_from_depth": np.eye(4).tolist(),
        "pose": "none",
        "invalid_depth": [0],
    }


def write_lerobot(
    root: Path,
    frames: list[Frame],
    *,
    columns: dict[str, list[Any]] | None = None,
    features: dict[str, Any] | None = None,
) -> Path:
    """Format v3: one file for episodes 4 and 5, two frames to a row group; images as bytes."""
    shape = [*frames[0].views[0].image.shape]
    image = {"dtype": "image", "shape": shape, "names": ["height", "width", "channels"]}
    table: dict[str, list[Any]] = {
        COLOR: [encoded(frame.views[0].image) for frame in frames],
        DEPTH: [encoded(depth_of(frame)) for frame in frames],
        "episode_index": [4, 4, 5][: len(frames)],
        "frame_index": [0, 1, 0][: len(frames)],
    } | (columns or {})
    known = {COLOR: image, DEPTH: image | {"shape": [*shape[:2], 1]}} | (features or {})
    known["action"] = {"dtype": "float32", "shape": [6], "names": None}
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps({"fps": 30, "features": known}))
    (root / "data" / "chunk-000").mkdir(parents=True)
    path = root / "data" / "chunk-000" / "file-000.parquet"
    pq.write_table(pa.table(table), path, row_group_size=2)
    (root / "camera.json").write_text(json.dumps(camera_json(frames[0])))
    return root


def opened(root: Path, **options: Any) -> list[Frame]:
    source = open_source("lerobot", SourceOptions(root, **options))
    return list(map(source.load, source.keys()))


def assert_frames(found: list[Frame], frames: list[Frame]) -> None:
    for frame, real in zip(found, frames, strict=True):
        np.testing.assert_array_equal(depth_of(frame), depth_of(real))
        np.testing.assert_array_equal(frame.views[0].image, real.views[0].image)
        assert frame.views[0].camera == real.views[0].camera
        assert frame.world_from_sensor is None


def test_frames_come_back_as_they_were(frames: list[Frame], tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "pick", frames)
    assert recognise(root).dataset == "lerobot"
    found = opened(root)
    keys = ["episode-000004_000000", "episode-000004_000001", "episode-000005_000000"]
    assert [frame.key for frame in found] == keys
    assert [frame.sequence for frame in found] == [key.partition("_")[0] for key in keys]
    assert_frames(found, frames)


@pytest.mark.parametrize("kind", ["tiff", "array", "path"])
def test_other_forms_of_depth(kind: str, frames: list[Frame], tmp_path: Path) -> None:
    root = tmp_path / "pick"
    columns: dict[str, list[Any]] = {"tiff": [encoded(depth_of(one), "tiff") for one in frames]}
    columns["path"] = [{"bytes": None, "path": f"images/{number}.png"} for number in range(3)]
    height, width = depth_of(frames[0]).shape
    nested = pa.list_(pa.list_(pa.uint16()))
    columns["array"] = pa.array([depth_of(one).tolist() for one in frames], type=nested)
    features = {DEPTH: {"dtype": "uint16", "shape": [height, width]}} if kind == "array" else {}
    write_lerobot(root, frames, columns={DEPTH: columns[kind]}, features=features)
    for number, frame in enumerate(frames):
        save(root / "images" / f"{number}.png", depth_of(frame))
    assert_frames(opened(root), frames)


def test_units_and_a_camera_given_in_place_of_the_dataset_s(
    frames: list[Frame], tmp_path: Path
) -> None:
    root = write_lerobot(tmp_path / "pick", frames[:1])
    (root / "camera.json").rename(tmp_path / "lens.json")
    with pytest.raises(SourceError, match=r"camera\.json does not exist\. LeRobot .*--camera FILE"):
        opened(root)
    frame = opened(root, camera_file=tmp_path / "lens.json", depth_units=2000.0)[0]
    assert frame.depth is not None
    assert frame.depth.units_per_metre == 2000


def test_of_two_cameras_one_is_chosen_with_its_colour(frames: list[Frame], tmp_path: Path) -> None:
    images = [encoded(frame.views[0].image[::-1].copy()) for frame in frames]
    depths = [encoded(depth_of(frame)) for frame in frames]
    wrist, wrist_depth = "observation.images.wrist", "observation.images.wrist_depth"
    feature = {"dtype": "image", "shape": [240, 320, 3]}
    root = write_lerobot(
        tmp_path / "pick",
        frames,
        columns={wrist: images, wrist_depth: depths},
        features={wrist: feature, wrist_depth: feature},
    )
    with pytest.raises(SourceError, match=rf"2 depth images: {DEPTH}, {wrist_depth}; .*--streams"):
        opened(root)
    assert_frames(opened(root, streams=(DEPTH,)), frames)
    found = opened(root, streams=(wrist_depth,))[0].views[0].image
    np.testing.assert_array_equal(found, frames[0].views[0].image[::-1])


VIDEO: dict[str, Any] = {"dtype": "video", "shape": [240, 320, 3]}


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({DEPTH: VIDEO}, f"its depth, {DEPTH}, is video, .* record with --dataset.video=false"),
        ({COLOR: VIDEO}, f"its colour, {COLOR}, is video"),
        ({DEPTH: {"dtype": "float32", "shape": [3]}}, "pick has no depth images"),
        ({DEPTH: VIDEO | {"info": {"is_depth_map": True}}}, f"its depth, {DEPTH}, is video"),
        ({DEPTH: VIDEO | {"info": [1]}}, f"its depth, {DEPTH}, is video"),
        ({DEPTH: 3}, r"info\.json: expected an object for each of features"),
    ],
)
def test_what_cannot_be_read_is_named(
    features: dict[str, Any], message: str, frames: list[Frame], tmp_path: Path
) -> None:
    root = write_lerobot(tmp_path / "pick", frames[:1], features=features)
    with pytest.raises(SourceError, match=message):
        opened(root)


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({DEPTH: [{"bytes": b"no image", "path": None}]}, FrameError, "image cannot be decoded"),
        ({DEPTH: [{"bytes": None, "path": "gone.png"}]}, FrameError, r"gone\.png cannot be read"),
        ({DEPTH: pa.array([None], IMAGE)}, FrameError, f"has nothing in {DEPTH} there"),
        ({COLOR: pa.array([None], IMAGE)}, FrameError, f"has nothing in {COLOR} there"),
        ({"frame_index": [None]}, SourceError, "a row without episode_index or frame_index"),
    ],
)
def test_damaged_rows(
    columns: dict[str, Any],
    error: type[Exception],
    message: str,
    frames: list[Frame],
    tmp_path: Path,
) -> None:
    root = write_lerobot(tmp_path / "pick", frames[:1], columns=columns)
    with pytest.raises(error, match=message):
        opened(root)


def test_damaged_and_missing_tables(frames: list[Frame], tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "pick", frames[:1])
    path = root / "data" / "chunk-000" / "file-000.parquet"
    pq.write_table(pa.table({"episode_index": [1]}), path)
    with pytest.raises(SourceError, match=r"parquet has no column frame_index, observation"):
        opened(root)
    path.write_bytes(b"no table")
    with pytest.raises(SourceError, match="cannot be read as Parquet"):
        opened(root)
    path.unlink()
    with pytest.raises(SourceError, match="contains no frame in 0 Parquet files"):
        opened(root)


def test_without_pyarrow_the_command_that_installs_it(
    frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_lerobot(tmp_path / "pick", frames[:1])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'p2pkit\[lerobot\]'"):
        opened(root)
