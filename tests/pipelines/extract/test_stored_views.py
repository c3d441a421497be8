"""Stores that keep the teacher's maps of several views of each image, and training from them."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny_recording import TEACHER, recording_config

from p2pkit.cli.main import commands
from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.errors import ConfigError, StoreError
from p2pkit.geometry.maps.sample_map import sample_map
from p2pkit.layers.features import FeatureConfig, pair_cells, pair_features
from p2pkit.layers.geometry import PointCloud, decode_geometry
from p2pkit.layers.map_coding import pca_basis
from p2pkit.pipelines.extract import plan
from p2pkit.pipelines.extract.mend import RepairConfig, SourceConfig
from p2pkit.pipelines.extract.mend import run as repair
from p2pkit.pipelines.extract.run import run
from p2pkit.pipelines.shards.convert import convert_store
from p2pkit.store.manifest import Sample
from p2pkit.store.reading import Store, open_store
from p2pkit.store.storages import STORAGES
from p2pkit.store.verifying import verify_store
from p2pkit.stream.batches import Batch, BatchStream, StreamConfig, StreamSource
from p2pkit.stream.samples import SampleConfig
from p2pkit.teachers import open_teacher
from p2pkit.teachers.views import View

VIEWS = "flip,scale:0.75,scale:1.5"
KEYS = ("scene-0_frame-000000", "scene-2_frame-000001")
SAMPLE = SampleConfig(inputs=("color",), voxel_size=0.2, pairs_per_frame=20)


def extracted(recording: Path, out: Path, **changes: Any) -> Path:
    storage = changes.pop("format", "tar")
    features = FeatureConfig(teacher=TEACHER, **{"stored_views": VIEWS, **changes})
    return run(recording_config(recording, out, features=features, format=storage))


@pytest.fixture(scope="module", params=STORAGES)
def store(
    room_recording: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Path:
    out = tmp_path_factory.mktemp("views") / "store"
    return extracted(room_recording, out, format=request.param)


@pytest.fixture(scope="module")
def tar_store(room_recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return extracted(room_recording, tmp_path_factory.mktemp("views") / "store")


def frame(store: Store, key: str) -> tuple[PointCloud, Sample]:
    place = store.find(key)
    cloud = decode_geometry(store.read("geometry", *place))
    return cloud, store.read(store.feature_layers[0], *place)


@pytest.mark.parametrize("key", KEYS)
def test_the_mirror_image_is_sampled_at_the_mirrored_pixel(
    room_recording: Path, store: Path, key: str
) -> None:
    image = open_source("posed-rgbd", SourceOptions(room_recording)).load(key).views[0].image
    size = (image.shape[1], image.shape[0])
    teacher = open_teacher(TEACHER)
    cloud, sample = frame(open_store(store), key)
    rows = np.arange(0, len(cloud.pair_point), 5)
    uv = cloud.pair_uv[rows].astype(np.float64)
    mirrored_uv = np.stack([size[0] - 1 - uv[:, 0], uv[:, 1]], axis=1)
    mirrored = np.ascontiguousarray(image[:, ::-1])
    wanted = sample_map(
        teacher.features([mirrored])[0], teacher.grid(size).cell_from_pixel(mirrored_uv, size)
    )
    found = pair_features(sample, cloud, rows, view=1)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert np.abs(found - pair_features(sample, cloud, rows)).max() > 0.05


@pytest.mark.parametrize(("view", "scale"), [(2, 0.75), (3, 1.5)])
def test_a_resized_image_has_a_map_of_its_own_size(
    room_recording: Path, store: Path, view: int, scale: float
) -> None:
    image = open_source("posed-rgbd", SourceOptions(room_recording)).load(KEYS[0]).views[0].image
    resized = View(scale=scale).of(image)
    size = (resized.shape[1], resized.shape[0])
    assert size == (64 * scale, 48 * scale)
    teacher = open_teacher(TEACHER)
    cloud, sample = frame(open_store(store), KEYS[0])
    grid, maps = teacher.grid(size), sample.arrays[f"map_{view}"]
    assert np.array_equal(maps, teacher.features([resized]))
    assert maps.shape[1:3] == grid.cells[::-1] != sample.arrays["map"].shape[1:3]
    rows = np.arange(50)
    there = grid.cell_from_pixel((cloud.pair_uv[rows] + 0.5) * scale - 0.5, size)
    wanted = sample_map(maps[0], there)
    np.testing.assert_allclose(pair_features(sample, cloud, rows, view=view), wanted, atol=1e-5)
    nearest = np.clip(np.floor(there + 0.5), 0, np.subtract(grid.cells, 1)).astype(int)
    cells = pair_cells(sample, cloud, rows, view=view)
    assert np.array_equal(cells, nearest[:, 1] * grid.cells[0] + nearest[:, 0])


def test_readers_that_know_no_views_see_the_image_as_it_is(store: Path, room_store: Path) -> None:
    plain, opened = open_store(room_store), open_store(store)
    assert verify_store(store, deep=True).ok
    for key in KEYS:
        cloud, sample = frame(opened, key)
        _, expected = frame(plain, key)
        assert np.array_equal(sample.arrays["map"], expected.arrays["map"])
        assert sample.meta["grids"] == expected.meta["grids"]
        rows = np.arange(len(cloud.pair_point))
        assert np.array_equal(
            pair_features(sample, cloud, rows), pair_features(expected, cloud, rows)
        )
        with pytest.raises(StoreError, match="stores no view 4; it has 0 to 3"):
            pair_cells(sample, cloud, rows, view=4)


@pytest.mark.parametrize("coding", ["int8", "pca:8", "pca:8+int8"])
def test_coded_views(room_recording: Path, tmp_path: Path, tar_store: Path, coding: str) -> None:
    coded = open_store(extracted(room_recording, tmp_path / "out", map=coding))
    basis = pca_basis(coded.layer(coded.feature_layers[0]))
    for key in KEYS:
        cloud, sample = frame(coded, key)
        _, exact = frame(open_store(tar_store), key)
        rows = np.arange(0, len(cloud.pair_point), 3)
        for view in range(4):
            found = pair_features(sample, cloud, rows, basis=basis, view=view)
            wanted = pair_features(exact, cloud, rows, view=view)
            lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
            assert np.mean(np.sum(found * wanted, axis=1) / lengths) > (0.9 if basis else 0.999)


def stream(store: Path, teacher_view: str, *, rank: int = 0, ranks: int = 1) -> BatchStream:
    opened = open_store(store)
    sample = replace(SAMPLE, teacher_view=teacher_view)
    config = StreamConfig(batch_size=6, sample=sample, threads=2)
    source = StreamSource(opened, opened.feature_layers[0], np.arange(12))
    return BatchStream([source], config=config, rank=rank, ranks=ranks)


def views_of(store: Path, batch: Batch, batches: BatchStream) -> list[int]:
    """The view that each pair's feature is of: that which has the feature in its frame."""
    opened, found = open_store(store), []
    features = batch.pair_feature.numpy().reshape(6, 20, -1)
    for place, mine in zip(batches.order.batch(batch.step, 6), features, strict=True):
        shard, row = batches.order.orders[0].locate(place.sample)
        cloud = decode_geometry(opened.read("geometry", shard, row))
        sample = opened.read(opened.feature_layers[0], shard, row)
        rows = np.arange(len(cloud.pair_point))
        known = [pair_features(sample, cloud, rows, view=view) for view in range(4)]
        for feature in mine:
            apart = [np.abs(one - feature).max(axis=1).min() for one in known]
            assert min(apart) == 0
            found.append(int(np.argmin(apart)))
    return found


def test_each_sample_draws_a_view(tar_store: Path) -> None:
    batches = stream(tar_store, "random")
    drawn: Counter[int] = Counter()
    for batch in batches.batches(0, 6):
        views = np.reshape(views_of(tar_store, batch, batches), (6, 20))
        assert (views == views[:, :1]).all()
        drawn.update(views[:, 0].tolist())
    assert set(drawn) == {0, 1, 2, 3}


def test_each_pair_draws_a_view(tar_store: Path) -> None:
    batches = stream(tar_store, "random-per-pair")
    views = views_of(tar_store, next(batches.batches(0, 1)), batches)
    assert set(views) == {0, 1, 2, 3}


@pytest.mark.parametrize("teacher_view", ["random", "random-per-pair"])
def test_any_number_of_ranks_draws_the_same(tar_store: Path, teacher_view: str) -> None:
    expected = list(stream(tar_store, teacher_view).batches(0, 4))
    for ranks in (2, 3):
        parts = [
            list(stream(tar_store, teacher_view, rank=rank, ranks=ranks).batches(1, 4))
            for rank in range(ranks)
        ]
        for step in range(1, 4):
            joined = torch.cat([part[step - 1].pair_feature for part in parts])
            assert torch.equal(joined, expected[step].pair_feature)


def test_without_a_choice_the_image_is_taken(tar_store: Path, room_store: Path) -> None:
    """And what else is random about a sample depends on no view."""
    plain = list(stream(room_store, "random").batches(0, 3))
    image = list(stream(tar_store, "image").batches(0, 3))
    drawn = list(stream(tar_store, "random").batches(0, 3))
    for one, two, three in zip(plain, image, drawn, strict=True):
        for name in ("coordinates", "inputs", "pair_voxel", "pair_cell", "pair_feature"):
            assert torch.equal(getattr(one, name), getattr(two, name))
        for name in ("coordinates", "inputs", "pair_voxel"):
            assert torch.equal(getattr(one, name), getattr(three, name))
    with pytest.raises(ConfigError, match="extract with --views flip --views-as stored"):
        stream(room_store, "random-per-pair")


def test_only_the_drawn_views_map_is_read(tar_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []
    whole = Store.read

    def watched(self: Store, layer: str, shard: int, row: int, fields: Any = None) -> Sample:
        if layer != "geometry":
            read.append(fields)
        return whole(self, layer, shard, row, fields)

    monkeypatch.setattr(Store, "read", watched)
    list(stream(tar_store, "random").batches(0, 4))
    assert {tuple(fields) for fields in read} == {("map",), ("map_1",), ("map_2",), ("map_3",)}


def test_a_lost_shard_is_extracted_again(
    room_recording: Path, tar_store: Path, tmp_path: Path
) -> None:
    layer = open_store(tar_store).manifest.layers[1]
    assert layer.details["stored_views"] == layer.fingerprint["stored_views"] == VIEWS
    assert "views" not in layer.fingerprint["teacher"]
    path = tar_store / layer.name / "000001.tar"
    whole = path.read_bytes()
    path.unlink()
    repair(RepairConfig(tar_store, SourceConfig(root=room_recording)))
    assert path.read_bytes() == whole
    convert_store(tar_store, out=tmp_path / "zarr", storage="zarr")
    assert verify_store(tmp_path / "zarr", deep=True).ok


def test_the_plan_counts_every_look(room_recording: Path, tmp_path: Path) -> None:
    def passes(**changes: Any) -> int:
        features = FeatureConfig(**{"teacher": TEACHER, **changes})
        config = recording_config(room_recording, tmp_path / "none", features=features)
        return plan.run(plan.PlanConfig(config, frames=2)).teacher_passes

    assert passes() == 12
    assert passes(stored_views=VIEWS) == 48
    assert passes(teacher=replace(TEACHER, views="flip")) == 24


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"layout": "pixels"}, "cannot be stored by the layout pixels"),
        ({"stored_views": "flip,flip"}, "name one twice"),
        ({"stored_views": "flop"}, "write flip, scale:S"),
        ({"teacher": replace(TEACHER, input_size=(64, 48))}, "leave one of them out"),
    ],
)
def test_what_cannot_be_stored_is_refused(
    room_recording: Path, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    features = FeatureConfig(**{"teacher": TEACHER, "stored_views": VIEWS, **changes})
    with pytest.raises(ConfigError, match=named):
        run(recording_config(room_recording, tmp_path / "out", features=features))
    assert not (tmp_path / "out").exists()


def test_the_command_line_stores_and_trains(tmp_path: Path) -> None:
    small = ["--teacher", "resnet10t", "--layer", "2", "--weights", "random", "--limit", "3"]
    views = ["--views", "flip,scale:0.5", "--views-as", "stored"]
    out, trained = str(tmp_path / "demo.store"), str(tmp_path / "run")
    invoke = CliRunner().invoke
    made = invoke(commands, ["extract", "--dataset", "demo-scene", *small, *views, "--out", out])
    assert made.exit_code == 0, made.output
    names = [field.name for field in open_store(out).manifest.layers[1].fields]
    assert names == ["map", "map_1", "map_2"]
    slim = ["--preset", "cpu-small", "--steps", "1", "--set", "stream.batch_size=1"]
    per_pair = ["--set", "stream.sample.teacher_view=random-per-pair"]
    result = invoke(commands, ["train", out, "--out", trained, *slim, *per_pair])
    assert result.exit_code == 0, result.output
