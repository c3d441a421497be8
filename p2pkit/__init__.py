"""Pretrain 3D networks from 2D networks: pixel-to-point contrastive knowledge transfer.

Importing this module is cheap: no torch, no numba. Each stage lives in its own subpackage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from p2pkit.datasets.frame import FrameSource
    from p2pkit.layers.frames import FrameStore
    from p2pkit.networks.pretrained import PretrainedStudent
    from p2pkit.store.zarr.view import TarView

__all__ = ["load_pretrained", "open_recording", "open_store", "open_zarr"]
__version__ = "0.1.0"


def load_pretrained(path: str | Path, *, engine: str | None = None) -> PretrainedStudent:
    """The student of a file that `p2pkit export` wrote, with its inputs, voxel size and up axis.

    Args:
        path: of the file.
        engine: of the sparse convolutions, `minkowski` or `torch`; None takes MinkowskiEngine where
            it is installed, else torch.

    Raises:
        TrainingError: the file cannot be read, or does not say what it is.
        ConfigError: it is of a student that this version does not know.
    """
    from p2pkit.networks.pretrained import load_pretrained as load

    return load(path, engine=engine)


def open_recording(
    path: str | Path | None = None,
    *,
    dataset: str | None = None,
    limit: int | None = None,
    every: int = 1,
    camera: str | Path | None = None,
    depth_units: float | None = None,
    flying_margin: float | None = None,
    streams: Sequence[str] = (),
) -> FrameSource:
    """A recording for reading, as `p2pkit extract` reads it: `keys()`, and `load(key)` for a frame.

    Args:
        path: the recording's folder; None for generated rooms.
        dataset: its format; None recognises it by its files, and takes `demo-scene` without a path.
        limit: read only the first `limit` frames; None reads all.
        every: read only every N-th frame of each sequence.
        camera: a calibration to use in place of the recording's own.
        depth_units: units per metre of stored depth, in place of what the recording says.
        flying_margin: share of its depth by which a pixel that is dropped floats between the sides
            of an edge; 0 keeps all, None takes what `p2pkit extract` takes.
        streams: topics of a ROS bag, or cameras of a LeRobot dataset, where several fit.

    Raises:
        SourceError: the recording cannot be used, or its format is not recognised.
        ConfigError: no dataset has that name, or an option is of no use to it.
    """
    from pathlib import Path

    from p2pkit.datasets.frame import SourceOptions
    from p2pkit.datasets.recognise import recognise
    from p2pkit.datasets.registry import open_source
    from p2pkit.settings.recording import FLYING_MARGIN

    root = None if path is None else Path(path)
    if dataset is None and root is not None:
        found = recognise(root)
        root, dataset = found.root, found.dataset
    options = SourceOptions(
        root=root,
        camera_file=None if camera is None else Path(camera),
        limit=limit,
        every=every,
        depth_units=depth_units,
        flying_margin=FLYING_MARGIN if flying_margin is None else flying_margin,
        streams=tuple(streams),
    )
    return open_source(dataset or "demo-scene", options)


def open_store(store: str | Path) -> FrameStore:
    """A store for reading: `len(store)`, `store[0]` and `store["key"]` give frames.

    `read` gives one sample of one layer as it is stored, `keys` the keys of a shard.

    Args:
        store: a folder, or a URL such as `s3://bucket/rooms.store`, as text.

    Raises:
        StoreError: `store` is not a store, or its manifest is damaged or of another version.
        MissingDependencyError: it is a URL, and obstore is not installed.
    """
    from p2pkit.layers.frames import open_store as open_for_reading

    return open_for_reading(store)


def open_zarr(store: str | Path) -> TarView:
    """A tar store as a read-only Zarr v3 store: `zarr.open_group(open_zarr(store), mode="r")`.

    Every chunk is compared with its checksum as it is read; docs/format-shards.md shows the
    hierarchy.

    Raises:
        StoreError: `store` is not a store, or its shards are Zarr groups already.
    """
    from p2pkit.store.zarr.view import open_zarr as open_view

    return open_view(store)
