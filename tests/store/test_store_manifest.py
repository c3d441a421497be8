import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_store import FEATURES, feature_layer, geometry_layer, manifest, write_all

from p2pkit.errors import FingerprintError, StoreError
from p2pkit.store.manifest import FieldSpec, LayerSpec, Manifest, Plan, manifest_from_json
from p2pkit.store.reading import open_store
from p2pkit.store.strict_json import sealed
from p2pkit.store.writing import create_or_open


def test_json_round_trip():
    value = manifest().to_json()
    assert manifest_from_json(json.loads(json.dumps(value)), "x") == manifest()


def test_opening_again_changes_nothing(tiny_tar: Path):
    before = (tiny_tar / "p2pkit.json").read_bytes()
    assert create_or_open(tiny_tar, manifest()).is_done("geometry", 0)
    assert (tiny_tar / "p2pkit.json").read_bytes() == before
    assert list((tiny_tar / ".claims").iterdir()) == []


def test_second_teacher_adds_a_layer_and_leaves_the_geometry(tiny_tar: Path):
    before = {path: path.read_bytes() for path in (tiny_tar / "geometry").iterdir()}
    other = feature_layer("features/other-89abcdef")
    writer = create_or_open(tiny_tar, manifest("tar", geometry_layer(), other))
    assert [layer.name for layer in writer.manifest.layers] == ["geometry", FEATURES, other.name]
    assert not writer.is_done(other.name, 0)
    assert {path: path.read_bytes() for path in (tiny_tar / "geometry").iterdir()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"dataset": {"name": "tiny", "split": "val"}},
            "split is 'all' in the store, 'val'",
        ),
        ({"plan": Plan(6, 3, 7)}, "plan.seed is 5 in the store, 6 now"),
        ({"plan": Plan(5, 3, 8)}, "plan.frames is 7 in the store, 8 now"),
        ({"storage": "zarr"}, "storage is 'tar' in the store, 'zarr' now"),
        ({"layers": (geometry_layer(0.05),)}, "geometry.voxel_size is 0.02 in the store, 0.05 now"),
    ],
)
def test_other_inputs_are_named_with_both_values(tiny_tar: Path, change: dict, message: str):
    with pytest.raises(FingerprintError, match=message):
        create_or_open(tiny_tar, replace(manifest(), **change))


def test_nested_and_several_differences_are_named(tiny_tar: Path):
    fingerprint = {"voxel_size": 0.03, "depth": {"near": 0.2, "far": 5}}
    layer = replace(geometry_layer(), fingerprint=fingerprint)
    with pytest.raises(FingerprintError) as error:
        create_or_open(tiny_tar, manifest("tar", layer))
    for said in (
        "voxel_size is 0.02",
        "geometry.depth.near is 0.1",
        "depth.far is not set in the store, 5 now",
    ):
        assert said in str(error.value)


def test_an_entry_that_the_geometry_repeats_is_told_once(tiny_tar: Path):
    stored = manifest()
    dataset = {**stored.dataset, "frame_list": "0" * 64, "calibration": [{"fx": 1.0, "fy": 2.0}]}
    dataset["scenes"] = [1]
    geometry = replace(geometry_layer(), fingerprint={"dataset": dataset, "voxel_size": 0.02})
    create_or_open(tiny_tar / "new", replace(stored, dataset=dataset, layers=(geometry,)))
    asked = {
        **dataset,
        "frame_list": "1" * 64,
        "calibration": [{"fx": 1.5, "fy": 2.0}],
        "n": [7] * 90,
        "scenes": [1, 2],
    }
    other = replace(geometry, fingerprint={"dataset": asked, "voxel_size": 0.04})
    with pytest.raises(FingerprintError) as error:
        create_or_open(tiny_tar / "new", replace(stored, dataset=asked, layers=(other,)))
    said = str(error.value).partition("other inputs: ")[2]
    assert said.startswith("it is another recording, or this one was changed")
    assert said.endswith("Extract this recording into a new folder")
    for once in (
        "frame_list: files were added, removed",
        "calibration[0].fx is 1.0 in the store, 1.5",
    ):
        assert said.count(once) == 1
    assert "0000" not in said
    assert "1111" not in said
    assert "dataset.n is not set in the store, [7,7,7" in said
    assert "dataset.scenes has 1 entries in the store, 2 now" in said
    assert "geometry.voxel_size is 0.02 in the store, 0.04 now" in said
    assert "geometry.dataset" not in said
    assert len(said) < 500


def test_other_fields_table_under_the_same_fingerprint(tiny_tar: Path):
    fields = tuple(replace(spec, codec="none") for spec in geometry_layer().fields)
    with pytest.raises(FingerprintError, match=r"geometry\.fields"):
        create_or_open(tiny_tar, manifest("tar", replace(geometry_layer(), fields=fields)))


def test_shard_of_another_fingerprint_is_refused(tiny_tar: Path):
    path = tiny_tar / "geometry" / "000000.json"
    record = json.loads(path.read_text())
    del record["checksum"]
    path.write_text(json.dumps(sealed({**record, "fingerprint": "0" * 64})))
    with pytest.raises(FingerprintError, match="extract it again"):
        open_store(tiny_tar).keys(0)
    with pytest.raises(FingerprintError, match="another folder"):
        create_or_open(tiny_tar, manifest()).is_done("geometry", 0)


def add_layer(root: Path, number: int, start: "multiprocessing.synchronize.Barrier") -> None:
    start.wait()
    layer = feature_layer(f"features/teacher{number}-0123abcd")
    create_or_open(root, manifest("tar", geometry_layer(), layer))


def test_layers_added_at_the_same_time_are_all_there(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(4)
    workers = [context.Process(target=add_layer, args=(tmp_path, i, start)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    layers = {layer.name for layer in open_store(tmp_path).manifest.layers}
    assert layers == {"geometry", *(f"features/teacher{i}-0123abcd" for i in range(4))}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "x"}, "format is 'x'"),
        (
            {"format_version": 2},
            "has format version 2; this p2pkit reads 1; a newer p2pkit wrote it: upgrade",
        ),
        ({"more": 1}, "needs exactly the entries"),
        (
            {"plan": {"seed": 0, "shard_size": 0, "frames": 1}},
            "plan.shard_size is 0; expected at least 1",
        ),
        (
            {"plan": {"seed": 0, "shard_size": True, "frames": 1}},
            "size is True; expected int",
        ),
        ({"storage": 3}, "storage is 3; expected str"),
        ({"layers": []}, "one layer 'geometry', first"),
        ({"dataset": []}, "dataset is"),
    ],
)
def test_manifest_is_read_strictly(change: dict, message: str):
    with pytest.raises(StoreError, match=message):
        manifest_from_json({**manifest().to_json(), **change}, "p2pkit.json")


def test_unknown_storage_lists_the_right_ones(tmp_path: Path):
    with pytest.raises(StoreError, match="no storage is called 'hdf5'; choose one of tar"):
        create_or_open(tmp_path, manifest("hdf5"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Points", "<f4", ()), "field name"),
        (("json", "<f4", ()), "field name"),
        (("a.b", "<f4", ()), "field name"),
        (("a", "float", ()), "dtype 'float' is not allowed"),
        (("a", ">f4", ()), "not allowed"),
        (("a", "|O", ()), "not allowed"),
        (("a", "nonsense", ()), "dtype .nonsense. is not allowed"),
        (("a", "<f4", (), "m", "lz5"), "no codec is called 'lz5'; choose one of none, lz4, zstd, "),
        (("a", "<f4", (), "m", "delta-shuffle-lz4"), "is for integers"),
    ],
)
def test_field_table_is_checked(arguments: tuple, message: str):
    with pytest.raises(StoreError, match=message):
        FieldSpec(*arguments)


@pytest.mark.parametrize("name", ["Geometry", "features/", "features/../x", "features/.x", "x"])
def test_layer_names(name: str):
    with pytest.raises(StoreError, match="layer name"):
        LayerSpec(name, (), {})


def test_layer_by_part_of_its_name(tmp_path: Path):
    layers = (
        geometry_layer(),
        feature_layer("features/resnet50-11111111"),
        feature_layer("features/resnet18-22222222"),
    )
    create_or_open(tmp_path, manifest("tar", *layers))
    store = open_store(tmp_path)
    assert store.feature_layers == (layers[1].name, layers[2].name)
    for part in ("features/resnet50", "resnet50", "11111111", layers[1].name):
        assert store.layer(part) == layers[1]
    assert store.layer("geometry").name == "geometry"
    with pytest.raises(StoreError, match="matches features/resnet50-11111111, features/resnet18"):
        store.layer("resnet")
    with pytest.raises(StoreError, match=r"does not exist .*one of geometry, features/resnet"):
        store.layer("vit")


def test_missing_key_and_shard(tmp_path: Path):
    write_all(tmp_path)
    store = open_store(tmp_path)
    with pytest.raises(StoreError, match="no sample 'nothing'"):
        store.find("nothing")
    with pytest.raises(StoreError, match="shard 3 does not exist; the plan has 3"):
        store.read("geometry", 3, 0)


def test_manifest_needs_the_geometry_first():
    with pytest.raises(StoreError, match="first"):
        Manifest({}, Plan(0, 1, 0), "tar", (feature_layer(),))
