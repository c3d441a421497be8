"""What every frame source is opened with."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SourceOptions:
    """Where a recording lies and how much of it to read.

    Args:
        root: the recording's folder; None for sources that need none.
        camera_file: a `camera.json` to use instead of the one in the folder (`posed-rgbd` only).
        every: use each `every`-th frame of each sequence, beginning with its first.
        limit: use the first `limit` of these frames in recording order; None for all.
        seed: for sources that generate their frames.
    """

    root: Path | None = None
    camera_file: Path | None = None
    limit: int | None = None
    seed: int = 0
    every: int = 1
