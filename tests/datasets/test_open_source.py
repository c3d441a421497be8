import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import p2pkit
from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.registry import DATASETS, open_source
from p2pkit.errors import ConfigError, SourceError


def test_wrong_name_lists_the_right_ones():
    with pytest.raises(ConfigError, match=r"'kinect'.*demo-scene, kitti-object.*posed-rgbd"):
        open_source("kinect", SourceOptions())


@pytest.mark.parametrize("limit", [0, -3])
def test_limit_below_one_is_refused(limit: int):
    with pytest.raises(ConfigError, match=f"limit is {limit}"):
        open_source("demo-scene", SourceOptions(limit=limit))


@pytest.mark.parametrize("name", ["demo-scene", "nyuv2"])
def test_camera_file_is_refused_where_it_would_be_ignored(name: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="to lerobot, posed-rgbd, tum only"):
        open_source(name, SourceOptions(tmp_path, camera_file=tmp_path / "camera.json"))


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"demo-scene"}))
def test_source_without_folder_is_refused(name: str, tmp_path: Path):
    with pytest.raises(SourceError, match="none was given"):
        open_source(name, SourceOptions())
    with pytest.raises(SourceError, match="is not a folder"):
        open_source(name, SourceOptions(tmp_path / "gone"))


def test_open_recording_takes_text_and_recognises_the_format(room_recording: Path):
    source = p2pkit.open_recording(str(room_recording), every=2, limit=3)
    assert (source.name, len(source.keys())) == ("posed-rgbd", 3)
    frame = source.load(source.keys()[0])
    camera = str(room_recording / "camera.json")
    named = p2pkit.open_recording(room_recording, dataset="posed-rgbd", camera=camera)
    assert (named.load(frame.key).views[0].image == frame.views[0].image).all()
    assert p2pkit.open_recording(limit=1).name == "demo-scene"


def test_open_recording_gives_the_depth_that_an_extraction_uses(
    room_recording: Path, tmp_path: Path
):
    root = shutil.copytree(room_recording / "scene-0", tmp_path / "scene")
    for name in ("camera.json", "labels.json"):
        shutil.copy(room_recording / name, root)
    path = min(root.glob("*.depth.png"))
    depth = np.array(Image.open(path))
    depth[10, 20] = 700  # floats before the wall
    Image.fromarray(depth).save(path)
    found = []
    for options in ({"flying_margin": 0.0}, {}):
        source = p2pkit.open_recording(root, **options)
        read = source.load(source.keys()[0]).depth
        assert read is not None
        found.append(read.values[10, 20])
    assert found == [700, 0]
    with pytest.raises(ConfigError, match="streams"):
        p2pkit.open_recording(root, streams=("front",))
