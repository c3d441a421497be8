"""What every frame source is opened with."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SourceOptions:
    """Where a recording lies and how much of it to read.

    Args:
        root: the recording's folder; None for sources that need none.
        camera_file: a `camera.json` to use instead of the one in the folder (`posed-rgbd` only).
        limit: use the first `limit` frames in recording order; None for all.
        seed: for sources that generate their frames.
    """

    root: Path | None = None
    camera_file: Path | None = None
    limit: int | None = None
    seed: int = 0
