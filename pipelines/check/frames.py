"""The frames that a check reads, with their neighbours, each loaded once."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from p2pkit.alignment.edges import Look, make_looks
from p2pkit.alignment.poses import FramePair, PosedDepth, posed_depth
from p2pkit.datasets.frame import Frame, FrameSource
from p2pkit.errors import FrameError
from p2pkit.sampling import evenly_spread

Move = Float64[np.ndarray, "4 4"] | None
Problems = Callable[[Frame], list[str]]
PARTNERS = (1, 2, 5)
"""Depths are compared with those of the frames this many places further on."""


class Gathered(NamedTuple):
    """What was read from a source.

    Fields:
        keys: of the frames that were checked.
        looks: their views, ready for trying calibrations.
        pairs: posed frames of one sequence.
        failures: (key, reason) of frames that could not be read.
    """

    keys: list[str]
    looks: list[Look]
    pairs: list[FramePair]
    failures: list[tuple[str, str]]


class _Reader:
    """Loads frames of a source; keeps what others need of them instead of the images.

    A frame with an invalid field counts as bad: nothing else can be computed from it.
    """

    def __init__(self, source: FrameSource, problems: Problems) -> None:
        self._source, self._problems = source, problems
        self._known: dict[str, tuple[str, PosedDepth | None] | None] = {}
        self.failures: dict[str, str] = {}

    def frame(self, key: str) -> Frame | None:
        try:
            frame = self._source.load(key)
        except FrameError as error:
            self.failures[key] = str(error)
            self._known[key] = None
            return None
        if wrong := self._problems(frame):
            self.failures[key] = f"{key}: {'; '.join(wrong)}"
            self._known[key] = None
            return None
        number = len(self._known)
        self._known[key] = (frame.sequence, posed_depth(frame, np.random.default_rng(number)))
        return frame

    def posed(self, key: str) -> tuple[str, PosedDepth | None] | None:
        """Sequence and depth of a frame; None if it is bad."""
        if key not in self._known:
            self.frame(key)
        return self._known[key]


def gather(
    source: FrameSource,
    count: int,
    *,
    problems: Problems,
    visit: Callable[[Frame], None] | None = None,
) -> Gathered:
    """Read up to `count` frames, spread evenly over the recording, and their neighbours.

    Args:
        source: the recording.
        count: frames to check.
        problems: what is wrong with a frame's fields; a frame with any is a failure.
        visit: called with each of these frames; nothing else keeps their images.
    """
    keys = list(source.keys())
    chosen = evenly_spread(len(keys), count)
    reader = _Reader(source, problems)
    seen: list[str] = []
    looks: list[Look] = []
    pairs: list[FramePair] = []
    for number, row in enumerate(chosen.tolist()):
        frame = reader.frame(keys[row])
        if frame is None:
            continue
        if visit is not None:
            visit(frame)
        has_pose = frame.world_from_sensor is not None
        moves = (None, None)
        if has_pose:
            moves = (_move(reader, keys, row, -1), _move(reader, keys, row, 1))
            pairs += _pairs(reader, keys, row)
        if frame.views and all(view.image.size for view in frame.views):
            looks += make_looks(number, frame, moves=moves)
        seen.append(frame.key)
    return Gathered(seen, looks, pairs, list(reader.failures.items()))


def _neighbour(
    reader: _Reader, keys: Sequence[str], row: int, step: int
) -> tuple[PosedDepth, PosedDepth] | None:
    """This frame and the one `step` away, if both are posed and of one sequence."""
    if not 0 <= row + step < len(keys):
        return None
    one, other = reader.posed(keys[row]), reader.posed(keys[row + step])
    if one is None or other is None or one[0] != other[0]:
        return None
    if one[1] is None or other[1] is None:
        return None
    return one[1], other[1]


def _move(reader: _Reader, keys: Sequence[str], row: int, step: int) -> Move:
    """sensor_then_from_now: from this frame's sensor to the neighbour's, through the world."""
    found = _neighbour(reader, keys, row, step)
    if found is None:
        return None
    now, then = found
    return np.linalg.inv(then.world_from_sensor) @ now.world_from_sensor


def _pairs(reader: _Reader, keys: Sequence[str], row: int) -> list[FramePair]:
    found = [_neighbour(reader, keys, row, step) for step in PARTNERS]
    return [FramePair(*pair) for pair in found if pair is not None]
