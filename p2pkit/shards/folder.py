"""The folder of a store: what may lie in it, and what is told where it cannot be written."""

import contextlib
from collections.abc import Generator
from pathlib import Path

from p2pkit.errors import StoreError
from p2pkit.shards.layout import CLAIMS, FAILURES, INPUTS_FOLDER, MANIFEST
from p2pkit.shards.model import FEATURES, GEOMETRY, SUPERPIXELS

OWN_NAMES = {
    MANIFEST,
    FAILURES,
    CLAIMS,
    INPUTS_FOLDER,
    *(kind.rstrip("/") for kind in (GEOMETRY, FEATURES, SUPERPIXELS)),
}
"""What lies in a store's folder."""


def refuse_foreign_folder(path: Path) -> None:
    """Raise StoreError where something is in a folder that is no store, nor the beginning of one.

    Its files would lie among the store's, and what is called `.tmp-…` there would be swept away.
    """
    with refusals_told(path):
        if (path / MANIFEST).exists() or not path.exists():
            return
        names = sorted(entry.name for entry in path.iterdir())
    foreign = [name for name in names if name not in OWN_NAMES and not name.startswith(".tmp-")]
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise StoreError(
            f"{path} is no store and not empty: it holds {foreign[0]}{more}. Name a folder that is "
            "new or empty, or the store that is to be gone on with"
        )


@contextlib.contextmanager
def refusals_told(path: Path) -> Generator[None, None, None]:
    """Turn the system's refusal to write (disk full, read-only, ...) into a StoreError."""
    try:
        yield
    except OSError as error:
        told = error.strerror or repr(error)
        raise StoreError(
            f"{path} cannot be written: {told}. What was complete before is still good; make room "
            "or get write access, then run the same command again"
        ) from error
