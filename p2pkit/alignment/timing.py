"""Were points and images taken at the same time? Points are moved along the poses and scored."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from p2pkit.alignment.edges import Look, Placed, Score, place, score
from p2pkit.alignment.significance import Evidence, cross_tested, mean_displacement, split_looks

INTERVALS = tuple(step / 8 for step in range(-8, 9))
"""Times that are tried, in intervals between frames; above 0 the points are taken to a later time,
which fits where the images are late."""


class TimeOffset(NamedTuple):
    """The time of the images that fits best.

    Fields:
        intervals: images' time minus the declared one, in intervals between frames.
        milliseconds: the same; None where the interval is not known.
        displacement: mean distance that this moves the edge points' pixels, as a share of the
            image's width.
        reach: the same for a whole interval; where it is small, no time offset can be found.
        evidence: that the time fits better, found on one half of the data and tested on the other.
        found: its score, tested in this way.
    """

    intervals: float
    milliseconds: float | None
    displacement: float
    reach: float
    evidence: Evidence
    found: Score


def timed_looks(looks: Sequence[Look]) -> list[Look]:
    """Those with poses before and after."""
    return [look for look in looks if all(move is not None for move in look.moves)]


def frame_interval_s(looks: Sequence[Look]) -> float | None:
    """Median time between frames; None where the sensor's speed is not known."""
    known = [look.interval_s for look in looks if look.interval_s is not None]
    return float(np.median(known)) if known else None


def at_time(look: Look, intervals: float) -> Placed:
    """The points as the sensor would see them a part of an interval later or earlier."""
    move = look.moves[1] if intervals > 0 else look.moves[0]
    assert move is not None
    return place(look, sensor_side=part_of_motion(move, abs(intervals)))


def part_of_motion(move: Float64[np.ndarray, "4 4"], share: float) -> Float64[np.ndarray, "4 4"]:
    """A share of a rigid motion: of its rotation vector and of its way, at constant speed."""
    part = np.eye(4)
    turn = Rotation.from_matrix(move[:3, :3]).as_rotvec()
    part[:3, :3] = Rotation.from_rotvec(share * turn).as_matrix()
    part[:3, 3] = share * move[:3, 3]
    return part


def find_time_offset(looks: Sequence[Look]) -> TimeOffset | None:
    """Try `INTERVALS`; None where no look has poses before and after."""
    timed = timed_looks(looks)
    if not timed:
        return None
    halves = split_looks(timed)
    places = [partial(at_time, intervals=_best(half)) for half in halves]
    found, evidence = cross_tested(halves, places)
    best = _best(timed)
    interval_s = frame_interval_s(timed)
    return TimeOffset(
        intervals=best,
        milliseconds=None if interval_s is None else 1000 * best * interval_s,
        displacement=mean_displacement(timed, partial(at_time, intervals=best)),
        reach=mean_displacement(timed, partial(at_time, intervals=1.0)),
        evidence=evidence,
        found=found,
    )


def _best(looks: Sequence[Look]) -> float:
    """The nearest to 0 of those that score highest."""
    nearest_first = sorted(INTERVALS, key=abs)
    return max(nearest_first, key=lambda step: score(looks, partial(at_time, intervals=step)).mean)
