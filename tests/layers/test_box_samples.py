from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_store import FAILED, KEYS, geometry_layer, geometry_sample, manifest

from p2pkit.datasets.boxes import Annotation, chosen_boxes, upright_boxes
from p2pkit.layers.boxes import box_layer, box_spec, count_boxes, decode_boxes, encode_boxes
from p2pkit.store.manifest import plan_shards
from p2pkit.store.reading import open_store
from p2pkit.store.writing import create_or_open

ROW = Annotation("car", (0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (2.0, 2.0, 2.0))


@pytest.mark.parametrize("storage", ["tar", "zarr"])
def test_frames_and_shards_without_boxes_are_stored(storage: str, tmp_path: Path) -> None:
    boxes = upright_boxes([ROW, ROW], ["car"], sensor_from_annotation=np.eye(4), up=(0, 0, 1))
    lost = replace(boxes, center=np.full((2, 3), np.nan))
    none = chosen_boxes(boxes, np.zeros(2, bool))
    spec = box_spec(["car"], {"annotations": "x"}, geometry_layer())
    writer = create_or_open(tmp_path / "store", manifest(storage, geometry_layer(), spec))
    points = np.zeros((2, 3), np.float32)
    for shard, keys in enumerate(plan_shards(KEYS, writer.manifest.plan)):
        good = [key for key in keys if key != FAILED]
        failed = [{"key": FAILED, "stage": "load", "reason": "cut"}] * (FAILED in keys)
        writer.write("geometry", shard, [geometry_sample(key) for key in good], failed)
        # The first shard has no box at all; in the others every second frame has some.
        of_row = [
            (none, None)[row % 2] if shard == 0 or row % 2 else (boxes, lost)[shard % 2]
            for row in range(9)
        ]
        rows = zip(good, of_row, strict=False)
        writer.write(spec.name, shard, [encode_boxes(key, own, points) for key, own in rows])
    store = open_store(tmp_path / "store")
    assert box_layer(store) == spec
    first = [decode_boxes(store.read(spec.name, 0, row)).annotated for row in (0, 1)]
    assert first == [True, False]
    counts = [
        [len(decode_boxes(store.read(spec.name, shard, row)).yaw) for row in range(len(keys))]
        for shard, keys in enumerate(store.all_keys())
    ]
    assert counts[0] == [0] * len(counts[0])
    assert sum(map(sum, counts)) > 0
    found = count_boxes(store)
    assert found.stored == sum(map(sum, counts))
    assert list(found.left_out) == ["NaN or infinite"]
    assert found.first.endswith("car: NaN or infinite")
