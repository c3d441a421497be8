"""How many bytes a layer will take, from a few of its samples, before it is written."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from p2pkit.files import canonical_json
from p2pkit.store.codecs import encode
from p2pkit.store.manifest import JSON_FIELD, LayerSpec, Sample
from p2pkit.store.npy import npy_header
from p2pkit.store.shard_meta import shard_meta
from p2pkit.store.tar.writer import BLOCK, END

TABLES = "tables"
"""Key of what belongs to no field: index, key list, end of file."""

Sizes = dict[str, float]


def sample_bytes(layer: LayerSpec, sample: Sample) -> dict[str, int]:
    """Bytes that each member of a sample takes in a tar shard, with its header and padding."""
    sizes = {
        name: sum(map(len, encode(sample.arrays[name], layer.field(name).codec)))
        for name in layer.columns[:-1]
    }
    sizes[JSON_FIELD] = len(canonical_json(sample.meta).encode())
    return {name: _in_tar(size) for name, size in sizes.items()}


def _tar_sizes(layer: LayerSpec, samples: Sequence[Sample], shards: list[list[str]]) -> Sizes:
    """The tables to the byte, the samples by the mean of those at hand."""
    frames = sum(map(len, shards))
    rows = [sample_bytes(layer, sample) for sample in samples]
    sizes: Sizes = {
        name: frames * float(np.mean([row[name] for row in rows])) for name in layer.columns
    }
    sizes[TABLES] = sum(_tar_tables(layer, keys) for keys in shards)
    return sizes


def _tar_tables(layer: LayerSpec, keys: list[str]) -> int:
    shape = (len(keys), len(layer.columns), 3)
    index = len(npy_header("<u8", shape)) + 8 * int(np.prod(shape))
    meta = len(canonical_json(shard_meta(layer, keys)).encode())
    return _in_tar(index) + _in_tar(meta) + len(END)


def _in_tar(payload: int) -> int:
    return BLOCK + payload + -payload % BLOCK


def _zarr_sizes(layer: LayerSpec, samples: Sequence[Sample], shards: list[list[str]]) -> Sizes:
    """By writing one shard to a temporary folder; samples repeat until it is full.

    So a chunk that the shard's last rows fill only partly weighs as much as it will.
    """
    from p2pkit.store.zarr.writer import folder_files, write_zarr

    frames, largest = sum(map(len, shards)), shards[0]
    full = [replace(samples[row % len(samples)], key=key) for row, key in enumerate(largest)]
    sizes: Sizes = dict.fromkeys((*layer.columns, TABLES), 0.0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.zarr"
        write_zarr(path, layer, full)
        for name, file in folder_files(path):
            array = name.split("/")[0]
            sizes[array if array in layer.columns else TABLES] += file.stat().st_size
    return {name: size * frames / len(full) for name, size in sizes.items()}


LAYER_SIZES: dict[str, Callable[[LayerSpec, Sequence[Sample], list[list[str]]], Sizes]] = {
    "tar": _tar_sizes,
    "zarr": _zarr_sizes,
}
"""By storage: bytes of each field, of `json` and of `tables`, from some samples and the plan."""
