"""The two on-disk forms of a shard, behind one interface: same records, checks and reader."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from p2pkit.errors import StoreError
from p2pkit.store.location import Location
from p2pkit.store.manifest import LayerSpec, Sample
from p2pkit.store.records import ShardRecord, Written
from p2pkit.store.remote.client import RemotePath
from p2pkit.store.shard import Shard
from p2pkit.store.tar.reader import TarShard
from p2pkit.store.tar.writer import write_tar


@dataclass(frozen=True)
class Storage:
    """One on-disk form.

    Args:
        suffix: of a shard's name.
        write: writes one shard atomically.
        open: opens one shard and checks it against its record; a remote one through the cache.
    """

    suffix: str
    write: Callable[[Path, LayerSpec, Iterable[Sample]], Written]
    open: Callable[[Location, LayerSpec, ShardRecord], Shard]


def _write_zarr(path: Path, layer: LayerSpec, samples: Iterable[Sample]) -> Written:
    from p2pkit.store.zarr.writer import write_zarr

    return write_zarr(path, layer, samples)


def _open_tar(path: Location, layer: LayerSpec, record: ShardRecord) -> Shard:
    if isinstance(path, RemotePath):
        from p2pkit.store.remote.shard import RemoteShard

        return RemoteShard(path, lambda place: TarShard(place, layer, record), record)
    return TarShard(path, layer, record)


def _open_zarr(path: Location, layer: LayerSpec, record: ShardRecord) -> Shard:
    from p2pkit.store.zarr.reader import ZarrShard

    if isinstance(path, RemotePath):
        from p2pkit.store.remote.shard import RemoteShard

        return RemoteShard(path, lambda place: ZarrShard(place, layer, record), record)
    return ZarrShard(path, layer, record)


STORAGES: dict[str, Storage] = {
    "tar": Storage(".tar", write_tar, _open_tar),
    "zarr": Storage(".zarr", _write_zarr, _open_zarr),
}


def find_storage(name: str) -> Storage:
    """The storage of this name; StoreError lists the right ones."""
    if name not in STORAGES:
        raise StoreError(f"no storage is called {name!r}; choose one of {', '.join(STORAGES)}")
    return STORAGES[name]
