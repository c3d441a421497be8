"""Digests of what a sample was made from, by which an edited recording is recognised."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import xxhash

from p2pkit.datasets.frame import Frame
from p2pkit.errors import SourceError, StoreError
from p2pkit.files import canonical_json
from p2pkit.store.location import record_path
from p2pkit.store.manifest import Sample
from p2pkit.store.reading import Store
from p2pkit.store.strict_json import hex64

INPUTS = "inputs"
"""The entry of a sample's JSON; the geometry's details name the digest under it."""
DIGEST = "xxh3-64"


def input_digests(frame: Frame) -> dict[str, str]:
    """Hex xxh3-64 of each part of a frame, as it was decoded; parts that it lacks are left out."""
    parts: dict[str, list[np.ndarray | None]] = {
        "images": [array for view in frame.views for array in (view.image, view.valid)],
        "depth": [None if frame.depth is None else frame.depth.values],
        "points": [
            frame.points,
            frame.intensity,
            frame.colors,
            frame.point_time_s,
            *(view.sees for view in frame.views),
        ],
        "labels": [frame.labels],
        "instances": [frame.instances],
        "pose": [frame.world_from_sensor],
    }
    found = {name: _digest(arrays) for name, arrays in parts.items() if _any(arrays)}
    calibration = canonical_json(_calibration(frame)).encode()
    return found | {"calibration": hex64(xxhash.xxh3_64_intdigest(calibration))}


def with_inputs(sample: Sample, digests: Mapping[str, str] | None) -> Sample:
    """The sample with these digests in its JSON; unchanged for None."""
    if digests is None:
        return sample
    return replace(sample, meta={**sample.meta, INPUTS: dict(digests)})


def check_inputs(frame: Frame, stored: Iterable[Mapping[str, Any]]) -> None:
    """Refuse a frame that is not the one that samples of a store were made from.

    Args:
        frame: as the recording gives it now.
        stored: JSON of the frame's samples; those without digests cannot be compared.

    Raises:
        SourceError: a part differs; the message names it and the frame.
    """
    known = [meta[INPUTS] for meta in stored if isinstance(meta.get(INPUTS), Mapping)]
    if not known:
        return
    now = input_digests(frame)
    changed = sorted(
        {name for there in known for name in {*there, *now} if there.get(name) != now.get(name)}
    )
    if changed:
        raise SourceError(
            f"frame {frame.key} differs in its {' and '.join(changed)} from what its samples in "
            "the store were made from: the recording was edited, or other library versions decode "
            "it differently. Restore the original files, or extract into a new folder; `p2pkit "
            "shards drop-layer` removes a layer that cannot be finished"
        )


def known_inputs(store: Store, shard: int) -> dict[str, list[dict[str, Any]]]:
    """JSON of each sample of a shard that can be read, of whatever layers, by key."""
    found: dict[str, list[dict[str, Any]]] = {}
    for layer in store.manifest.layers:
        if not record_path(store.root, layer.name, shard).exists():
            continue
        with contextlib.suppress(StoreError):
            opened = store.alone(layer.name, shard)
            for row, key in enumerate(opened.keys):
                with contextlib.suppress(StoreError):
                    found.setdefault(key, []).append(opened.read(row, ()).meta)
    return found


def _any(arrays: Iterable[np.ndarray | None]) -> bool:
    return any(array is not None for array in arrays)


def _digest(arrays: Iterable[np.ndarray | None]) -> str:
    digest = xxhash.xxh3_64()
    for array in arrays:
        # The shape too, so that arrays cannot run into each other.
        digest.update(b"-" if array is None else f"{array.dtype.str}{array.shape}".encode())
        if array is not None:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _calibration(frame: Frame) -> list[Any]:
    depth = frame.depth
    rows: list[Any] = [
        [view.camera.to_json(), view.camera_from_sensor.tolist(), view.time_offset_s]
        for view in frame.views
    ]
    rows.append(None if depth is None else [depth.camera.to_json(), depth.units_per_metre])
    return [*rows, frame.speed_m_s]
