"""Tar and Zarr stores, converted or extracted so, are the same to all that reads them."""

from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from store_files import tree
from tiny_recording import recording_config, tiny_train_config

import p2pkit
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.shards.convert import convert_store
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.logs import read_metrics
from p2pkit.store.reading import open_store
from p2pkit.stream.batches import Batch, BatchStream, StreamConfig, StreamSource
from p2pkit.stream.samples import SampleConfig


@pytest.fixture(scope="module")
def zarr_store(room_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`room_store`, converted."""
    out = tmp_path_factory.mktemp("zarr") / "rooms.store"
    return convert_store(room_store, out=out, storage="zarr")


def batches(store: Path) -> list[Batch]:
    opened = open_store(store)
    config = StreamConfig(batch_size=5, sample=SampleConfig(voxel_size=0.2, pairs_per_frame=20))
    (layer,) = opened.feature_layers
    source = StreamSource(opened, layer, np.arange(12))
    return list(BatchStream([source], config=config).batches(0, 4))


def test_extracting_to_zarr_gives_the_files_of_a_conversion(
    room_recording: Path, zarr_store: Path, tmp_path: Path
) -> None:
    out = extract.run(recording_config(room_recording, tmp_path / "out", format="zarr"))
    assert tree(out) == tree(zarr_store)


def test_a_conversion_there_and_back_gives_the_same_files(
    room_store: Path, zarr_store: Path, tmp_path: Path
) -> None:
    assert tree(convert_store(zarr_store, out=tmp_path / "tar", storage="tar")) == tree(room_store)


def test_the_loader_gives_the_same_batches(room_store: Path, zarr_store: Path) -> None:
    for ours, theirs in zip(batches(room_store), batches(zarr_store), strict=True):
        assert ours.step == theirs.step
        for name, value in vars(ours).items():
            if torch.is_tensor(value):
                assert torch.equal(value, getattr(theirs, name)), name


def test_the_trainer_runs_on_either(room_store: Path, zarr_store: Path, tmp_path: Path) -> None:
    losses: list[float] = []
    for number, store in enumerate((room_store, zarr_store)):
        out = train.run(tiny_train_config(store, steps=1), tmp_path / str(number))
        losses.append(read_metrics(out)[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_view_of_an_extraction_has_its_maps_and_poses(room_store: Path) -> None:
    store = open_store(room_store)
    (layer,) = store.feature_layers
    view = zarr.open_group(p2pkit.open_zarr(room_store), mode="r")
    maps = view[f"{layer}/stacked/map"]
    keys = list(view[f"{layer}/stacked"].attrs["keys"])
    assert maps.shape[0] == len(keys) == 12
    for row, key in enumerate(keys):
        place = store.find(key)
        np.testing.assert_array_equal(maps[row], store.read(layer, *place).arrays["map"])
        geometry = store.read("geometry", *place)
        node = view[f"geometry/samples/{key}"]
        assert dict(node.attrs) == geometry.meta
        for name, array in geometry.arrays.items():
            np.testing.assert_array_equal(node[name][:], array)
