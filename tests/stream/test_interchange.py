"""Shards through stock webdataset, decoded."""

import gc
import shutil

import numpy as np
import pytest
from torch.utils.data import DataLoader

import p2pkit
from p2pkit.errors import StoreError
from p2pkit.store.manifest import FieldSpec, LayerSpec, Manifest, Plan, Sample
from p2pkit.store.reading import open_store
from p2pkit.store.writing import create_or_open
from p2pkit.stream import webdataset_pipeline

FIELDS = (
    FieldSpec("colors", "|u1", ("points", "rgb")),
    FieldSpec("pixel", "<u4", ("points",), "px", "delta-shuffle-lz4"),
)


def write_store(path, storage, shard_size=3):
    layer = LayerSpec(name="geometry", fields=FIELDS, fingerprint={"made": "by hand"})
    plan = Plan(seed=0, shard_size=shard_size, frames=5)
    manifest = Manifest(dataset={"dataset": "test"}, plan=plan, storage=storage, layers=(layer,))
    writer = create_or_open(path, manifest)
    random = np.random.default_rng(0)
    samples = [
        Sample(
            key=f"frame-{i}",
            arrays={
                "colors": random.integers(0, 256, (i + 2, 3), dtype=np.uint8),
                "pixel": np.sort(random.integers(0, 1 << 20, i + 2)).astype(np.uint32),
            },
            meta={"number": i},
        )
        for i in range(5)
    ]
    for shard, start in enumerate(range(0, len(samples), shard_size)):
        writer.write("geometry", shard, samples[start : start + shard_size])
    return samples


# webdataset leaves its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_every_sample_comes_decoded_in_shard_order(tmp_path):
    samples = write_store(tmp_path / "store", "tar")
    items = list(webdataset_pipeline(tmp_path / "store"))
    gc.collect()
    assert [item["__key__"] for item in items] == [sample.key for sample in samples]
    for item, sample in zip(items, samples, strict=True):
        found = item["frame"].samples["geometry"]
        assert found.meta == sample.meta
        for name, array in sample.arrays.items():
            np.testing.assert_array_equal(found.arrays[name], array)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_layers_come_joined_as_the_store_itself_gives_them(room_store):
    frames = [item["frame"] for item in webdataset_pipeline(room_store).shuffle(4)]
    gc.collect()
    store = p2pkit.open_store(room_store)
    assert sorted(frame.key for frame in frames) == sorted(frame.key for frame in store)
    for frame in frames[:2]:
        same = store[frame.key]
        np.testing.assert_array_equal(frame.features(), same.features())
        np.testing.assert_array_equal(frame.cloud.points, same.cloud.points)
        np.testing.assert_array_equal(frame.labels, same.labels)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_layers_in_another_order_are_not_joined(room_store, tmp_path):
    shutil.copytree(room_store, tmp_path / "store")
    first, second, *_ = sorted((tmp_path / "store" / "features").glob("*/*.tar"))
    shutil.copy(second, first)
    with pytest.raises(StoreError, match="differ in their order: "):
        list(webdataset_pipeline(tmp_path / "store"))
    gc.collect()


# A machine with one core warns of two workers.
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_a_loader_may_have_more_workers_than_the_store_has_shards(tmp_path):
    samples = write_store(tmp_path / "store", "tar", shard_size=5)
    pipeline = webdataset_pipeline(tmp_path / "store")
    loader = DataLoader(pipeline, batch_size=None, num_workers=2, multiprocessing_context="spawn")
    assert [item["__key__"] for item in loader] == [sample.key for sample in samples]


def test_another_storage_is_refused(tmp_path):
    write_store(tmp_path / "store", "tar")
    store = open_store(tmp_path / "store")
    object.__setattr__(store.manifest, "storage", "zarr")
    with pytest.raises(StoreError, match="stored as zarr"):
        webdataset_pipeline(store)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_stock_webdataset_finds_the_samples_alone(tmp_path):
    import webdataset

    samples = write_store(tmp_path / "store", "tar")
    shards = [str(path) for path in sorted((tmp_path / "store").glob("geometry/*.tar"))]
    rows = list(webdataset.WebDataset(shards, shardshuffle=False))
    gc.collect()
    assert [row["__key__"] for row in rows] == [sample.key for sample in samples]


def test_stock_hugging_face_datasets_finds_the_samples_alone(tmp_path, monkeypatch):
    reason = "Hugging Face's datasets is not installed: pip install datasets"
    datasets = pytest.importorskip("datasets", reason=reason)
    if not hasattr(datasets, "load_dataset"):
        pytest.skip(reason)  # what was imported is tests/datasets
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    samples = write_store(tmp_path / "store", "tar")
    shards = [str(path) for path in sorted((tmp_path / "store").glob("geometry/*.tar"))]
    rows = datasets.load_dataset(
        "webdataset", data_files={"train": shards}, split="train", streaming=True
    )
    assert [row["__key__"] for row in rows] == [sample.key for sample in samples]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_two_lines_decode_a_compressed_field_of_stock_webdataset(tmp_path):
    import io

    import webdataset

    from p2pkit.store.codecs import decode

    samples = write_store(tmp_path / "store", "tar")
    shards = [str(path) for path in sorted((tmp_path / "store").glob("geometry/*.tar"))]
    row = next(iter(webdataset.WebDataset(shards, shardshuffle=False)))
    pixel = decode(memoryview(row["pixel.npy"]), "delta-shuffle-lz4")
    gc.collect()
    np.testing.assert_array_equal(pixel, samples[0].arrays["pixel"])
    colors = np.load(io.BytesIO(row["colors.npy"]))
    np.testing.assert_array_equal(colors, samples[0].arrays["colors"])
