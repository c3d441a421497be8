"""Shards made to harm, with every checksum made to fit: refused, in bounded memory."""

import contextlib
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
import zarr
from fuzz_targets import TARGETS, seeds
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_store import FEATURES, KEYS, geometry_layer, geometry_sample, manifest

from p2pkit.errors import CorruptShardError, StoreError
from p2pkit.files import canonical_json
from p2pkit.store import npy
from p2pkit.store.codecs import CODECS, decode, encode
from p2pkit.store.npy import NpyError, npy_header, parse_npy
from p2pkit.store.reading import open_store
from p2pkit.store.records import Member, Written, make_record
from p2pkit.store.strict_json import hex64, read_sealed, sealed
from p2pkit.store.tar.writer import BLOCK, END, INDEX, META, tar_header
from p2pkit.store.verifying import verify_store
from p2pkit.store.writing import create_or_open
from p2pkit.store.zarr.arrays import folder_checksum

MOST_MEMORY = 64 << 10
"""Growth of the peak memory that a refusal may cost (KiB)."""
BOMB = b"\x28\xb5\x2f\xfd\xe0" + (1 << 50).to_bytes(8, "little")
"""Head of a zstd frame that declares a petabyte."""


def peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def headed(text: str) -> bytes:
    head = text.encode().ljust(117) + b"\n"
    return npy.MAGIC + len(head).to_bytes(2, "little") + head


def described(descr: str, shape: str) -> bytes:
    return headed(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}")


@pytest.mark.parametrize(
    "payload",
    [
        described("'|O'", "(1,)") + b"cos\nsystem\n(S'true'\ntR.",
        described("[('a', '<f4')]", "(1,)") + bytes(4),
        described("'<f4'", "(99999999999999999999,)"),
        described("'<f4'", "(0, 99999999999999999999)"),
        described("'<f4'", "(0, 4611686018427387904)"),
        npy_header("<f4", (1,) * 40) + bytes(4),
        described("'<f4'", "(-1,)"),
        described("'<f1'", "(1,)") + b"x",
        described("'|b8'", "(1,)") + bytes(8),
        npy.MAGIC + b"\xff\xff" + b"{" * 70_000,
        b"\x93NUMPY\x03\x00" + bytes(80),
        b"",
    ],
)
def test_npy_that_is_no_plain_array(payload: bytes) -> None:
    with pytest.raises(NpyError):
        parse_npy(memoryview(payload))
    wrapped = npy_header("|u1", (len(payload),)) + payload
    for codec in ("zstd", "delta-shuffle-lz4"):
        with pytest.raises(NpyError):
            decode(memoryview(wrapped), codec)


@pytest.mark.parametrize("declared", [100, 1 << 28, 1 << 50])
@pytest.mark.parametrize("codec", ["zstd", "delta-shuffle-lz4"])
def test_payload_that_decodes_to_more_than_it_is(codec: str, declared: int) -> None:
    """zstd: two frames, of which the first has the right size; lz4: a block of another size."""
    inner = described("'<u2'", f"({declared},)")
    data = bytes(CODECS[codec].encode(np.zeros(5000, "<u2")))
    decode(memoryview(b"".join(encode(np.zeros(3, "<u2"), codec))), codec)  # imports the kernels
    before = peak_kb()
    for body in (data, data + data, BOMB, b"\xff\xff\xff\x7f" + data[4:]):
        payload = npy_header("|u1", (len(inner) + len(body),)) + inner + body
        with pytest.raises(NpyError):
            decode(memoryview(payload), codec)
    assert peak_kb() - before < MOST_MEMORY


def write_by_hand(
    root: Path, names_and_payloads: list[tuple[bytes, bytes]], index: np.ndarray, keys: list[str]
) -> Path:
    """A tar shard 0 of the geometry with any members, and a record that fits it."""
    writer = create_or_open(root, manifest())
    content = b""
    for header, payload in names_and_payloads:
        content += header + payload + bytes(-len(payload) % BLOCK)
    members: dict[str, Member] = {}
    layer = geometry_layer()
    meta = canonical_json(
        {
            "format": "p2pkit-shard",
            "format_version": 1,
            "fields": list(layer.columns),
            "keys": keys,
        }
    ).encode()
    table = npy_header("<u8", index.shape) + index.tobytes()
    for name, member, payload in (("index", INDEX, table), ("meta", META, meta)):
        content += tar_header(member, len(payload))
        checksum = hex64(xxhash.xxh3_64_intdigest(payload))
        members[name] = Member(len(content), len(payload), checksum)
        content += payload + bytes(-len(payload) % BLOCK)
    content += END
    (root / "geometry").mkdir(exist_ok=True)
    (root / "geometry" / "000000.tar").write_bytes(content)
    written = Written(tuple(keys), len(content), xxhash.xxh3_128_hexdigest(content), members)
    failures = [{"key": key, "stage": "load", "reason": "cut"} for key in KEYS[: 3 - len(keys)]]
    record = make_record(written, writer.manifest.layers[0].fingerprint_sha256, "tar", failures)
    record.write(root / "geometry" / "000000.json")
    return root


def reheaded(name: str, size: int, *, kind: bytes, target: bytes = b"") -> bytes:
    """A USTAR header with a right sum: kind 1 hard link, 2 symbolic link, 3 device, 6 pipe."""
    head = bytearray(tar_header("x", size))
    head[:100] = name.encode().ljust(100, b"\0")
    head[156:157] = kind
    head[157 : 157 + len(target)] = target
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def one_sample(headers: Callable[[str, int], bytes] = tar_header) -> tuple[list[Any], np.ndarray]:
    """Members of `frame-1` with headers of a given make, and their index."""
    sample, layer = geometry_sample("frame-1"), geometry_layer()
    rows, position = [], 0
    members: list[tuple[bytes, bytes]] = []
    for column in layer.columns:
        if column == "json":
            name, payload = "frame-1.json", canonical_json(sample.meta).encode()
        else:
            array, codec = sample.arrays[column], layer.field(column).codec
            name = f"frame-1.{column}.npy"
            payload = b"".join(bytes(part) for part in encode(array, codec))
        members.append((headers(name, len(payload)), payload))
        rows.append((position + BLOCK, len(payload), xxhash.xxh3_64_intdigest(payload)))
        position += BLOCK + len(payload) + -len(payload) % BLOCK
    return members, np.array([rows], np.uint64)


@pytest.mark.parametrize(
    "headers",
    [
        lambda name, size: reheaded("../../outside.npy", size, kind=b"0"),
        lambda name, size: reheaded("/outside.npy", size, kind=b"0"),
        lambda name, size: reheaded(name, size, kind=b"2", target=b"/etc/passwd"),
        lambda name, size: reheaded(name, size, kind=b"1", target=b"../../outside"),
        lambda name, size: reheaded(name, size, kind=b"3"),
        lambda name, size: reheaded(name, size, kind=b"6"),
        lambda name, size: reheaded("frame-1.points.npy", size, kind=b"0"),
    ],
    ids=["parent", "absolute", "symlink", "hardlink", "device", "pipe", "duplicate"],
)
def test_member_that_would_harm_an_extractor_is_told(
    tmp_path: Path, headers: Callable[[str, int], bytes]
) -> None:
    """Reading goes by the index and never makes a file; the deep check tells the header."""
    members, index = one_sample(headers)
    root = write_by_hand(tmp_path / "store", members, index, ["frame-1"])
    before = set(tmp_path.rglob("*"))
    reported = {(p.shard, p.key, p.field) for p in verify_store(root, deep=True).problems}
    assert (0, "frame-1", "depth") in reported
    open_store(root).shard("geometry", 0).read(0)
    assert set(tmp_path.rglob("*")) == before


def test_the_shard_made_by_hand_is_right_when_its_headers_are(tmp_path: Path) -> None:
    root = write_by_hand(tmp_path / "store", *one_sample(), ["frame-1"])
    layers = verify_store(root, deep=True).problems
    assert not [p for p in layers if p.layer == "geometry" and p.shard == 0]


def test_members_behind_the_meta_are_refused(tmp_path: Path) -> None:
    root = write_by_hand(tmp_path / "store", *one_sample(), ["frame-1"])
    path = root / "geometry" / "000000.tar"
    extra = reheaded("link", 0, kind=b"2", target=b"/etc/passwd")
    path.write_bytes(path.read_bytes()[: -len(END)] + extra + END)
    record = read_sealed(root / "geometry" / "000000.json")
    record["bytes"] += BLOCK
    record["xxh3_128"] = xxhash.xxh3_128_hexdigest(path.read_bytes())
    (root / "geometry" / "000000.json").write_text(json.dumps(sealed(record)))
    with pytest.raises(CorruptShardError, match="not the last members"):
        open_store(root).keys(0)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ((0, 0, 0), 2**64 - 512),
        ((0, 0, 0), 0),
        ((0, 1, 0), 512),
        ((0, 1, 1), 1 << 62),
        ((0, 3, 1), 2**64 - 1),
    ],
)
def test_index_that_points_elsewhere(tmp_path: Path, place: tuple[int, ...], value: int) -> None:
    members, index = one_sample()
    index[place] = value
    root = write_by_hand(tmp_path / "store", members, index, ["frame-1"])
    with pytest.raises(CorruptShardError, match="index"):
        open_store(root).keys(0)


def test_keys_that_repeat_or_climb(tmp_path: Path) -> None:
    members, index = one_sample()
    for number, keys in enumerate((["frame-1", "frame-1"], ["../frame-1"], ["a.b"], [""])):
        table = np.repeat(index, len(keys), axis=0)
        root = write_by_hand(tmp_path / str(number), members * len(keys), table, keys)
        with pytest.raises(CorruptShardError):
            open_store(root).keys(0)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("samples", 10**30),
        ("samples", -1),
        ("samples", 1.5),
        ("bytes", 10**30),
        ("first_key", ["frame-1"]),
        ("members", {}),
        ("members", {"index": {"offset": 10**30, "length": 8, "xxh3_64": "0" * 16}}),
        ("members", {"index": {"offset": -8, "length": 8, "xxh3_64": "0" * 16}}),
        ("failures", [{"key": 1, "stage": "", "reason": ""}]),
        ("format", "../tar"),
    ],
)
def test_record_with_absurd_entries(whole_tar: Path, entry: str, value: object) -> None:
    path = whole_tar / "geometry" / "000001.json"
    path.write_text(json.dumps(sealed({**read_sealed(path), entry: value})))
    with pytest.raises(StoreError):
        open_store(whole_tar).keys(1)
    assert not verify_store(whole_tar, deep=True).ok


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":' + b"[" * 900 + b"]" * 900 + b',"checksum":"0"}',
        b'{"a":1e999,"checksum":"0"}',
        b'{"a":NaN,"checksum":"0"}',
        b'{"a":' + b"9" * 10_000 + b',"checksum":"0"}',
        b'"\xff\xfe"',
        b"",
        b" " * ((1 << 24) + 1),
    ],
)
@pytest.mark.parametrize("name", ["p2pkit.json", "geometry/000001.json"])
def test_json_that_is_deep_endless_or_no_number(whole_tar: Path, name: str, text: bytes) -> None:
    (whole_tar / name).write_bytes(text)
    with pytest.raises(StoreError):
        open_store(whole_tar).keys(1)


@pytest.mark.parametrize("name", ["geometry/000001.json", "geometry/000001.tar"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_not_waited_for(whole_tar: Path, name: str, kind: str) -> None:
    path = whole_tar / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(StoreError, match="Not a regular file"):
        open_store(whole_tar).keys(1)


def test_a_plan_of_absurd_length_is_refused(whole_tar: Path) -> None:
    value = read_sealed(whole_tar / "p2pkit.json")
    value["plan"] = {"seed": 0, "shard_size": 1, "frames": 10**30}
    (whole_tar / "p2pkit.json").write_text(json.dumps(sealed(value)))
    with pytest.raises(StoreError, match="at most 1000000 are allowed"):
        open_store(whole_tar)
    assert not verify_store(whole_tar, deep=True).ok


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("name", "features/../../x"),
        ("name", "/etc"),
        ("fields", [{"name": "../x"}]),
    ],
)
def test_names_that_climb_are_refused(whole_tar: Path, entry: str, value: object) -> None:
    manifest_value = read_sealed(whole_tar / "p2pkit.json")
    manifest_value["layers"][1][entry] = value
    (whole_tar / "p2pkit.json").write_text(json.dumps(sealed(manifest_value)))
    with pytest.raises(StoreError):
        open_store(whole_tar)


@pytest.mark.parametrize("dtype", ["<f4,", "(9999999,)<f4", "|O", "a", "<f1", "<M8", "<c16"])
def test_dtypes_that_are_no_plain_numbers_are_refused(whole_tar: Path, dtype: str) -> None:
    value = read_sealed(whole_tar / "p2pkit.json")
    value["layers"][0]["fields"][0]["dtype"] = dtype
    (whole_tar / "p2pkit.json").write_text(json.dumps(sealed(value)))
    with pytest.raises(StoreError, match="not allowed"):
        open_store(whole_tar)


def refit_zarr(root: Path) -> None:
    """Make the record of feature shard 0 fit whatever its files hold now; the tables may not."""
    path = root / FEATURES / "000000.json"
    size, checksum = folder_checksum(root / FEATURES / "000000.zarr")
    record = {**read_sealed(path), "bytes": size, "xxh3_128": checksum}
    path.write_text(json.dumps(sealed(record)))


def metadata(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "map" / "zarr.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def link(folder: Path) -> None:
    chunk = folder / "map" / "c" / "0" / "0" / "0"
    chunk.unlink()
    chunk.symlink_to("/etc/passwd")


def pipe(folder: Path) -> None:
    chunk = folder / "map" / "c" / "0" / "0" / "0"
    chunk.unlink()
    os.mkfifo(chunk)


def read_rows(root: Path) -> None:
    store = open_store(root)
    for row in range(len(store.keys(0))):
        store.read(FEATURES, 0, row)


def grid(*sizes: int) -> dict[str, object]:
    return {"name": "regular", "configuration": {"chunk_shape": list(sizes)}}


@pytest.mark.parametrize(
    "harm",
    [
        link,
        pipe,
        metadata(data_type="string"),
        metadata(data_type="float64"),
        metadata(codecs=[{"name": "bytes"}, {"name": "zstd", "configuration": {}}]),
        metadata(codecs=[{"name": "numcodecs.pickle"}]),
        metadata(codecs=[{"name": "bytes", "configuration": {"endian": "big"}}]),
        metadata(shape=[10**18, 3, 4]),
        metadata(shape=[-1, 3, 4]),
        metadata(shape=[2, 10**9, 10**9], chunk_grid=grid(1, 10**9, 10**9)),
        metadata(chunk_grid=grid(10**12, 3, 4)),
        metadata(chunk_grid=grid(0, 3, 4)),
        metadata(chunk_key_encoding={"name": "v2", "configuration": {"separator": "."}}),
        metadata(chunk_key_encoding={"name": "default", "configuration": {"separator": "/../"}}),
        metadata(storage_transformers=[{"name": "x"}]),
        metadata(extra=1),
        lambda folder: (folder / "map" / "zarr.json").write_bytes(b"[" * 100_000),
        lambda folder: (folder / "map" / "zarr.json").unlink(),
    ],
)
def test_hostile_zarr_shard(whole_zarr: Path, harm: Callable[[Path], None]) -> None:
    folder = whole_zarr / FEATURES / "000000.zarr"
    harm(folder)
    with contextlib.suppress(OSError):
        refit_zarr(whole_zarr)
    with pytest.raises(CorruptShardError):
        read_rows(whole_zarr)
    assert not verify_store(whole_zarr, deep=True).ok


def test_zarr_chunk_that_decodes_to_more(whole_zarr: Path) -> None:
    """The JSON is zstd: a frame of a petabyte, and two frames behind each other."""
    chunk = whole_zarr / FEATURES / "000000.zarr" / "json" / "c" / "0"
    frame = chunk.read_bytes()
    for data in (BOMB, frame + frame, b""):
        chunk.write_bytes(data)
        refit_zarr(whole_zarr)
        with pytest.raises(CorruptShardError, match="does not decode"):
            open_store(whole_zarr).read(FEATURES, 0, 0)


def test_zarr_library_still_reads_what_is_accepted(whole_zarr: Path) -> None:
    store = open_store(whole_zarr)
    group = zarr.open_group(str(whole_zarr / "geometry" / "000000.zarr"), mode="r")
    for row in range(len(store.keys(0))):
        sample = store.read("geometry", 0, row)
        first, end = np.asarray(group["depth_offset"])[row : row + 2]
        np.testing.assert_array_equal(np.asarray(group["depth"])[first:end], sample.arrays["depth"])


@pytest.mark.parametrize("target", list(TARGETS))
def test_targets_accept_their_seeds(target: str) -> None:
    for seed in seeds(target):
        TARGETS[target](seed)


@pytest.mark.parametrize("target", list(TARGETS))
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_bytes_break_what_reads_shards(target: str, data: st.DataObject) -> None:
    """Arbitrary bytes, and seeds with some bytes replaced, cut or repeated."""
    seed = bytearray(data.draw(st.sampled_from([b"", *seeds(target)])))
    for _ in range(data.draw(st.integers(0, 4))):
        position = data.draw(st.integers(0, len(seed)))
        end = position + data.draw(st.integers(0, 4))
        seed[position:end] = data.draw(st.binary(max_size=8))
    TARGETS[target](bytes(seed))
