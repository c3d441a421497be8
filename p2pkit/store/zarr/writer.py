"""Writing a shard as one Zarr v3 group. No two writers share a group, so no write can be lost."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
import zarr
from zarr.codecs import BloscCodec, ZstdCodec

from p2pkit.errors import StoreError
from p2pkit.files import fsync_folder, temporary_name
from p2pkit.store.manifest import JSON_FIELD, LayerSpec, Sample
from p2pkit.store.records import Member, Written
from p2pkit.store.shard_meta import object_bytes, shard_meta
from p2pkit.store.strict_json import hex64
from p2pkit.store.zarr.arrays import (
    ATTRIBUTE,
    CHECKSUM,
    META,
    folder_checksum,
    folder_files,
    tables_checksum,
)

CHUNK_ELEMENTS = 1 << 16
COMPRESSORS: dict[str, Any] = {
    "none": None,
    "lz4": BloscCodec(cname="lz4", clevel=1, shuffle="noshuffle"),
    "zstd": ZstdCodec(level=1),
    "shuffle-lz4": BloscCodec(cname="lz4", clevel=1, shuffle="shuffle"),
    "shuffle-zstd": BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"),
    "delta-shuffle-lz4": BloscCodec(cname="lz4", clevel=1, shuffle="shuffle"),
}
"""Zarr's own codecs for each name in the fields table; Zarr v3 has no standard delta codec."""


def write_zarr(path: Path, layer: LayerSpec, samples: Iterable[Sample]) -> Written:
    """Write one shard as a folder that gets its name when it is complete.

    The samples of the shard are held in memory until then.

    Raises:
        StoreError: a sample does not match the fields table, or a key repeats.
    """
    columns, keys = _gather(path, layer, samples)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / temporary_name(path.name)
    try:
        tables = _write_group(temporary, layer, columns, keys)
        fsync_tree(temporary)
        size, checksum = folder_checksum(temporary)
        meta = (temporary / META).read_bytes()
        rename_folder(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    table_bytes, table_checksum = tables_checksum(tables)
    members = {
        "index": Member(0, table_bytes, table_checksum),
        "meta": Member(0, len(meta), hex64(xxhash.xxh3_64_intdigest(meta))),
    }
    return Written(tuple(keys), size, checksum, members)


def _gather(
    path: Path, layer: LayerSpec, samples: Iterable[Sample]
) -> tuple[dict[str, list[np.ndarray]], list[str]]:
    """The arrays of all samples by column; JSON as the uint8 array of its bytes."""
    columns: dict[str, list[np.ndarray]] = {name: [] for name in layer.columns}
    keys: dict[str, None] = {}
    for sample in samples:
        if sample.key in keys:
            raise StoreError(f"shard {path}: key {sample.key} occurs twice")
        keys[sample.key] = None
        layer.check(sample)
        for name, array in sample.arrays.items():
            columns[name].append(np.asarray(array, order="C"))
        meta = object_bytes(sample.meta, f"sample {sample.key}")
        columns[JSON_FIELD].append(np.frombuffer(meta, np.uint8))
    return columns, list(keys)


def _write_group(
    folder: Path, layer: LayerSpec, columns: dict[str, list[np.ndarray]], keys: list[str]
) -> dict[str, np.ndarray]:
    attributes: dict[str, Any] = {ATTRIBUTE: shard_meta(layer, keys)}
    group = zarr.open_group(str(folder), mode="w-", zarr_format=3, attributes=attributes)
    tables: dict[str, np.ndarray] = {
        CHECKSUM: np.array(
            [[xxhash.xxh3_64_intdigest(array.data) for array in rows] for rows in columns.values()],
            np.uint64,
        ).T
    }
    for name, arrays in columns.items():
        axes: tuple[str, ...] = ("json_bytes",)
        if name == JSON_FIELD:
            dtype, codec = np.dtype(np.uint8), "zstd"
        else:
            spec = layer.field(name)
            dtype, axes, codec = np.dtype(spec.dtype), spec.axes, spec.codec
            shapes = [array.shape for array in arrays]
            tables[f"{name}_shape"] = np.array(shapes, np.int64).reshape(len(keys), len(axes))
        stored, offset, chunk = _concatenate(arrays, dtype)
        tables[f"{name}_offset"] = offset
        axes = axes if len(axes) == stored.ndim else (f"{name}_values",)
        _write_array(group, name, stored, chunk, codec, axes)
    for name, table in tables.items():
        rows = "samples_and_end" if name.endswith("_offset") else "samples"
        axes = (rows, f"{name}_columns")[: table.ndim]
        _write_array(group, name, table, max(1, len(table)), "none", axes)
    return tables


def _concatenate(arrays: list[np.ndarray], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, int]:
    """Join samples along the first axis: (array, first row of each and the end, rows per chunk).

    Where the other axes differ between samples, and for scalars, all are flattened. Samples of one
    shape get a chunk each, so that reading one reads one file.
    """
    if len({array.shape[1:] for array in arrays}) != 1 or arrays[0].ndim == 0:
        arrays = [array.reshape(-1) for array in arrays]
    rows = [len(array) for array in arrays]
    stored = np.concatenate(arrays) if arrays else np.empty(0, dtype)
    offset = np.concatenate([np.zeros(1, np.int64), np.cumsum(rows, dtype=np.int64)])
    width = max(1, int(np.prod(stored.shape[1:])))
    usual = min(CHUNK_ELEMENTS // width, len(stored))  # a longer chunk would hold padding
    chunk = rows[0] if len(set(rows)) == 1 else usual
    return stored, offset, max(1, chunk)


def _write_array(
    group: zarr.Group,
    name: str,
    array: np.ndarray,
    chunk: int,
    codec: str,
    axes: tuple[str, ...],
) -> None:
    """Chunks of zeros are written too, so that a missing file always means a loss.

    Axes of one name have one length in the whole group, so that xarray opens it.
    """
    group.create_array(
        name,
        data=array,
        chunks=(chunk, *(max(1, size) for size in array.shape[1:])),
        filters=None,
        compressors=COMPRESSORS[codec],
        dimension_names=axes,
        config={"write_empty_chunks": True},
    )


def fsync_tree(folder: Path) -> None:
    """Make all files and folders below `folder` durable."""
    for _, path in folder_files(folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    for inner in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        fsync_folder(inner)


def rename_folder(temporary: Path, path: Path) -> None:
    """Give the folder its name; what has that name goes, once the new folder has it."""
    aside = temporary.with_name(temporary.name.replace(".tmp-", ".tmp-old-", 1))
    if path.exists():
        os.rename(path, aside)
    os.rename(temporary, path)
    fsync_folder(path.parent)
    shutil.rmtree(aside, ignore_errors=True)
