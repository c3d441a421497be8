"""ScanNet's meshes as whole labelled clouds."""

from pathlib import Path

import numpy as np
import pytest
from scannet_written import write_mesh

from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.errors import FrameError, SourceError

POINTS = np.random.default_rng(0).uniform(-5, 5, (50, 3)).astype(np.float32)
LABELS = np.array([1, 39, 13, 0, 40] * 10)
COLORS = np.arange(150).reshape(50, 3)


def write(root: Path, name: str, *, labels: bool = True) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    write_mesh(folder / f"{name}_vh_clean_2.ply", POINTS, None, COLORS)
    if labels:
        write_mesh(folder / f"{name}_vh_clean_2.labels.ply", POINTS, LABELS)
    return folder


def test_vertices_in_their_order_with_the_benchmarks_classes(tmp_path: Path):
    write(tmp_path / "scans", "scene0011_00")
    write(tmp_path / "scans", "scene0000_01")
    source = open_source("scannet-scenes", SourceOptions(tmp_path))
    assert source.keys() == ["scene0000_01", "scene0011_00"]
    assert source.label_names is not None
    assert (len(source.label_names), source.ignore_label) == (21, 0)
    frame = source.load("scene0011_00")
    assert frame.views == ()
    assert frame.sequence == "scene0011_00"
    assert frame.points is not None
    assert frame.colors is not None
    np.testing.assert_array_equal(frame.points, POINTS)
    np.testing.assert_array_equal(frame.colors, COLORS)
    # NYU40's 13 and 40 are not of the 20 classes.
    assert frame.labels is not None
    assert frame.labels[:5].tolist() == [1, 20, 0, 0, 0]
    assert open_source("scannet-scenes", SourceOptions(tmp_path / "scans", limit=1)).keys() == [
        "scene0000_01"
    ]


def test_scenes_without_labels(tmp_path: Path):
    one = write(tmp_path, "scene0000_00")
    write(tmp_path, "scene0707_00", labels=False)
    frame = open_source("scannet-scenes", SourceOptions(tmp_path)).load("scene0707_00")
    assert frame.labels is not None
    assert not frame.labels.any()
    (one / "scene0000_00_vh_clean_2.labels.ply").unlink()
    source = open_source("scannet-scenes", SourceOptions(one))
    assert source.label_names is None
    assert source.load("scene0000_00").labels is None


def test_faults_are_named(tmp_path: Path):
    with pytest.raises(SourceError, match=r"contains no scene0000_00_vh_clean_2\.ply"):
        open_source("scannet-scenes", SourceOptions(tmp_path))
    folder = write(tmp_path, "scene0000_00")
    source = open_source("scannet-scenes", SourceOptions(tmp_path))
    labelled = folder / "scene0000_00_vh_clean_2.labels.ply"
    write_mesh(labelled, POINTS[:7], LABELS[:7])
    with pytest.raises(FrameError, match=r"has 7 vertices, scene0000_00_vh_clean_2\.ply 50"):
        source.load("scene0000_00")
    labelled.write_bytes(b"ply")
    with pytest.raises(FrameError, match="is not a PLY file"):
        source.load("scene0000_00")
