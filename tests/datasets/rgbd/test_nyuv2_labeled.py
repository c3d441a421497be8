"""NYU Depth V2's published MATLAB files, written small in their layout."""

import sys
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from matlab_written import write_nyu
from scipy.io import savemat

from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.recognise import recognise
from p2pkit.datasets.registry import open_source
from p2pkit.datasets.rgbd.nyu.labeled import CROP
from p2pkit.errors import FrameError, MissingDependencyError, SourceError
from p2pkit.layers.geometry import GeometryConfig, encode_geometry


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nyu(tmp_path_factory.mktemp("nyu"))


def array(file: h5py.File, name: str) -> h5py.Dataset:
    found = file[name]
    assert isinstance(found, h5py.Dataset)
    return found


def test_frames_have_matlabs_axes_and_the_crop(folder: Path):
    assert recognise(folder).dataset == "nyuv2"
    source = open_source("nyuv2", SourceOptions(folder))
    assert source.keys() == ["0001", "0002", "0003", "0004", "0005"]
    frame = source.load("0002")
    assert frame.depth is not None
    assert frame.labels is not None
    assert frame.instances is not None
    image = frame.views[0].image
    assert image.shape == (480, 640, 3)
    assert image[200, 600].tolist() == [200, 100, 10]
    rows, columns = np.nonzero(frame.depth.values)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (44, 470, 40, 600)
    assert frame.depth.values[100, 500] == 2500
    # "Wall" by its name, "chair" beyond column 300; two objects of each in the crop.
    assert (frame.labels[100, 100], frame.labels[100, 400], frame.labels[0, 100]) == (1, 5, 0)
    assert np.unique(frame.instances[CROP]).tolist() == [1, 2, 3, 4]
    assert frame.instances[0, 0] == 0
    sample = encode_geometry(frame, GeometryConfig(voxel_size=0))
    assert len(sample.arrays["instance"]) == len(sample.arrays["label"]) == 427 * 561


def test_sequences_are_scenes_and_the_test_part_is_marked(folder: Path):
    source = open_source("nyuv2", SourceOptions(folder))
    names = [source.load(key).sequence for key in [*source.keys()]]
    assert names == [
        *("kitchen_0004", "kitchen_0004", "test-office_0001", "study_0002", "study_0002")
    ]
    assert open_source("nyuv2", SourceOptions(folder, every=2)).keys() == ["0001", "0003", "0004"]


def test_the_mapping_to_40_classes_is_used_where_it_is(folder: Path, tmp_path: Path):
    write_nyu(tmp_path, mapping=True)
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "r+") as file:
        array(file, "labels")[0] = np.full((640, 480), 4)
    by_table = open_source("nyuv2", SourceOptions(tmp_path))
    labels = by_table.load("0001").labels
    assert labels is not None
    assert labels[100, 100] == 40
    by_name = open_source("nyuv2", SourceOptions(folder))
    assert by_table.fingerprint()["classes"] != by_name.fingerprint()["classes"]
    # The name "vase" is none of the 37; without the table it is void.
    (tmp_path / "classMapping40.mat").unlink()
    labels = open_source("nyuv2", SourceOptions(tmp_path)).load("0001").labels
    assert labels is not None
    assert not labels.any()


def test_one_frame_is_read_at_a_time(folder: Path):
    source = open_source("nyuv2", SourceOptions(folder))
    tracemalloc.start()
    source.load("0005")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6


def test_faults_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_nyu(tmp_path)
    savemat(tmp_path / "splits.mat", {"trainNdxs": [[1], [2]], "testNdxs": [[2], [9]]})
    with pytest.raises(SourceError, match="each frame number once, from 1 to 5"):
        open_source("nyuv2", SourceOptions(tmp_path))
    savemat(tmp_path / "splits.mat", {"trainNdxs": [[1]]})
    with pytest.raises(SourceError, match="lacks the variable testNdxs"):
        open_source("nyuv2", SourceOptions(tmp_path))
    (tmp_path / "splits.mat").unlink()
    with pytest.raises(SourceError, match=r"splits\.mat does not exist"):
        open_source("nyuv2", SourceOptions(tmp_path))
    with pytest.raises(SourceError, match=r"looks like nyuv2, but splits\.mat is missing"):
        recognise(tmp_path)
    write_nyu(tmp_path)
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "r+") as file:
        array(file, "labels")[0, 300, 200] = 6
        array(file, "depths")[1] = np.nan
        file.move("images", "rgb")
        file.create_dataset("images", (5, 480, 640, 3), np.uint8)
    with pytest.raises(SourceError, match="images has the shape"):
        open_source("nyuv2", SourceOptions(tmp_path))
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "r+") as file:
        del file["images"]
        file.move("rgb", "images")
    source = open_source("nyuv2", SourceOptions(tmp_path))
    with pytest.raises(FrameError, match="label 6 is above the 5 names"):
        source.load("0001")
    with pytest.raises(FrameError, match="depth"):
        source.load("0002")
    (tmp_path / "nyu_depth_v2_labeled.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(SourceError, match="cannot be read as HDF5"):
        open_source("nyuv2", SourceOptions(tmp_path))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingDependencyError, match=r"p2pkit\[matlab\]"):
        open_source("nyuv2", SourceOptions(tmp_path))
