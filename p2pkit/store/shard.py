"""An open shard, in whichever of the two on-disk forms."""

from collections.abc import Collection, Iterator
from typing import Protocol, runtime_checkable

from p2pkit.errors import CorruptShardError
from p2pkit.store.manifest import Sample


@runtime_checkable
class Shard(Protocol):
    """An open shard. All methods are thread-safe."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the samples, in order."""
        ...

    def read(self, row: int, fields: Collection[str] | None = None) -> Sample:
        """Read and verify one sample; `fields` limits the arrays."""
        ...

    def stored_bytes(self) -> dict[str, int]:
        """Bytes that each column takes in the shard."""
        ...

    def problems(self) -> Iterator[CorruptShardError]:
        """Read and verify every byte; yield what is wrong."""
        ...
