"""Delete a layer of features, superpixels or boxes from a store."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from p2pkit.errors import StoreError
from p2pkit.files import fsync_folder, write_json
from p2pkit.store.claims import locked
from p2pkit.store.location import MANIFEST, claim_path, local_folder
from p2pkit.store.manifest import GEOMETRY
from p2pkit.store.reading import open_store
from p2pkit.store.strict_json import LAYER_NAME, sealed
from p2pkit.store.writing import read_manifest


@dataclass(frozen=True)
class LayerFiles:
    """A layer that can be dropped.

    Args:
        name: the layer's whole name.
        files: number of files to delete.
        bytes: of these files.
    """

    name: str
    files: int
    bytes: int


def layer_files(root: Path, name: str) -> LayerFiles:
    """What dropping a layer would delete.

    Args:
        root: of the store.
        name: as for `Store.layer`, or the whole name of a layer whose dropping was interrupted.

    Raises:
        StoreError: the layer does not exist, or is the geometry.
    """
    root = local_folder(root, "the store of a layer to drop")
    known = {layer.name for layer in read_manifest(root).layers}
    is_left_over = name not in known and LAYER_NAME.fullmatch(name) and (root / name).is_dir()
    whole = name if is_left_over else open_store(root).layer(name).name
    if whole == GEOMETRY:
        raise StoreError(
            "the geometry cannot be dropped: every other layer needs it. Delete the store's folder "
            f"{root} to remove everything"
        )
    sizes = list(_file_sizes(root / whole))
    return LayerFiles(whole, len(sizes), sum(sizes))


def _file_sizes(folder: Path) -> Iterator[int]:
    """Bytes of each file below, except those that another process renames meanwhile."""
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                yield Path(place, name).stat().st_size


def drop_layer(root: Path, name: str) -> LayerFiles:
    """Remove a layer from the manifest, then delete its files; run again if interrupted.

    Readers that already opened the store may still request the files.

    Raises:
        StoreError: the layer does not exist, or is the geometry.
    """
    root = local_folder(root, "the store of a layer to drop")
    with locked(claim_path(root, "manifest")):
        found = layer_files(root, name)
        manifest = read_manifest(root)
        kept = tuple(layer for layer in manifest.layers if layer.name != found.name)
        if kept != manifest.layers:
            write_json(root / MANIFEST, sealed(replace(manifest, layers=kept).to_json()))
        folder = root / found.name
        # Records go first: a shard without one does not count, should this stop half-way.
        for record in sorted(folder.glob("*.json")):
            record.unlink()
        if folder.is_dir():
            fsync_folder(folder)
            shutil.rmtree(folder)
    return found
