"""Helpers that frame sources share: the folder they need, the frames chosen, and their digest."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from p2pkit.datasets.options import SourceOptions
from p2pkit.errors import FrameError, SourceError
from p2pkit.files import sha256_json


@runtime_checkable
class Listed(Protocol):
    """A frame that is known but not yet read."""

    @property
    def key(self) -> str:
        """Unique in the source."""
        ...

    @property
    def sequence(self) -> str:
        """The recording or scene that it is of."""
        ...


Item = TypeVar("Item")
ListedFrame = TypeVar("ListedFrame", bound=Listed)


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


def chosen_frames(listed: Sequence[ListedFrame], options: SourceOptions) -> dict[str, ListedFrame]:
    """The frames that `every` and `limit` leave, by key.

    Raises:
        SourceError: two frames have the same key.
    """
    count_of: dict[str, int] = {}
    chosen: dict[str, ListedFrame] = {}
    for frame in listed:
        number = count_of.get(frame.sequence, 0)
        count_of[frame.sequence] = number + 1
        if number % options.every:
            continue
        if options.limit is not None and len(chosen) == options.limit:
            break
        if frame.key in chosen:
            raise SourceError(f"two frames give the key {frame.key}; rename a folder of theirs")
        chosen[frame.key] = frame
    return chosen


def known_frame(frames: Mapping[str, Item], key: str) -> Item:
    """The listed frame with this key.

    Raises:
        FrameError: there is none.
    """
    if key not in frames:
        raise FrameError(key, f"no such frame among the {len(frames)} of this recording")
    return frames[key]


def safe_key(*parts: str) -> str:
    """The parts joined by `_`, with characters that a key may not have replaced by `-`."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", "_".join(parts))


def _file_size(path: Path | None) -> int:
    return path.stat().st_size if path is not None and path.is_file() else -1
