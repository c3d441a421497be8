"""Boxes in a store: extracted with the geometry, added later, merged, mended, reported."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from made_once import shared_folder

import p2pkit
from p2pkit.cli.main import commands
from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.errors import StoreError
from p2pkit.layers.boxes import box_layer, count_boxes, decode_boxes
from p2pkit.pipelines.extract import mend
from p2pkit.pipelines.extract.run import run
from p2pkit.pipelines.extract.settings import ExtractConfig
from p2pkit.pipelines.shards.drop_layer import drop_layer
from p2pkit.pipelines.shards.merge import MergeConfig, merge_stores
from p2pkit.store.reading import open_store


def config(out: Path, seed: int = 0) -> ExtractConfig:
    return ExtractConfig("demo-scene", None, out, features=None, limit=2, seed=seed, shard_size=2)


@pytest.fixture(scope="module")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two generated frames; not to be written."""
    yield from shared_folder(tmp_path_factory, "boxed.store", lambda out: run(config(out)))


def test_the_layer_holds_the_usable_boxes_of_each_frame(boxed: Path) -> None:
    store, source = open_store(boxed), open_source("demo-scene", SourceOptions(limit=2))
    layer = box_layer(store)
    assert layer.details["classes"][0] == "table"
    for row, key in enumerate(store.keys(0)):
        stored = decode_boxes(store.read(layer.name, 0, row))
        boxes = source.load(key).boxes
        assert boxes is not None
        np.testing.assert_allclose(stored.center, boxes.center, atol=1e-5)
        np.testing.assert_array_equal(stored.class_id, boxes.class_id)
        np.testing.assert_allclose(stored.upright_from_sensor, boxes.upright_from_sensor)
        assert (stored.points > 0).all()
    assert count_boxes(store).left_out == {}
    key = store.keys(0)[0]
    frame = p2pkit.open_store(boxed)[key]
    boxes, cloud = frame.boxes, frame.cloud
    assert boxes is not None
    # As docs/format.md says what is in a box.
    row = int(boxes.points.argmax())
    cos, sin = np.cos(boxes.yaw[row]), np.sin(boxes.yaw[row])
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    own = (cloud.points @ boxes.upright_from_sensor.T - boxes.center[row]) @ turn.T
    assert (np.abs(own) <= boxes.size[row] / 2).all(axis=1).sum() == boxes.points[row]


def test_a_dropped_layer_is_added_again_and_a_lost_shard_is_mended(
    boxed: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(boxed, store)
    name = box_layer(open_store(store)).name
    shard = store / name / "000000.tar"
    before = shard.read_bytes()
    drop_layer(store, name)
    with pytest.raises(StoreError, match="has no layer of boxes among geometry: extract"):
        box_layer(open_store(store))
    run(config(store))
    assert shard.read_bytes() == before
    shard.write_bytes(before[:3000])
    source = mend.SourceConfig(dataset="demo-scene")
    report = mend.run(mend.RepairConfig(store, source))
    assert [action.layer for action in report.actions] == [name]
    assert shard.read_bytes() == before


def test_boxes_are_merged(boxed: Path, tmp_path: Path) -> None:
    other = run(config(tmp_path / "other", seed=1))
    merged = merge_stores(MergeConfig((boxed, other), tmp_path / "merged", prefixes=("a-", "b-")))
    counts = [count_boxes(open_store(path)).stored for path in (boxed, other, merged)]
    assert counts[0] + counts[1] == counts[2]


@pytest.mark.realdata
def test_extract_counts_boxes_and_names_what_it_left_out(data_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "kitti" / "training"
    for name in ("velodyne/000003.bin", "image_2/000003.png", "calib/000003.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data_root / "kitti_object" / "training" / name, root / name)
    lines = (data_root / "kitti_object/training/label_2/000003.txt").read_text().splitlines()
    (root / "label_2").mkdir()
    bad = lines[0].replace("Car", "Tractor")
    (root / "label_2" / "000003.txt").write_text("\n".join([*lines, bad]))
    words = ["extract", str(tmp_path / "kitti"), "--teacher", "none", "--out", str(tmp_path / "s")]
    done = CliRunner().invoke(commands, words)
    assert done.exit_code == 0, done.output
    assert (
        "1 boxes; left out: 1 with an unknown class; the first: frame training_000003, Tractor: "
        "an unknown class"
    ) in done.stderr
