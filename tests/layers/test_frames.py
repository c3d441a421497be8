"""Frames out of a store: by number, by key, in another process."""

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import p2pkit
from p2pkit.errors import StoreError
from p2pkit.layers.features import pair_features
from p2pkit.layers.frames import FrameStore, StoredFrame
from p2pkit.store.manifest import LayerSpec


@pytest.fixture(scope="module")
def store(room_store: Path) -> FrameStore:
    return p2pkit.open_store(str(room_store))


def test_numbers_and_keys_give_the_same_frames(store: FrameStore) -> None:
    keys = [key for shard in store.all_keys() for key in shard]
    assert len(store) == len(keys) == 12
    assert [frame.key for frame in store] == keys
    assert store[-1].key == keys[-1] == store[keys[-1]].key
    with pytest.raises(IndexError, match=r"sample 12 does not exist; .* has 12"):
        store[12]
    with pytest.raises(StoreError, match="no sample 'nothing'"):
        store["nothing"]


def test_a_frame_has_what_its_layers_hold(store: FrameStore) -> None:
    frame = store[5]
    shard, row = store.find(frame.key)
    geometry = store.read("geometry", shard, row)
    assert frame.samples["geometry"].meta == geometry.meta
    np.testing.assert_array_equal(frame.cloud.colors, geometry.arrays["colors"])
    assert frame.labels is not None
    np.testing.assert_array_equal(frame.labels, geometry.arrays["label"])
    pairs = frame.pairs
    assert len(pairs.point) == len(pairs.view) == len(pairs.uv) == len(frame.cloud.points)
    camera = frame.calibration.cameras[0]
    assert (camera.width, camera.height) == frame.cloud.image_sizes[0]
    np.testing.assert_array_equal(frame.calibration.camera_from_sensor, [np.eye(4)])
    assert frame.calibration.world_from_sensor is not None
    [name] = store.feature_layers
    rows = np.array([3, 1], np.int64)
    expected = pair_features(store.read(name, shard, row), frame.cloud, rows)
    np.testing.assert_array_equal(frame.features(rows=rows), expected)
    assert frame.features(name).shape == (len(pairs.point), expected.shape[1])
    with pytest.raises(StoreError, match=f"name a feature layer of the store: {name}"):
        frame.features("features/other")


def test_rows_are_chosen_by_numbers_or_by_a_mask(store: FrameStore) -> None:
    frame = store[5]
    mask = np.zeros(len(frame.pairs.point), bool)
    mask[[3, 7]] = True
    expected = frame.features(rows=np.array([3, 7]))
    for rows in (mask, [3, 7], np.array([3, 7], np.uint64)):
        np.testing.assert_array_equal(frame.features(rows=rows), expected)
    for nothing in (np.zeros_like(mask), []):
        assert frame.features(rows=nothing).shape == (0, expected.shape[1])
    with pytest.raises(IndexError, match=f"a mask of 5 entries, but frame .* has {len(mask)} pa"):
        frame.features(rows=mask[:5])


def test_a_key_is_looked_up_without_reading_a_frame(
    store: FrameStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = store[3].key
    monkeypatch.setattr(FrameStore, "read", None)
    assert key in store
    assert "nothing" not in store


def test_several_layers_of_boxes_are_refused_by_name(store: FrameStore) -> None:
    frame = store[0]
    spec = LayerSpec("boxes/annotated-01234567", (), {})
    layers = {**frame.layers, "a": spec, "b": spec}
    with pytest.raises(StoreError, match=r"several layers of boxes: a, b; delete"):
        StoredFrame(frame.key, frame.samples, layers).boxes  # noqa: B018


def test_both_say_what_they_are(store: FrameStore, room_store: Path) -> None:
    assert repr(store).startswith(f"<tar store {room_store}: 12 frames, geometry, features/")
    assert f"<frame {store[0].key}: {len(store[0].cloud.points)} points, " in repr(store[0])


def _key_of(store: FrameStore) -> str:
    return store[3].key


def test_a_store_that_was_read_goes_to_another_process(store: FrameStore) -> None:
    frame = store[3]
    copy = pickle.loads(pickle.dumps(store))
    assert isinstance(copy, FrameStore)
    assert isinstance(copy[3], StoredFrame)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_key_of, [store]) == [frame.key]


@pytest.mark.slow
def test_a_torch_dataset_gives_tensors_in_spawned_workers(store: FrameStore) -> None:
    frames = DataLoader(
        store.torch_dataset(pairs=7),
        batch_size=2,
        sampler=[5, 0],
        num_workers=1,
        multiprocessing_context="spawn",
        collate_fn=list,
    )
    [[item, other]] = list(frames)
    frame = store[5]
    assert (item["key"], other["key"]) == (frame.key, store[0].key)
    np.testing.assert_array_equal(item["points"], frame.cloud.points)
    np.testing.assert_array_equal(item["labels"], frame.labels)
    rows = item["pair_point"].numpy()  # pair i is point i in this recording
    assert len({*rows.tolist()}) == 7
    np.testing.assert_array_equal(item["features"], frame.features(rows=rows))
    np.testing.assert_array_equal(item["pair_uv"], frame.pairs.uv[rows])


def test_a_torch_dataset_draws_other_pairs_each_time_by_torchs_generator(store: FrameStore) -> None:
    dataset = store.torch_dataset(pairs=50)
    assert len(dataset) == 12
    torch.manual_seed(3)
    first, second = (dataset[0]["pair_point"] for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(dataset[0]["pair_point"], first)
    assert not torch.equal(first, second)
    with pytest.raises(StoreError, match="name a feature layer of the store"):
        store.torch_dataset(layer="features/other")
