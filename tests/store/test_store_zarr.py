import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny_store import (
    FEATURES,
    feature_sample,
    flip,
    geometry_sample,
    manifest,
    write_all,
)

from p2pkit.errors import CorruptShardError, StoreError
from p2pkit.store.manifest import FieldSpec, LayerSpec, Manifest, Plan, Sample
from p2pkit.store.reading import open_store
from p2pkit.store.verifying import verify_store
from p2pkit.store.writing import create_or_open
from p2pkit.store.zarr.reader import ZarrShard

FIELDS = (
    FieldSpec("map", "<f2", ("height", "width", "channels")),
    FieldSpec("scale", "<f4", ()),
    FieldSpec("pixel", "<u4", ("points",), "", "delta-shuffle-lz4"),
)
LAYER = LayerSpec("geometry", FIELDS, {})


@pytest.fixture
def tiny_zarr(tmp_path: Path) -> Path:
    write_all(tmp_path / "store", "zarr")
    return tmp_path / "store"


def write(root: Path, samples: list[Sample]) -> None:
    plan = Plan(0, max(1, len(samples)), max(1, len(samples)))
    failures = [] if samples else [{"key": "x", "stage": "load", "reason": "cut"}]
    writer = create_or_open(root, Manifest({}, plan, "zarr", (LAYER,)))
    writer.write("geometry", 0, samples, failures)
    writer.write_failures()


@st.composite
def samples(draw: st.DrawFn) -> list[Sample]:
    shapes = hnp.array_shapes(min_dims=3, max_dims=3, min_side=0, max_side=4)
    shape = draw(st.one_of(st.none(), shapes))
    rows: list[Sample] = []
    for number in range(draw(st.integers(0, 4))):
        arrays = {
            "map": draw(hnp.arrays(np.float16, shape or shapes)),
            "scale": draw(hnp.arrays(np.float32, ())),
            "pixel": draw(hnp.arrays(np.uint32, st.integers(0, 9))),
        }
        rows.append(Sample(f"k{number}", arrays, {"number": number}))
    return rows


@settings(deadline=None, max_examples=8)
@given(rows=samples())
def test_any_shapes_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[Sample]):
    root = tmp_path_factory.mktemp("any")
    write(root, rows)
    store = open_store(root)
    assert store.keys(0) == [sample.key for sample in rows]
    for row, sample in enumerate(rows):
        found = store.read("geometry", 0, row)
        assert found.meta == sample.meta
        for name, array in sample.arrays.items():
            assert found.arrays[name].shape == array.shape
            assert found.arrays[name].tobytes() == array.tobytes()
    assert verify_store(root, deep=True).ok


def test_stock_zarr_reads_it(tiny_zarr: Path):
    shard, row = open_store(tiny_zarr).find("frame-4")
    group = zarr.open_group(str(tiny_zarr / "geometry" / f"{shard:06d}.zarr"), mode="r")
    first, end = group["points_offset"][row : row + 2]
    expected = geometry_sample("frame-4").arrays["points"]
    np.testing.assert_array_equal(group["points"][first:end], expected)
    first, end = group["json_offset"][row : row + 2]
    assert json.loads(group["json"][first:end].tobytes()) == geometry_sample("frame-4").meta
    assert group.attrs["p2pkit"]["keys"][row] == "frame-4"


def test_maps_of_one_shape_have_a_chunk_each(tiny_zarr: Path):
    group = zarr.open_group(str(tiny_zarr / FEATURES / "000000.zarr"), mode="r")
    assert group["map"].chunks == feature_sample("frame-1").arrays["map"].shape


def test_no_chunk_is_longer_than_its_array(tiny_zarr: Path):
    group = zarr.open_group(str(tiny_zarr / "geometry" / "000000.zarr"), mode="r")
    for name, array in group.arrays():
        assert array.chunks[0] <= max(1, array.shape[0]), name


def test_damage_in_any_file_is_told(tiny_zarr: Path):
    store = open_store(tiny_zarr)
    layer, record = store.layer(FEATURES), store.record(FEATURES, 0)
    folder = tiny_zarr / FEATURES / "000000.zarr"
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        flip(path, path.stat().st_size // 2)
        try:
            message = [error.reason for error in ZarrShard(folder, layer, record).problems()]
        except CorruptShardError as error:
            message = [error.reason]
        assert message, path
        flip(path, path.stat().st_size // 2)
    flip(path, 0)
    assert {problem.shard for problem in verify_store(tiny_zarr, deep=True).problems} == {0}


def test_flipped_value_names_key_and_field(tiny_zarr: Path):
    store = open_store(tiny_zarr)
    for row, key in enumerate(store.keys(1)):
        path = tiny_zarr / FEATURES / "000001.zarr" / "map" / "c" / str(row) / "0" / "0"
        flip(path, 5)
        with pytest.raises(CorruptShardError) as error:
            store.read(FEATURES, 1, row)
        assert (error.value.key, error.value.field) == (key, "map")
        flip(path, 5)


def test_missing_chunk_is_not_read_as_zeros(tiny_zarr: Path):
    store = open_store(tiny_zarr)
    [key] = store.keys(1)[:1]
    path = tiny_zarr / FEATURES / "000001.zarr" / "map" / "c" / "0" / "0" / "0"
    store.keys(1)
    store.read(FEATURES, 1, 0)
    path.unlink()
    with pytest.raises(
        CorruptShardError, match="map cannot be read: c/0/0/0 cannot be read: No such"
    ) as error:
        store.read(FEATURES, 1, 0)
    assert (error.value.key, error.value.field) == (key, "map")
    with pytest.raises(CorruptShardError, match="its record says"):
        open_store(tiny_zarr).read(FEATURES, 1, 0)


def test_missing_group(tiny_zarr: Path):
    (tiny_zarr / "geometry" / "000000.zarr").rename(tiny_zarr / "elsewhere")
    with pytest.raises(CorruptShardError, match="No such folder"):
        open_store(tiny_zarr).keys(0)


def test_write_that_fails_leaves_nothing(tmp_path: Path):
    writer = create_or_open(tmp_path, manifest("zarr"))
    wrong = Sample("frame-2", {"depth": np.zeros(3, np.uint16)})
    with pytest.raises(StoreError, match="needs exactly"):
        writer.write("geometry", 0, [geometry_sample("frame-1"), wrong])
    assert not (tmp_path / "geometry").exists() or not list((tmp_path / "geometry").iterdir())


def test_shard_without_its_record_is_replaced(tiny_zarr: Path):
    record = (tiny_zarr / "geometry" / "000000.json").read_bytes()
    (tiny_zarr / "geometry" / "000000.json").unlink()
    (tiny_zarr / "geometry" / "000000.zarr" / "zarr.json").write_text("half")
    write_all(tiny_zarr, "zarr")
    assert (tiny_zarr / "geometry" / "000000.json").read_bytes() == record
    assert verify_store(tiny_zarr, deep=True).ok
    assert not list(tiny_zarr.rglob(".tmp-*"))


def test_axes_are_named_and_have_one_length_each(tmp_path: Path):
    """What xarray needs to open a shard."""
    write_all(tmp_path / "store", "zarr")
    for folder in sorted((tmp_path / "store").rglob("*.zarr")):
        lengths: dict[str, set[int]] = {}
        for path in folder.glob("*/zarr.json"):
            array = json.loads(path.read_text())
            assert len(array["dimension_names"]) == len(array["shape"])
            for name, length in zip(array["dimension_names"], array["shape"], strict=True):
                lengths.setdefault(name, set()).add(length)
        assert all(len(found) == 1 for found in lengths.values()), lengths
