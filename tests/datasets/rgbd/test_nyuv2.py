import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.datasets.rgbd.nyu.nyuv2 import BORDER
from p2pkit.errors import FrameError, SourceError

pytestmark = pytest.mark.realdata
TEXTS = ("train.txt", "classes40.txt", "intrinsics.txt")


@pytest.fixture
def folder(data_root: Path, tmp_path: Path) -> Path:
    """The first three frames of the real dataset, to be damaged."""
    source = data_root / "nyuv2_half"
    for text in TEXTS:
        shutil.copy(source / text, tmp_path / text)
    for key in (source / "train.txt").read_text().split()[:3]:
        for name in (f"rgb/{key}.jpg", f"depth/{key}.png", f"label40/{key}.png"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            shutil.copy(source / name, tmp_path / name)
    return tmp_path


def test_a_sequence_is_a_run_of_consecutive_numbers(data_root: Path):
    source = open_source("nyuv2", SourceOptions(data_root / "nyuv2_half"))
    keys = list(source.keys())
    names = [source.load(key).sequence for key in keys[:40]]
    for (key, name), (after, other) in pairwise(zip(keys, names, strict=False)):
        assert (name == other) == (int(after) == int(key) + 1)
    assert names[0] == f"from-{keys[0]}"


def test_every_is_of_each_sequence(data_root: Path):
    whole = open_source("nyuv2", SourceOptions(data_root / "nyuv2_half", limit=200))
    runs: dict[str, list[str]] = {}
    for probe in whole.depth_probes():
        runs.setdefault(probe.sequence, []).append(probe.key)
    source = open_source("nyuv2", SourceOptions(data_root / "nyuv2_half", every=3))
    expected = [key for run in list(runs.values())[:-1] for key in run[::3]]
    assert source.keys()[: len(expected)] == expected


def test_both_lists_give_both_parts(folder: Path):
    keys = (folder / "train.txt").read_text().split()
    (folder / "train.txt").write_text("\n".join([keys[0], keys[2], *keys[3:]]))
    (folder / "test.txt").write_text(f"{keys[1]}\n")
    source = open_source("nyuv2", SourceOptions(folder))
    assert list(source.keys()) == keys[:3]
    sequences = [source.load(key).sequence for key in keys[:3]]
    assert sequences == [f"from-{keys[0]}", f"test-from-{keys[1]}", f"from-{keys[2]}"]
    assert source.fingerprint()["sequences"].endswith("train.txt and test.txt")
    (folder / "test.txt").write_text(f"{keys[0]}\n{keys[1]}\n")
    with pytest.raises(SourceError, match=f"frame {keys[0]} is in train.txt and in test.txt"):
        open_source("nyuv2", SourceOptions(folder))


def test_frame_numbers_must_be_numbers(folder: Path):
    (folder / "train.txt").write_text("0003 kitchen\n")
    with pytest.raises(SourceError, match="found 'kitchen'"):
        open_source("nyuv2", SourceOptions(folder))


def test_real_frames(data_root: Path):
    source = open_source("nyuv2", SourceOptions(data_root / "nyuv2_half"))
    assert len(source.keys()) == 795
    assert source.label_names is not None
    assert len(source.label_names) == 41
    assert (source.label_names[0], source.label_names[2], source.ignore_label) == (
        "void",
        "floor",
        0,
    )
    below, total = 0, 0
    for key in source.keys()[::80]:
        frame = source.load(key)
        assert frame.depth is not None
        assert frame.labels is not None
        assert frame.world_from_sensor is None
        metres = frame.depth.values / frame.depth.units_per_metre
        assert 0.7 <= metres[metres > 0].min() <= metres.max() < 10.0
        floor = np.nonzero((frame.labels == 2) & (metres > 0))[0]
        below += int((floor > 127).sum())
        total += floor.size
    assert below / total > 0.95


def test_white_border_gives_no_depth(data_root: Path):
    source = open_source("nyuv2", SourceOptions(data_root / "nyuv2_half"))
    whitest = np.full((240, 320), 255, dtype=np.uint8)
    seen = np.zeros((240, 320), dtype=bool)
    for key in source.keys()[::40]:
        frame = source.load(key)
        assert frame.depth is not None
        np.minimum(whitest, frame.views[0].image.min(axis=2), out=whitest)
        seen |= frame.depth.values > 0
    assert not (seen & (whitest > 190)).any()
    assert seen[BORDER:-BORDER, BORDER:-BORDER].all()
    assert seen.sum() == (240 - 2 * BORDER) * (320 - 2 * BORDER)


def test_only_frames_that_exist_are_listed(folder: Path):
    source = open_source("nyuv2", SourceOptions(folder))
    assert len(source.keys()) == 3
    assert open_source("nyuv2", SourceOptions(folder, limit=2)).keys() == source.keys()[:2]
    shutil.rmtree(folder / "rgb")
    with pytest.raises(SourceError, match=r"none of the 795 frames of train\.txt"):
        open_source("nyuv2", SourceOptions(folder))


def test_damaged_frames(folder: Path):
    source = open_source("nyuv2", SourceOptions(folder))
    first, second, third = source.keys()
    color = folder / "rgb" / f"{first}.jpg"
    color.write_bytes(color.read_bytes()[:3000])
    (folder / "label40" / f"{second}.png").unlink()
    before = source.fingerprint()
    shutil.copy(folder / "label40" / f"{third}.png", folder / "depth" / f"{third}.png")
    for key, reason in ((first, "truncated"), (second, "does not exist"), (third, "mode 'L'")):
        with pytest.raises(FrameError, match=reason):
            source.load(key)
    with pytest.raises(FrameError, match="no such frame"):
        source.load("9999")
    assert source.fingerprint()["frame_list"] != before["frame_list"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes40.txt", "0 void\n2 wall", "expected '1 NAME'"),
        ("classes40.txt", "0 void\n1 wall", "classes, found 2"),
        ("intrinsics.txt", "1 2 3", "pinhole matrix"),
        ("intrinsics.txt", "-9 0 5 0 9 5 0 0 1", r"intrinsics\.txt: .*fx=-9"),
        ("intrinsics.txt", "f 0 0 0 f 0 0 0 1", "3 x 3 matrix of numbers"),
    ],
)
def test_wrong_text_files(folder: Path, name: str, text: str, message: str):
    (folder / name).write_text(text)
    with pytest.raises(SourceError, match=message):
        open_source("nyuv2", SourceOptions(folder))


@pytest.mark.parametrize("name", TEXTS)
def test_missing_text_file_is_named(folder: Path, name: str):
    (folder / name).unlink()
    with pytest.raises(SourceError, match=f"{name} does not exist"):
        open_source("nyuv2", SourceOptions(folder))
