"""What is left to do of an extraction whose store was begun, by the layers that its shards lack."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from p2pkit.shards.model import GEOMETRY, LayerSpec, Manifest
from p2pkit.shards.writer import StoreWriter

Lacking = tuple[str, ...]
"""Names of layers, as the manifest has them in order."""


@dataclass(frozen=True)
class WorkLeft:
    """Frames of the recording by the state of their shards.

    Args:
        done: frames of finished shards, by layer.
        lacking: frames of unfinished shards, by what these lack; where that is the geometry, every
            layer is worked out with it.
    """

    done: dict[str, int]
    lacking: dict[Lacking, int]


def work_left(
    out: Path, stored: Manifest | None, layers: Sequence[LayerSpec], shards: Sequence[Sequence[str]]
) -> WorkLeft:
    """What the store at `out` has of these layers.

    Args:
        out: the store.
        stored: its manifest; None where there is none yet.
        layers: that are asked for, geometry first.
        shards: the keys of each planned shard.
    """
    names = tuple(layer.name for layer in layers)
    known = {layer.name for layer in stored.layers} if stored is not None else set[str]()
    writer = StoreWriter(out, stored) if stored is not None else None
    done: Counter[str] = Counter(dict.fromkeys(names, 0))
    lacking: Counter[Lacking] = Counter()
    for shard, keys in enumerate(shards):
        there = {n for n in names if writer and n in known and writer.is_done(n, shard)}
        done.update(dict.fromkeys(there, len(keys)))
        lack = names if GEOMETRY not in there else tuple(n for n in names if n not in there)
        if lack:
            lacking[lack] += len(keys)
    return WorkLeft(dict(done), dict(lacking))
