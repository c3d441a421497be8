import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from store_files import tree
from tiny_recording import TEACHER, recording_config, write_recording

from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.errors import ConfigError, FingerprintError, SourceError, StoreError
from p2pkit.layers.digests import INPUTS, input_digests
from p2pkit.layers.features import FeatureConfig, pair_features, usable_pairs
from p2pkit.layers.geometry import GeometryConfig, decode_geometry, encode_geometry
from p2pkit.layers.map_coding import pca_basis
from p2pkit.pipelines.extract.run import ExtractConfig, Progress, run
from p2pkit.store.reading import Store, open_store
from p2pkit.store.storages import STORAGES
from p2pkit.store.verifying import verify_store
from p2pkit.teachers import TeacherOptions, open_teacher


def all_places(store: Store) -> dict[str, tuple[int, int]]:
    shards = range(store.manifest.plan.shards)
    return {key: (shard, row) for shard in shards for row, key in enumerate(store.keys(shard))}


@pytest.mark.parametrize("storage", STORAGES)
def test_the_store_holds_each_frames_points_and_map(
    room_recording: Path, tmp_path: Path, storage: str
) -> None:
    config = recording_config(room_recording, tmp_path / "out", format=storage)
    reports: list[Progress] = []
    store = open_store(run(config, progress=reports.append))
    source = open_source("posed-rgbd", SourceOptions(root=room_recording))
    assert sorted(all_places(store)) == sorted(source.keys())
    assert verify_store(config.out, deep=True).ok
    assert (config.out / "failures.jsonl").read_bytes() == b""
    assert reports[-1] == Progress(done=12, total=12, failed=0)
    assert [report.done for report in reports] == sorted(report.done for report in reports)
    teacher = open_teacher(TEACHER)
    (layer,) = store.feature_layers
    for key, place in all_places(store).items():
        frame = source.load(key)
        expected = encode_geometry(frame, config.geometry)
        sample = store.read("geometry", *place)
        expected_meta = {**expected.meta, INPUTS: input_digests(frame)}
        assert sample.meta == json.loads(json.dumps(expected_meta))
        assert {name: array.tobytes() for name, array in sample.arrays.items()} == {
            name: array.tobytes() for name, array in expected.arrays.items()
        }
        maps = store.read(layer, *place).arrays["map"]
        assert np.array_equal(maps, teacher.features([frame.views[0].image]))


def test_running_again_changes_nothing(
    room_recording: Path, room_store: Path, tmp_path: Path
) -> None:
    store = shutil.copytree(room_store, tmp_path / "rooms.store")
    before = {path: path.stat().st_mtime_ns for path in store.rglob("0*")}
    content = tree(store)
    reports: list[Progress] = []
    run(recording_config(room_recording, store), progress=reports.append)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("0*")} == before
    assert tree(store) == content
    assert reports[0].done == 12


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"geometry": GeometryConfig(voxel_size=0.03)}, "voxel_size is 0.02 in the store, 0.03"),
        ({"geometry": GeometryConfig(0.02, depth_max=3.0)}, "depth_max is 10.0 in the store, 3.0"),
        ({"seed": 3}, "plan.seed is 0 in the store, 3 now"),
        ({"shard_size": 5}, "plan.shard_size is 4 in the store, 5 now"),
        ({"limit": 6}, "plan.frames is 12 in the store, 6 now"),
        (
            {"limit": 6},
            "other inputs: limit is not set in the store, 6 now; .*Use the same settings",
        ),
        ({"every": 2}, "other inputs: every is 1 in the store, 2 now; .*Use the same settings"),
    ],
)
def test_other_settings_are_refused_by_name(
    room_recording: Path, room_store: Path, changes: dict[str, Any], named: str
) -> None:
    content = tree(room_store)
    with pytest.raises(FingerprintError, match=named):
        run(recording_config(room_recording, room_store, **changes))
    assert tree(room_store) == content


def test_a_changed_recording_is_refused(room_recording: Path, tmp_path: Path) -> None:
    root = shutil.copytree(room_recording, tmp_path / "rooms")
    config = recording_config(root, tmp_path / "out")
    run(config)
    changed = root / "scene-1" / "frame-000001.color.png"
    changed.write_bytes(changed.read_bytes() + b"x")
    with pytest.raises(FingerprintError, match="frame_list"):
        run(config)


def test_a_second_teacher_adds_a_layer_and_leaves_the_geometry(
    room_recording: Path, room_store: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(room_store, tmp_path / "out")
    geometry = {path: path.stat().st_mtime_ns for path in out.glob("geometry/*")}
    content = tree(out)
    other = FeatureConfig(teacher=replace(TEACHER, layer=1))
    run(recording_config(room_recording, out, features=other))
    assert {path: path.stat().st_mtime_ns for path in out.glob("geometry/*")} == geometry
    after = tree(out)
    assert {name: after[name] for name in content if name != "p2pkit.json"} == {
        name: content[name] for name in content if name != "p2pkit.json"
    }
    store = open_store(out)
    assert len(store.feature_layers) == 2
    assert verify_store(out, deep=True).ok
    at_once = recording_config(room_recording, tmp_path / "fresh", features=other)
    run(at_once)
    name = store.feature_layers[1]
    fresh = {key: value for key, value in tree(at_once.out).items() if key.startswith(name)}
    assert fresh == {key: value for key, value in after.items() if key.startswith(name)}


def test_pixels_hold_the_upsampled_features(
    room_recording: Path, room_store: Path, tmp_path: Path
) -> None:
    features = FeatureConfig(teacher=TEACHER, layout="pixels", pairs_per_frame=100)
    pixels = open_store(run(recording_config(room_recording, tmp_path / "o", features=features)))
    grid = open_store(room_store)
    for key, place in all_places(pixels).items():
        cloud = decode_geometry(pixels.read("geometry", *place))
        stored = pixels.read(pixels.feature_layers[0], *place)
        rows = usable_pairs(stored, cloud)
        assert len(rows) == 100
        sampled = pair_features(grid.read(grid.feature_layers[0], *grid.find(key)), cloud, rows)
        np.testing.assert_allclose(
            pair_features(stored, cloud, rows), sampled, rtol=1e-3, atol=1e-6
        )


def map_config(recording: Path, out: Path, coding: str, **changes: Any) -> ExtractConfig:
    features = FeatureConfig(teacher=TEACHER, map=coding)
    return recording_config(recording, out, features=features, **changes)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("coding", ["int8", "pca:8", "pca:8+int8"])
def test_coded_maps_give_nearly_the_same_features(
    room_recording: Path, room_store: Path, tmp_path: Path, storage: str, coding: str
) -> None:
    config = map_config(room_recording, tmp_path / "out", coding, format=storage)
    coded, plain = open_store(run(config)), open_store(room_store)
    assert verify_store(config.out, deep=True).ok
    layer = coded.layer(coded.feature_layers[0])
    basis = pca_basis(layer)
    assert layer.details["channels"] == (8 if basis else open_teacher(TEACHER).channels)
    cosines: list[float] = []
    for key, place in all_places(coded).items():
        cloud = decode_geometry(coded.read("geometry", *place))
        rows = np.arange(0, len(cloud.points), 7)
        sample = coded.read(layer.name, *place)
        found = pair_features(sample, cloud, rows)
        assert found.shape[1] == layer.details["channels"]
        assert sample.arrays["map"].dtype == (np.uint8 if "int8" in coding else np.float16)
        found = basis.reconstruct(found) if basis else found
        exact = pair_features(plain.read(plain.feature_layers[0], *plain.find(key)), cloud, rows)
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(exact, axis=1)
        cosines.append(float(np.mean(np.sum(found * exact, axis=1) / lengths)))
    assert np.mean(cosines) > (0.98 if basis else 0.9999)


def test_every_worker_uses_the_basis_that_the_first_one_fitted(
    room_recording: Path, tmp_path: Path
) -> None:
    """A rerun after a loss of shards, with other frames readable, writes the same bytes."""
    config = map_config(room_recording, tmp_path / "out", "pca:4")
    run(config)
    content = tree(config.out)
    (layer,) = open_store(config.out).feature_layers
    for path in (config.out / layer).glob("00000[12].*"):
        path.unlink()
    run(config)
    assert tree(config.out) == content
    other = run(map_config(room_recording, config.out, "pca:5"))
    assert len(open_store(other).feature_layers) == 2


def test_too_large_a_basis_is_refused(room_recording: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pca:9999 needs .* choose a smaller K"):
        run(map_config(room_recording, tmp_path / "out", "pca:9999"))


@pytest.mark.parametrize("storage", STORAGES)
def test_codecs_by_field(
    room_recording: Path, room_store: Path, tmp_path: Path, storage: str
) -> None:
    codecs = {"colors": "lz4", "map": "shuffle-zstd", "label": "shuffle-lz4"}
    config = recording_config(room_recording, tmp_path / "out", codecs=codecs, format=storage)
    coded, plain = open_store(run(config)), open_store(room_store)
    found = {spec.name: spec.codec for layer in coded.manifest.layers for spec in layer.fields}
    usual = {"depth": "delta-shuffle-lz4", "pixel": "delta-shuffle-lz4", "pair_confidence": "zstd"}
    assert found == usual | codecs
    for key, place in all_places(coded).items():
        for layer in coded.manifest.layers:
            sample, other = coded.read(layer.name, *place), plain.read(layer.name, *plain.find(key))
            for name, array in sample.arrays.items():
                assert array.tobytes() == other.arrays[name].tobytes()


def test_another_codec_is_refused_and_none_asked_for_is_the_stored_one(
    room_recording: Path, tmp_path: Path
) -> None:
    codecs = {"colors": "lz4", "map": "shuffle-zstd"}
    config = recording_config(room_recording, tmp_path / "out", codecs=codecs)
    run(config)
    content = tree(config.out)
    run(replace(config, codecs={}))
    assert tree(config.out) == content
    for field, stored in codecs.items():
        with pytest.raises(
            FingerprintError, match=rf"{field}.codec is '{stored}' in the store, 'zstd' now"
        ):
            run(replace(config, codecs={field: "zstd"}))


def test_unknown_codecs_are_refused_before_anything_is_written(
    room_recording: Path, tmp_path: Path
) -> None:
    for codecs in ({"colors": "gzip"}, {"map": "gzip"}, {"map": "delta-shuffle-lz4"}):
        with pytest.raises(StoreError, match=r"no codec is called 'gzip'|is for integers"):
            run(recording_config(room_recording, tmp_path / "out", codecs=codecs))
        assert not (tmp_path / "out").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def save_depth(path: Path, values: np.ndarray) -> None:
    Image.fromarray(values.astype(np.uint16)).save(path)


def write_pose(path: Path, pose: np.ndarray) -> None:
    np.savetxt(path, pose)


BAD_FRAMES: dict[str, tuple[Callable[[Path], object], str]] = {
    "frame-000001": (
        lambda folder: cut(folder / "frame-000001.color.png"),
        "frame-000001.color.png cannot be decoded",
    ),
    "frame-000003": (
        lambda folder: save_depth(folder / "frame-000003.depth.png", np.zeros((48, 64))),
        "no valid depth",
    ),
    "frame-000004": (
        lambda folder: save_depth(folder / "frame-000004.depth.png", np.ones((24, 32))),
        "32 x 24 px, but the calibration says 64 x 48",
    ),
    "frame-000005": (
        lambda folder: write_pose(folder / "frame-000005.pose.txt", np.full((4, 4), np.nan)),
        "frame-000005.pose.txt",
    ),
    "frame-000008": (
        lambda folder: write_pose(folder / "frame-000008.pose.txt", np.diag([2.0, 1, 1, 1])),
        "frame-000008.pose.txt",
    ),
    "frame-000009": (
        lambda folder: save_depth(folder / "frame-000009.depth.png", np.full((48, 64), 50)),
        "no point has depth in",
    ),
    "frame-000011": (
        lambda folder: (folder / "frame-000011.color.png").unlink(),
        "no colour image",
    ),
}


@pytest.fixture(scope="module")
def damaged_recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames, seven of them bad in ways of their own."""
    root = write_recording(tmp_path_factory.mktemp("damaged") / "rooms", 12)
    for damage, _ in BAD_FRAMES.values():
        damage(root)
    return root


def read_failures(store: Path) -> dict[str, dict[str, str]]:
    rows = [json.loads(line) for line in (store / "failures.jsonl").read_text().splitlines()]
    assert all(set(row) == {"key", "stage", "reason"} for row in rows)
    return {row["key"]: row for row in rows}


def test_bad_frames_become_rows_and_the_rest_is_extracted(
    damaged_recording: Path, tmp_path: Path
) -> None:
    config = recording_config(damaged_recording, tmp_path / "out", max_failure_rate=0.6)
    reports: list[Progress] = []
    store = open_store(run(config, progress=reports.append))
    failures = read_failures(config.out)
    assert set(failures) == set(BAD_FRAMES)
    for key, (_, reason) in BAD_FRAMES.items():
        assert reason in failures[key]["reason"]
        assert failures[key]["stage"] == "frame"
    good = {f"frame-{number:06d}" for number in range(12)} - set(BAD_FRAMES)
    assert set(all_places(store)) == good
    assert verify_store(config.out, deep=True).ok
    assert reports[-1] == Progress(done=12, total=12, failed=7)


def test_too_many_bad_frames_stop_the_run(damaged_recording: Path, tmp_path: Path) -> None:
    config = recording_config(damaged_recording, tmp_path / "out", max_failure_rate=0.25)
    for _ in range(5):  # also when no shard is left to write
        with pytest.raises(SourceError, match=r"of 12 frames are bad, above the allowed .* 0.25"):
            run(config)
    failures = read_failures(config.out)
    assert len(failures) > 3
    assert set(failures) <= set(BAD_FRAMES)


def test_a_recording_without_a_good_frame_is_refused(tmp_path: Path) -> None:
    root = write_recording(tmp_path / "rooms", 2)
    for number in range(2):
        cut(root / f"frame-{number:06d}.color.png")
    with pytest.raises(SourceError, match="none of the 2 frames can be read; the first: frame"):
        run(recording_config(root, tmp_path / "out"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"max_failure_rate": 1.5}, "max_failure_rate is 1.5"),
        ({"shard_size": 0}, "shard_size is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"limit": 0}, "limit is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"dataset": "posed-rgb"}, "posed-rgb"),
        ({"features": FeatureConfig(teacher=TEACHER, map="int4")}, "map is 'int4'"),
        (
            {"codecs": {"mapp": "lz4"}},
            "codec of unknown field 'mapp'; the fields are colors, depth, label, pair_",
        ),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_written(
    room_recording: Path, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        run(recording_config(room_recording, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


KILLED_BEFORE = (2, 8, 13, 20, 33, 41)
"""Numbers of fsyncs and renames, out of 42."""


@pytest.fixture(scope="module")
def interrupted(
    room_recording: Path,
    tmp_path_factory: pytest.TempPathFactory,
    run_killed_at: Callable[..., None],
) -> Path:
    """A folder of stores: one for each moment of a kill, and `together` of two workers at once."""
    folder = tmp_path_factory.mktemp("interrupted")
    run_killed_at("extract", room_recording, folder, ",".join(map(str, KILLED_BEFORE)))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("moment", KILLED_BEFORE)
def test_a_killed_run_goes_on_to_the_same_bytes(
    interrupted: Path, room_store: Path, moment: int
) -> None:
    assert tree(interrupted / str(moment)) == tree(room_store)


@pytest.mark.slow
def test_workers_at_once_give_the_same_bytes(interrupted: Path, room_store: Path) -> None:
    assert tree(interrupted / "together") == tree(room_store)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("dataset", "folder", "limit"),
    [
        ("posed-rgbd", "slambook2_office", None),
        ("posed-rgbd", "7scenes_redkitchen", 4),
        ("nyuv2", "nyuv2_half", 4),
    ],
)
def test_real_recordings(
    data_root: Path, tmp_path: Path, dataset: str, folder: str, limit: int | None
) -> None:
    config = ExtractConfig(
        dataset=dataset,
        root=data_root / folder,
        out=tmp_path / "out",
        geometry=GeometryConfig(voxel_size=0.05),
        features=FeatureConfig(teacher=TeacherOptions(input_size=(320, 240))),
        limit=limit,
        shard_size=3,
    )
    store = open_store(run(config))
    assert verify_store(config.out, deep=True).ok
    assert store.samples == (limit or 5)
    (layer,) = store.feature_layers
    assert store.layer(layer).details["channels"] == 320
    for place in all_places(store).values():
        cloud = decode_geometry(store.read("geometry", *place))
        assert len(cloud.points) > 200
        assert (cloud.labels is not None) == (dataset == "nyuv2")
        maps = store.read(layer, *place).arrays["map"]
        assert maps.shape == (1, 8, 10, 320)
        assert maps.astype(np.float32).std() > 0.01


def test_fused_frames_are_samples_of_several_views(room_recording: Path, tmp_path: Path) -> None:
    config = recording_config(room_recording, tmp_path / "fused", fuse=2, every=2)
    store = open_store(run(config))
    places = all_places(store)
    assert sorted(places) == [f"scene-{number}_frame-000000" for number in range(3)]
    (layer,) = store.feature_layers
    for place in places.values():
        cloud = decode_geometry(store.read("geometry", *place))
        assert set(cloud.pair_view) == {0, 1}
        assert cloud.labels is not None
        assert len(cloud.image_sizes) == 2
        assert len(store.read(layer, *place).arrays["map"]) == 2
    with pytest.raises(FingerprintError, match="fused"):
        run(replace(config, fuse=0))


def test_flying_pixels_are_part_of_the_fingerprint(room_recording: Path, room_store: Path) -> None:
    with pytest.raises(FingerprintError, match="flying_margin"):
        run(recording_config(room_recording, room_store, flying_margin=0.1))
