"""Limits of what time stamps can say: beyond them an offset or a speed is not known."""

from collections.abc import Iterator, Sequence

import numpy as np

from p2pkit.datasets.frame import Frame, View

LARGEST_OFFSET_S = 1.0
"""An image is not farther from its points in time; clocks that differ are."""
MOST_INTERVALS = 5.0
"""Nor more than this many frames away."""
LEAST_LIMIT_S = 0.05
FASTEST_M_S = 150.0
"""No car or drone that carries the sensors is faster."""


def motion_m(frame: Frame, view: View) -> float:
    """How far the sensor moves between the points and an image (m); 0 where that is not known.

    Offsets and speeds that are not plausible are treated as unknown: an uninitialised time stamp,
    or a camera with another clock, says nothing about the pairs.
    """
    offset, speed = view.time_offset_s, frame.speed_m_s
    if (
        offset is None
        or not abs(offset) <= largest_offset_s(frame)
        or not 0 <= speed <= FASTEST_M_S
    ):
        return 0.0
    return abs(offset) * speed


def largest_offset_s(frame: Frame) -> float:
    """The largest plausible time between an image and the points of this frame (s)."""
    if frame.interval_s is None:
        return LARGEST_OFFSET_S
    return min(LARGEST_OFFSET_S, max(LEAST_LIMIT_S, MOST_INTERVALS * frame.interval_s))


def implausible_times(frame: Frame) -> Iterator[str]:
    """One sentence for each offset or speed of a frame that is taken as not known."""
    limit = largest_offset_s(frame)
    for number, view in enumerate(frame.views):
        if view.time_offset_s is not None and not abs(view.time_offset_s) <= limit:
            yield (
                f"{frame.key}: image {number} is {view.time_offset_s:g} s from its points; "
                f"expected at most {limit:g} s"
            )
    if not 0 <= frame.speed_m_s <= FASTEST_M_S:
        speed = f"the speed is {frame.speed_m_s:g} m/s; expected 0 to {FASTEST_M_S:g}"
        yield f"{frame.key}: {speed}"


def median_interval_s(times_s: Sequence[float | None]) -> float | None:
    """The median time between neighbouring frames (s); None without two known times in order."""
    known = np.array([time for time in times_s if time is not None], dtype=np.float64)
    steps = np.diff(known[np.isfinite(known)])
    return float(np.median(steps[steps > 0])) if (steps > 0).any() else None
