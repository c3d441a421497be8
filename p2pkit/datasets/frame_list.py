"""Helpers that frame sources share: the folder they need, and the digest of a frame list."""

from collections.abc import Iterable
from pathlib import Path

from p2pkit.datasets.options import SourceOptions
from p2pkit.errors import SourceError
from p2pkit.files import sha256_json


def existing_root(options: SourceOptions, dataset: str) -> Path:
    """The folder in `options.root`.

    Raises:
        SourceError: no folder was given, or it does not exist.
    """
    if options.root is None:
        raise SourceError(f"{dataset} needs the folder of a recording; none was given")
    if not options.root.is_dir():
        raise SourceError(f"{options.root} is no folder; {dataset} needs the folder of a recording")
    return options.root


def frame_list_digest(frames: Iterable[tuple[str, Iterable[Path | None]]]) -> str:
    """Hex sha256 over each frame's key and its files' sizes in bytes; -1 where there is no file."""
    return sha256_json([[key, *map(_file_size, paths)] for key, paths in frames])


def _file_size(path: Path | None) -> int:
    return path.stat().st_size if path is not None and path.is_file() else -1
