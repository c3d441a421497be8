import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from tiny_store import FEATURES, KEYS, feature_sample, flip, write_all
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype

import p2pkit
from p2pkit.errors import CorruptShardError, StoreError
from p2pkit.store.reading import open_store

CHUNK = f"{FEATURES}/stacked/map/c/3/0/0/0"


def group(store: Path) -> zarr.Group:
    return zarr.open_group(p2pkit.open_zarr(store), mode="r")


def test_every_value_is_the_stores(tiny_tar: Path):
    store, view = open_store(tiny_tar), group(tiny_tar)
    for layer in store.manifest.layers:
        for shard in range(3):
            for row, key in enumerate(store.keys(shard)):
                sample = store.read(layer.name, shard, row)
                node = view[f"{layer.name}/samples/{key}"]
                assert dict(node.attrs) == sample.meta
                assert sorted(node.array_keys()) == sorted(sample.arrays)
                for name, array in sample.arrays.items():
                    found = node[name]
                    assert found.metadata.dimension_names == layer.field(name).axes
                    assert found.attrs["unit"] == layer.field(name).unit
                    assert (found.dtype, found.shape) == (array.dtype, array.shape)
                    assert found[...].tobytes() == array.tobytes()


def test_samples_of_one_shape_are_stacked(tiny_tar: Path):
    view = group(tiny_tar)
    stacked = view[f"{FEATURES}/stacked"]
    keys = stacked.attrs["keys"]
    assert sorted(keys) == sorted(set(KEYS) - {"frame-3"})
    assert stacked["map"].chunks == (1, 2, 3, 4)
    assert stacked["map"].metadata.dimension_names[0] == "samples"
    expected = np.stack([feature_sample(key).arrays["map"] for key in keys])
    np.testing.assert_array_equal(stacked["map"][:], expected)
    np.testing.assert_array_equal(stacked["map"][2:5, 1, :, ::2], expected[2:5, 1, :, ::2])
    assert list(view["geometry/stacked"].array_keys()) == []
    with pytest.raises(KeyError):
        view["geometry/stacked/points"]


def test_the_hierarchy_is_listed(tiny_tar: Path):
    view = group(tiny_tar)
    names = [name for name, _ in view.members(max_depth=None)]
    assert {"geometry", "features", FEATURES, f"{FEATURES}/stacked/map"} <= set(names)
    assert f"{FEATURES}/samples/frame-4/map" in names
    assert view.attrs["layers"] == ["geometry", FEATURES]
    assert view["geometry"].attrs["fingerprint"]["voxel_size"] == 0.02

    async def keys() -> set[str]:
        return {key async for key in p2pkit.open_zarr(tiny_tar).list()}

    listed = asyncio.run(keys())
    assert {"zarr.json", CHUNK, "geometry/samples/frame-1/depth/c/0"} <= listed
    # frame-0 has no points: an array, but no chunk
    assert "geometry/samples/frame-0/depth/zarr.json" in listed
    assert "geometry/samples/frame-0/depth/c/0" not in listed


@pytest.mark.parametrize("layer", ["geometry", FEATURES])
def test_a_flipped_byte_raises(tiny_tar: Path, layer: str):
    store = open_store(tiny_tar)
    fields = store.layer(layer).columns[:-1]
    key = "frame-5"
    shard, row = store.find(key)
    opened = store.shard(layer, shard)
    path = tiny_tar / layer / f"{shard:06d}.tar"
    for field in fields:
        payload = bytes(opened.payload(row, field))
        position = path.read_bytes().index(payload) + len(payload) - 1
        flip(path, position)
        with pytest.raises(CorruptShardError) as error:
            group(tiny_tar)[f"{layer}/samples/{key}/{field}"][...]
        assert (error.value.key, error.value.field) == (key, field)
        flip(path, position)


def test_a_flipped_byte_in_a_stacked_chunk_raises(tiny_tar: Path):
    stacked = group(tiny_tar)[f"{FEATURES}/stacked/map"]
    store = open_store(tiny_tar)
    shard, row = store.find("frame-5")
    payload = bytes(store.shard(FEATURES, shard).payload(row, "map"))
    path = tiny_tar / FEATURES / f"{shard:06d}.tar"
    start = path.read_bytes().index(payload)
    flip(path, start + len(payload) - 1)
    with pytest.raises(CorruptShardError, match="key frame-5, field map"):
        stacked[:]
    flip(path, start + len(payload) - 1)
    stacked[:]
    # The shape in the header, which a fresh view reads to find the common shape.
    flip(path, start + payload.index(b"(2, 3"))
    fresh = group(tiny_tar)
    with pytest.raises(CorruptShardError, match="key frame-5, field map"):
        fresh[f"{FEATURES}/stacked/map"][:]


def test_flipped_json_raises(tiny_tar: Path):
    path = tiny_tar / "geometry" / "000000.tar"
    flip(path, path.read_bytes().index(b'"number":') + 1)
    view = group(tiny_tar)
    with pytest.raises(CorruptShardError, match="field json"):
        [view[f"geometry/samples/{key}"] for key in open_store(tiny_tar).keys(0)]


def test_a_missing_shard_raises_and_is_never_zeros(tiny_tar: Path):
    stacked = group(tiny_tar)[f"{FEATURES}/stacked/map"]
    (tiny_tar / FEATURES / "000001.tar").unlink()
    view = group(tiny_tar)
    for key in open_store(tiny_tar).keys(1):
        with pytest.raises(CorruptShardError, match="cannot be opened"):
            view[f"{FEATURES}/samples/{key}/map"]
    with pytest.raises(CorruptShardError, match="cannot be opened"):
        view[f"{FEATURES}/stacked/map"]
    (tiny_tar / FEATURES / "000001.json").unlink()
    with pytest.raises(StoreError, match="incomplete: 2 of 3"):
        group(tiny_tar)[f"{FEATURES}/stacked/map"]
    assert np.count_nonzero(stacked[0])


def test_a_shard_that_shrinks_while_open_raises(tiny_tar: Path):
    stacked = group(tiny_tar)[f"{FEATURES}/stacked/map"]
    stacked[:]
    for path in (tiny_tar / FEATURES).glob("*.tar"):
        with open(path, "r+b") as file:
            file.truncate(700)
    with pytest.raises(CorruptShardError, match="ends at byte"):
        stacked[:]


def test_writing_is_refused(tiny_tar: Path):
    before = {path: path.read_bytes() for path in tiny_tar.rglob("*") if path.is_file()}
    view = p2pkit.open_zarr(tiny_tar)
    assert view.read_only
    opened = zarr.open_group(view, mode="r")
    writes = [
        lambda: opened[f"{FEATURES}/stacked/map"].__setitem__(0, 1),
        lambda: opened.create_group("more"),
        lambda: opened.attrs.update({"more": 1}),
        lambda: asyncio.run(view.delete(CHUNK)),
        lambda: view.with_read_only(False),
    ]
    for write in writes:
        with pytest.raises(StoreError, match="is read-only"):
            write()
    for mode in ("w", "a", "r+"):
        with pytest.raises(ValueError, match="read-only"):
            zarr.open_group(view, mode=mode)
    assert {path: path.read_bytes() for path in tiny_tar.rglob("*") if path.is_file()} == before


def test_ranges_of_a_chunk(tiny_tar: Path):
    async def get(key: str, *requests: object) -> list[bytes | None]:
        view, prototype = p2pkit.open_zarr(tiny_tar), default_buffer_prototype()
        found = await view.get_partial_values(prototype, [(key, request) for request in requests])
        return [None if value is None else value.to_bytes() for value in found]

    ranges = RangeByteRequest(3, 9), OffsetByteRequest(40), SuffixByteRequest(5)
    whole, middle, rest, last = asyncio.run(get(CHUNK, None, *ranges))
    assert whole is not None
    assert len(whole) == 48
    assert (middle, rest, last) == (whole[3:9], whole[40:], whole[-5:])
    absent = (
        f"{FEATURES}/stacked/map/c/6/0/0/0",
        f"{FEATURES}/stacked/map/c/0/0/1/0",
        "a",
        ".zgroup",
    )
    for key in absent:
        assert asyncio.run(get(key, None)) == [None]


def test_it_is_a_zarr_store_of_tar_stores_only(tiny_tar: Path, tmp_path: Path):
    view = p2pkit.open_zarr(tiny_tar)
    assert isinstance(view, Store)
    assert view == p2pkit.open_zarr(str(tiny_tar))
    assert view != p2pkit.open_zarr(write_all(tmp_path / "other").root)
    write_all(tmp_path / "zarr", "zarr")
    with pytest.raises(StoreError, match=r"Zarr group already, such as .*000000.zarr"):
        p2pkit.open_zarr(tmp_path / "zarr")


def test_importing_p2pkit_stays_light():
    code = "import sys, p2pkit; print([n for n in ('zarr', 'numpy', 'xxhash') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
