"""Layers of superpixels through all that is done with a store."""

import gc
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import zarr
from claimed import extract_command, start
from object_server import Bucket
from store_files import tree
from tiny_recording import TEACHER, recording_config

import p2pkit
from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.errors import ConfigError, FingerprintError, StoreError
from p2pkit.geometry.maps.superpixels import SuperpixelConfig, superpixels
from p2pkit.layers.features import FeatureConfig
from p2pkit.layers.geometry import decode_geometry
from p2pkit.pipelines.extract import plan
from p2pkit.pipelines.extract.mend import RepairConfig, RepairReport, SourceConfig
from p2pkit.pipelines.extract.mend import run as run_repair
from p2pkit.pipelines.extract.run import Progress, run
from p2pkit.pipelines.shards.convert import convert_store
from p2pkit.pipelines.shards.drop_layer import drop_layer
from p2pkit.pipelines.shards.merge import MergeConfig, merge_stores
from p2pkit.pipelines.shards.transfer import TransferConfig
from p2pkit.pipelines.shards.transfer import run as transfer
from p2pkit.store.reading import Store, open_store
from p2pkit.store.storages import STORAGES
from p2pkit.store.summary import store_summary
from p2pkit.store.tar.reader import TarShard
from p2pkit.store.verifying import verify_store
from p2pkit.stream import webdataset_pipeline

CUT = SuperpixelConfig(20)
OTHERS = ("geometry/", "features/")
KINDS = (*OTHERS, "superpixels/")


def times(store: Path, *kinds: str) -> dict[str, int]:
    """When the files of some kinds of layers were written; of all that are there for none."""
    names = [name for name in tree(store) if name.startswith(kinds or KINDS)]
    return {name: (store / name).stat().st_mtime_ns for name in names}


def contents(store: Store, layer: str) -> dict[str, tuple[bytes, Any]]:
    """Ids and JSON of each sample of a layer of superpixels, by key."""
    found: dict[str, tuple[bytes, Any]] = {}
    for shard, keys in enumerate(store.all_keys()):
        for row, key in enumerate(keys):
            sample = store.read(layer, shard, row)
            found[key] = (sample.arrays["superpixel"].tobytes(), sample.meta)
    return found


@pytest.fixture
def store(cut_store: Path, tmp_path: Path) -> Path:
    """A copy of `cut_store`, to be changed."""
    return shutil.copytree(cut_store, tmp_path / "store")


def damage(store: Path, shard: int = 2) -> Path:
    """Flip a bit of the superpixels of a shard's first sample."""
    opened = open_store(store)
    [layer] = opened.superpixel_layers
    tar = opened.shard(layer, shard)
    assert isinstance(tar, TarShard)
    payload, path = bytes(tar.payload(0, "superpixel")), store / layer / f"{shard:06d}.tar"
    data = bytearray(path.read_bytes())
    data[data.index(payload) + len(payload) - 1] ^= 4
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("storage", STORAGES)
def test_each_pair_has_the_superpixel_of_its_pixel(
    room_recording: Path, tmp_path: Path, storage: str
) -> None:
    config = recording_config(
        room_recording, tmp_path / "out", format=storage, superpixels=CUT, limit=5
    )
    store = open_store(run(config))
    assert verify_store(config.out, deep=True).ok
    [layer] = store.superpixel_layers
    assert len(store.feature_layers) == 1
    source = open_source("posed-rgbd", SourceOptions(root=room_recording, limit=5))
    for key in list(source.keys()):
        place = store.find(key)
        cloud = decode_geometry(store.read("geometry", *place))
        sample = store.read(layer, *place)
        image = superpixels(source.load(key).views[0].image, CUT)
        u, v = np.rint(cloud.pair_uv).astype(int).T
        assert np.array_equal(sample.arrays["superpixel"], image[v, u])
        assert sample.meta["superpixels"] == [image.max() + 1]
        assert len(np.unique(sample.arrays["superpixel"])) > 5


def test_a_store_that_is_there_gets_them_without_being_rewritten(
    room_recording: Path, room_store: Path, cut_store: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(room_store, tmp_path / "out")
    before = times(out, *OTHERS)
    reports: list[Progress] = []
    config = recording_config(room_recording, out, superpixels=CUT)
    run(config, progress=reports.append)
    assert times(out, *OTHERS) == before
    assert tree(out) == tree(cut_store)
    assert reports[-1] == Progress(done=12, total=12, failed=0)
    written = times(out)
    run(config)
    run(recording_config(room_recording, out))  # without naming them they stay
    assert times(out) == written
    run(replace(config, superpixels=SuperpixelConfig(20, 2.5)))
    both = open_store(out).superpixel_layers
    assert len(both) == 2
    assert both[0] in open_store(cut_store).superpixel_layers
    assert verify_store(out, deep=True).ok


def test_a_teacher_and_superpixels_are_added_at_once(
    room_recording: Path, room_store: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(room_store, tmp_path / "out")
    features = FeatureConfig(teacher=replace(TEACHER, layer=1))
    config = recording_config(room_recording, out, features=features, superpixels=CUT)
    run(config)
    store = open_store(out)
    assert (len(store.feature_layers), len(store.superpixel_layers)) == (2, 1)
    assert verify_store(out, deep=True).ok
    fresh = tree(run(replace(config, out=tmp_path / "fresh")))
    added = store.feature_layers[1], *store.superpixel_layers
    for layer in added:
        mine = {name: data for name, data in tree(out).items() if name.startswith(layer)}
        assert mine == {name: data for name, data in fresh.items() if name.startswith(layer)}
        assert len(mine) == 6


def test_an_interrupted_run_goes_on_where_it_was(
    room_recording: Path, cut_store: Path, tmp_path: Path
) -> None:
    config = recording_config(room_recording, tmp_path / "out", superpixels=CUT)

    def stop(report: Progress) -> None:
        if report.done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, progress=stop)
    done = times(config.out)
    assert 0 < len(done) < len(times(cut_store))
    run(config)
    assert tree(config.out) == tree(cut_store)
    assert {name: times(config.out)[name] for name in done} == done
    [record] = config.out.glob("superpixels/*/000001.json")
    record.unlink()
    kept = times(config.out, *OTHERS)
    run(config)
    assert tree(config.out) == tree(cut_store)
    assert times(config.out, *OTHERS) == kept


@pytest.mark.slow
def test_several_workers_share_the_shards(
    room_recording: Path, room_store: Path, cut_store: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(room_store, tmp_path / "out")
    command = extract_command(room_recording, out, "--superpixels", "slic:20")
    workers = [start(command) for _ in range(2)]
    outputs = [worker.communicate() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    assert tree(out) == tree(cut_store)


def test_a_flipped_byte_is_found(store: Path) -> None:
    path = damage(store, 1)
    [problem, *_] = verify_store(store, deep=True).problems
    assert (problem.layer, problem.shard) == (f"superpixels/{path.parent.name}", 1)


def repair(store: Path, recording: Path | None = None) -> RepairReport:
    return run_repair(RepairConfig(store, SourceConfig(root=recording), drop=recording is None))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped byte": damage,
    "a cut shard": lambda store: os.truncate(*store.glob("superpixels/*/000002.tar"), 999),
    "a lost record": lambda store: next(store.glob("superpixels/*/000002.json")).unlink(),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_the_recording_brings_them_back_to_the_byte(
    name: str, store: Path, cut_store: Path, room_recording: Path
) -> None:
    DAMAGES[name](store)
    before = times(store, *OTHERS)
    report = repair(store, room_recording)
    assert [(a.layer.split("/")[0], a.shard, a.what) for a in report.actions] == [
        ("superpixels", 2, "extract")
    ]
    assert tree(store) == tree(cut_store)
    assert times(store, *OTHERS) == before


def test_without_the_recording_their_lost_frames_leave_every_layer(
    store: Path, cut_store: Path, room_recording: Path
) -> None:
    damage(store)
    report = repair(store)
    assert {action.what for action in report.actions} == {"drop"}
    assert report.verified is not None
    assert report.verified.ok
    assert open_store(store).samples < 12
    repair(store, room_recording)
    assert tree(store) == tree(cut_store)


def test_another_scikit_image_does_not_repair_them(
    store: Path, room_recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(store)
    before = tree(store)
    monkeypatch.setattr("p2pkit.settings.layers.version", lambda name: "0.1.0")
    with pytest.raises(FingerprintError, match=r"superpixels\.library is 'scikit-image .* 0\.1\.0"):
        repair(store, room_recording)
    assert tree(store) == before


@pytest.mark.parametrize("storage", STORAGES)
def test_converted_there_and_back(storage: str, room_recording: Path, tmp_path: Path) -> None:
    config = recording_config(
        room_recording, tmp_path / "a", format=storage, superpixels=CUT, limit=6
    )
    first = open_store(run(config))
    other = next(name for name in STORAGES if name != storage)
    second = open_store(convert_store(first.root, out=tmp_path / "b", storage=other))
    [layer] = first.superpixel_layers
    assert second.superpixel_layers == (layer,)
    assert contents(second, layer) == contents(first, layer)
    assert verify_store(tmp_path / "b", deep=True).ok
    convert_store(tmp_path / "b", out=tmp_path / "c", storage=storage)
    assert tree(tmp_path / "c") == tree(tmp_path / "a")
    assert tree(tmp_path / "b") == tree(run(replace(config, out=tmp_path / "d", format=other)))


def test_dropped_and_added_again(store: Path, cut_store: Path, room_recording: Path) -> None:
    before = tree(store)
    [layer] = open_store(store).superpixel_layers
    found = drop_layer(store, "slic")
    assert (found.name, found.files) == (layer, 6)
    assert not (store / layer).exists()
    assert open_store(store).superpixel_layers == ()
    assert verify_store(store, deep=True).ok
    left = {name: data for name, data in before.items() if not name.startswith("superpixels")}
    assert tree(store).keys() == left.keys()
    run(recording_config(room_recording, store, superpixels=CUT))
    assert tree(store) == tree(cut_store)


def test_merged(store: Path, tmp_path: Path) -> None:
    [layer] = open_store(store).superpixel_layers
    old = contents(open_store(store), layer)
    config = MergeConfig(stores=(store, store), out=tmp_path / "merged", prefixes=("a_", "b_"))
    made = open_store(merge_stores(config))
    [name] = made.superpixel_layers
    assert name == f"superpixels/slic-{made.layer(name).fingerprint_sha256[:8]}" != layer
    assert made.layer(name).details == {"superpixels": "slic:20:6"}
    found = contents(made, name)
    assert found == {prefix + key: old[key] for prefix in ("a_", "b_") for key in old}
    assert verify_store(made.root, deep=True).ok


def test_stores_cut_in_other_ways_do_not_merge(
    room_recording: Path, room_store: Path, store: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    run(recording_config(room_recording, other, superpixels=SuperpixelConfig(30)))
    prefixes = ("a_", "b_")
    with pytest.raises(FingerprintError, match=r"superpixels\.n_segments is 20 in the first, 30"):
        merge_stores(MergeConfig((store, other), tmp_path / "out", prefixes))
    with pytest.raises(StoreError, match=r"superpixels/slic-\w+ of .* has no layer of its kind"):
        merge_stores(MergeConfig((store, room_store), tmp_path / "out", prefixes))


def test_pushed_and_pulled(store: Path, bucket: Bucket, tmp_path: Path) -> None:
    [layer] = open_store(store).superpixel_layers
    assert transfer(TransferConfig(str(store), bucket.url())).copied == 9
    assert open_store(bucket.url()).superpixel_layers == (layer,)
    transfer(TransferConfig(bucket.url(), str(tmp_path / "back")))
    assert tree(tmp_path / "back") == tree(store)
    transfer(TransferConfig(bucket.url(), str(tmp_path / "part"), layers=("slic",)))
    part = open_store(tmp_path / "part")
    assert (part.feature_layers, part.superpixel_layers) == ((), (layer,))


# webdataset leaves its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_stock_webdataset_reads_them(cut_store: Path) -> None:
    store = open_store(cut_store)
    [layer] = store.superpixel_layers
    items = list(webdataset_pipeline(store))
    gc.collect()
    samples = [item["frame"].samples[layer] for item in items]
    found = {one.key: (one.arrays["superpixel"].tobytes(), one.meta) for one in samples}
    assert found == contents(store, layer)


def test_the_zarr_view_shows_them(cut_store: Path) -> None:
    store = open_store(cut_store)
    [layer] = store.superpixel_layers
    view = zarr.open_group(p2pkit.open_zarr(cut_store), mode="r")
    assert sorted(view) == ["features", "geometry", "superpixels"]
    assert list(view["superpixels"]) == [layer.split("/")[1]]
    assert list(view["features"]) == [store.feature_layers[0].split("/")[1]]
    for key, (ids, meta) in contents(store, layer).items():
        sample = view[f"{layer}/samples/{key}"]
        assert dict(sample.attrs) == meta
        assert np.asarray(sample["superpixel"][:]).tobytes() == ids


def test_the_summary_says_how_they_were_cut(cut_store: Path) -> None:
    layer = store_summary(open_store(cut_store), samples=3)["layers"][2]
    assert layer["provenance"] == {
        "superpixels": "slic:20:6",
        "library": f"scikit-image {skimage.__version__}",
    }
    assert layer["statistics"]["fields"]["superpixel"]["min"] == 0
    json.dumps(layer)


def test_a_plan_tells_their_bytes(room_recording: Path, cut_store: Path, tmp_path: Path) -> None:
    extraction = recording_config(room_recording, tmp_path / "none", superpixels=CUT)
    found = plan.run(plan.PlanConfig(extraction, frames=12))
    store = open_store(cut_store)
    [layer] = store.superpixel_layers
    row = found.layers[2]
    assert (row.name, row.codecs, row.frames_done) == (layer, {"superpixel": "zstd"}, 0)
    assert row.bytes == sum(record.bytes for record in store.records(layer))
    assert found.bytes == sum(row.bytes for row in found.layers)
    done = plan.run(plan.PlanConfig(replace(extraction, out=cut_store), frames=2))
    assert [row.frames_done for row in done.layers] == [12, 12, 12]
    assert (done.seconds_left, done.teacher_passes_left) == (0, 0)


def test_their_codec_is_chosen_and_kept(room_recording: Path, tmp_path: Path) -> None:
    config = recording_config(
        room_recording, tmp_path / "out", limit=4, superpixels=CUT, codecs={"superpixel": "lz4"}
    )
    store = open_store(run(config))
    [layer] = store.superpixel_layers
    assert store.layer(layer).field("superpixel").codec == "lz4"
    run(replace(config, codecs={}))
    with pytest.raises(FingerprintError, match="codec is 'lz4' in the store, 'zstd' now"):
        run(replace(config, codecs={"superpixel": "zstd"}))
    with pytest.raises(ConfigError, match="codec of unknown field 'superpixel'; the fields are"):
        run(replace(config, superpixels=None))
