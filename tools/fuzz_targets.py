"""Fuzz targets that take bytes: each may reject them with p2pkit's errors, nothing else.

`tools/fuzz_shards.py` drives them by coverage, tests/faults with hypothesis.
"""

import json
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from p2pkit.errors import StoreError
from p2pkit.files import canonical_json
from p2pkit.store import npy
from p2pkit.store.codecs import CODECS, decode, encode
from p2pkit.store.manifest import FieldSpec, LayerSpec, Manifest, Plan, Sample, manifest_from_json
from p2pkit.store.npy import NpyError, npy_header, parse_npy
from p2pkit.store.records import Member, ShardRecord, make_record, read_record
from p2pkit.store.strict_json import hex64, read_sealed, sealed
from p2pkit.store.tar.reader import TarShard
from p2pkit.store.tar.writer import write_tar
from p2pkit.store.zarr import arrays as zarr_array
from p2pkit.store.zarr.arrays import ZarrArrayError, open_array

SMALL = 1 << 20
MEMORY = Path("/dev/shm")
FOLDER = Path(tempfile.mkdtemp(prefix="p2pkit-fuzz-", dir=MEMORY if MEMORY.is_dir() else None))
LAYER = LayerSpec(
    "geometry",
    (
        FieldSpec("depth", "<u2", ("points",), "", "delta-shuffle-lz4"),
        FieldSpec("label", "|u1", ("points",), "", "zstd"),
        FieldSpec("points", "<f4", ("points", "3")),
    ),
    {"seed": 0},
)
ARRAYS = (
    np.arange(24, dtype="<u2").reshape(2, 3, 4),
    np.zeros((0, 3), "<f4"),
    np.array(7, "|u1"),
    np.linspace(0, 1, 100, dtype="<f2"),
)


def bound_memory() -> None:
    """Let targets allocate 1 MiB where the library allows 1 GiB."""
    npy.LARGEST_ARRAY = zarr_array.LARGEST_ARRAY = SMALL


def parse_any_npy(data: bytes) -> None:
    """Parsing a .npy."""
    try:
        array = parse_npy(memoryview(data))
    except NpyError:
        return
    assert array.nbytes <= len(data)
    assert not array.dtype.hasobject


def decode_any_payload(data: bytes) -> None:
    """Decoding: the first byte names the codec, the second whether the outer header is right."""
    names = sorted(CODECS)
    if len(data) < 2:
        return
    codec, payload = names[data[0] % len(names)], data[2:]
    if data[1] % 2:
        payload = npy_header("|u1", (len(payload),)) + payload
    try:
        first = decode(memoryview(payload), codec).tobytes()
        second = decode(memoryview(payload), codec).tobytes()
    except NpyError:
        return
    assert first == second, "memory that was never written"


def fill_by_any_codec(data: bytes) -> None:
    """Decoding into memory with two different contents, to find what is left unwritten."""
    coded = [name for name in sorted(CODECS) if CODECS[name].decode is not None]
    if len(data) < 4:
        return
    fill = CODECS[coded[data[0] % len(coded)]].decode
    assert fill is not None
    results: list[bytes] = []
    for byte in (0x55, 0xAA):
        out = np.full(int.from_bytes(data[1:3], "little") * 2, byte, np.uint8).view("<u2")
        if out.size == 0:
            return
        try:
            fill(memoryview(data[3:]), out)
        except (NpyError, RuntimeError, ValueError):
            return
        results.append(out.tobytes())
    assert results[0] == results[1], "memory that was never written"


def _shard() -> tuple[bytes, ShardRecord]:
    """A small valid tar shard and its record."""
    samples = [
        Sample(
            f"frame-{number}",
            {
                "depth": np.arange(5 * number, dtype="<u2"),
                "label": np.zeros(5 * number, "|u1"),
                "points": np.ones((5 * number, 3), "<f4"),
            },
            {"number": number},
        )
        for number in range(2)
    ]
    path = FOLDER / "whole.tar"
    written = write_tar(path, LAYER, samples)
    return path.read_bytes(), make_record(written, LAYER.fingerprint_sha256, "tar", [])


WHOLE, RECORD = _shard()


def _mutated(data: bytes) -> tuple[bytearray, bytes]:
    """The whole shard with bytes replaced (position, value: 3 bytes each), and what is left."""
    shard = bytearray(WHOLE)
    changes = min(data[0] % 16, (len(data) - 1) // 3) if data else 0
    for number in range(changes):
        position, value = struct.unpack_from("<HB", data, 1 + 3 * number)
        shard[position % len(shard)] = value
    return shard, data[1 + 3 * changes :]


def _fitted(shard: bytearray, rest: bytes) -> ShardRecord:
    """A record whose checksums fit the changed shard; `rest` shifts sizes and places."""
    shift = [*rest[:5], 0, 0, 0, 0, 0][:5]
    index, meta = RECORD.members["index"], RECORD.members["meta"]
    offset = index.offset + len(npy_header("<u8", (2, 4, 3)))
    table = np.frombuffer(shard, np.uint64, 24, offset).reshape(8, 3)
    for row in table:
        start, length, _ = row.tolist()
        row[2] = xxhash.xxh3_64_intdigest(bytes(shard[start : start + length]))
    members: dict[str, Member] = {}
    for name, member, move in (("index", index, shift[:2]), ("meta", meta, shift[2:4])):
        first, size = member.offset + move[0] % 3 * 256, max(0, member.length + move[1] % 5 - 2)
        if move == [0, 0]:
            first, size = member.offset, member.length
        payload = bytes(shard[first : first + size])
        members[name] = Member(first, size, hex64(xxhash.xxh3_64_intdigest(payload)))
    return replace(RECORD, members=members, samples=2 + shift[4] % 2)


def open_any_tar(data: bytes) -> None:
    """Opening, reading and checking a tar shard whose checksums were made to fit."""
    shard, rest = _mutated(data)
    record = _fitted(shard, rest)
    path = FOLDER / "mutated.tar"
    path.write_bytes(shard)
    try:
        opened = TarShard(path, LAYER, record)
    except StoreError:
        return
    for row in range(len(opened.keys)):
        for fields in (None, ["points"], []):
            try:
                opened.read(row, fields)
            except StoreError:
                continue
    try:
        list(opened.problems())
    except StoreError:
        return


def open_any_zarr_array(data: bytes) -> None:
    """Reading one Zarr array: codec, length of the metadata, metadata, first chunk."""
    if len(data) < 3:
        return
    codec = sorted(zarr_array.DECODERS)[data[0] % len(zarr_array.DECODERS)]
    length = int.from_bytes(data[1:3], "little")
    folder = FOLDER / "array"
    (folder / "c").mkdir(parents=True, exist_ok=True)
    (folder / "zarr.json").write_bytes(data[3 : 3 + length])
    (folder / "c" / "0").write_bytes(data[3 + length :])
    try:
        array = open_array(folder, dtype="<u2", axes=1, codec=codec)
        array.read(0, min(array.shape[0], array.rows))
    except (StoreError, ZarrArrayError):
        return


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def read_any_manifest(data: bytes) -> None:
    """Reading a manifest, as it is and with a checksum that fits."""
    path = FOLDER / "p2pkit.json"
    for content in _sealed_too(data):
        path.write_bytes(content)
        try:
            manifest = manifest_from_json(read_sealed(path), "fuzz")
        except StoreError:
            continue
        assert manifest_from_json(manifest.to_json(), "again") == manifest


def read_any_record(data: bytes) -> None:
    """Reading a record, as it is and with a checksum that fits."""
    path = FOLDER / "000000.json"
    for content in _sealed_too(data):
        path.write_bytes(content)
        try:
            record = read_record(path)
        except StoreError:
            continue
        record.write(path)
        assert read_record(path) == record


def _sealed_too(data: bytes) -> Iterator[bytes]:
    yield data
    value = _json(data)
    if isinstance(value, dict):
        value.pop("checksum", None)
        try:
            yield json.dumps(sealed(value)).encode()
        except (ValueError, RecursionError):
            return


TARGETS: dict[str, Callable[[bytes], None]] = {
    "npy": parse_any_npy,
    "payload": decode_any_payload,
    "codec": fill_by_any_codec,
    "tar": open_any_tar,
    "zarr": open_any_zarr_array,
    "manifest": read_any_manifest,
    "record": read_any_record,
}


def seeds(target: str) -> list[bytes]:
    """Inputs that a target accepts, for a fuzzer to start from."""
    arrays = [b"".join(encode(array, "none")) for array in ARRAYS]
    integers = [array for array in ARRAYS if array.dtype.kind == "u"]
    names = sorted(CODECS)
    payloads: list[bytes] = []
    fills: list[bytes] = []
    coded = [name for name in names if CODECS[name].decode is not None]
    for name in names:
        for array in integers:
            payload = b"".join(encode(array, name))
            payloads.append(bytes([names.index(name), 0]) + payload)
            if name in coded and array.nbytes % 2 == 0 and array.size:
                size = (array.nbytes // 2).to_bytes(2, "little")
                data = payload[len(payload) - len(CODECS[name].encode(array)) :]
                fills.append(bytes([coded.index(name)]) + size + data)
    manifest = Manifest({"name": "fuzz"}, Plan(0, 2, 2), "tar", (LAYER,))
    path = FOLDER / "seed.json"
    RECORD.write(path)
    found = {
        "npy": arrays,
        "payload": payloads,
        "codec": fills,
        "tar": [b"\0", b"\1\0\0x", bytes([2, 0, 2, 7, 0, 30, 9, 1, 1, 1, 1, 1])],
        "zarr": list(_zarr_seeds()),
        "manifest": [canonical_json(sealed(manifest.to_json())).encode()],
        "record": [path.read_bytes()],
    }
    return found[target]


def _zarr_seeds() -> Iterator[bytes]:
    from numcodecs import Blosc, Zstd

    chunk = np.arange(10, dtype="<u2").tobytes()
    coded = {
        "none": ([], chunk),
        "zstd": ([{"name": "zstd", "configuration": {"level": 1}}], bytes(Zstd(1).encode(chunk))),
        "delta-shuffle-lz4": ([{"name": "blosc"}], bytes(Blosc("lz4", 1).encode(chunk))),
    }
    for codec, (compressors, data) in coded.items():
        meta = canonical_json(
            {
                "shape": [10],
                "data_type": "uint16",
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10]}},
                "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
                "fill_value": 0,
                "codecs": [{"name": "bytes"}, *compressors],
                "attributes": {},
                "zarr_format": 3,
                "node_type": "array",
                "storage_transformers": [],
            }
        ).encode()
        head = bytes([sorted(zarr_array.DECODERS).index(codec)])
        yield head + len(meta).to_bytes(2, "little") + meta + data
