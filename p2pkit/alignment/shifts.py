"""The shift test: is the alignment best where the calibration says, and if not, where?"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from p2pkit.alignment.edges import Look, Place, Placed, Score, place, score
from p2pkit.alignment.significance import (
    Evidence,
    cross_tested,
    mean_displacement,
    split_looks,
    with_rows,
)
from p2pkit.alignment.timing import INTERVALS, at_time, frame_interval_s, timed_looks

PIXELS = tuple(map(float, (*range(-40, -8, 8), *range(-8, 9), *range(16, 41, 8))))
"""Displacements in 640ths of the image's width."""
DEGREES = tuple(
    sign * angle
    for sign in (-1.0, 1.0)
    for angle in (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
)
FACTORS = tuple(1 + 0.025 * step for step in range(-6, 7))
SHIFTS = (0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.27, 0.35, 0.43, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Motions of the cameras as shares of `farthest_shift`."""
ROUNDS = 4
POINTS_IN_ALL, FEWEST_OF_A_LOOK = 20_000, 300
_SORTED = tuple(sorted(set(DEGREES)))
NOTHING = (0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
"""Turns (degrees), image scale, shifts: the declared calibration."""


class Profile(NamedTuple):
    """Scores along one kind of displacement."""

    name: str
    unit: str
    steps: tuple[float, ...]
    scores: tuple[float, ...]


class Misalignment(NamedTuple):
    """The small change of the calibration that fits best.

    Fields:
        turn_deg: rotation of the points about the camera's x, y and z axes.
        image_scale: factor of the focal lengths.
        shift_m: motion of the points in the camera's frame.
        displacement: mean distance of the edge points' pixels before and after, as a share of the
            image's width.
        evidence: that such a change fits better: found on one half of the data and tested on the
            other, and the other way round.
        found: its score, tested in this way.
    """

    turn_deg: tuple[float, float, float]
    image_scale: float
    shift_m: tuple[float, float, float]
    displacement: float
    evidence: Evidence
    found: Score


def profiles(looks: Sequence[Look]) -> list[Profile]:
    """Scores as pixels are shifted along u and v, points turned about three axes, and, where
    neighbouring frames have poses, points moved to another time.

    Times are in ms where the frames' distance in time is known, else in intervals between frames.
    """
    found = [
        _profile(looks, name, "px at 640 px of width", PIXELS, partial(_shifted, axis=axis))
        for axis, name in enumerate(("u", "v"))
    ]
    found += [
        _profile(looks, f"turn about {name}", "degrees", _SORTED, partial(_turned, axis=axis))
        for axis, name in enumerate("xyz")
    ]
    timed = timed_looks(looks)
    if timed:
        interval_s = frame_interval_s(timed)
        curve = _profile(timed, "time", "frame intervals", INTERVALS, at_time)
        if interval_s is not None:
            steps = tuple(round(1000 * interval_s * step, 2) for step in curve.steps)
            curve = curve._replace(unit="ms", steps=steps)
        found.append(curve)
    return found


def _profile(
    looks: Sequence[Look],
    name: str,
    unit: str,
    steps: tuple[float, ...],
    displaced: Callable[[Look, float], Placed],
) -> Profile:
    scores = [score(looks, lambda look, step=step: displaced(look, step)).mean for step in steps]
    return Profile(name, unit, steps, tuple(scores))


def _turned(look: Look, degrees: float, axis: int) -> Placed:
    change = np.array(NOTHING)
    change[axis] = degrees
    return _changed_by(change)(look)


def _shifted(look: Look, steps: float, axis: int) -> Placed:
    placed = place(look)
    shift = np.zeros(2)
    shift[axis] = steps * look.camera.width / 640
    return Placed(placed.pixel_uv + shift, placed.in_front)


def find_misalignment(looks: Sequence[Look]) -> Misalignment:
    """Climb from the declared calibration; docs/check-details.md says how the gain is tested."""
    random = np.random.default_rng(0)
    most = max(POINTS_IN_ALL // max(len(looks), 1), FEWEST_OF_A_LOOK)
    near = [_near_the_image(look, most, random) for look in looks]
    halves = split_looks(near)
    places = [_changed_by(_climb(half)) for half in halves]
    found, evidence = cross_tested(halves, places)
    change = _climb(near)
    turn = (float(change[0]), float(change[1]), float(change[2]))
    shift = (float(change[4]), float(change[5]), float(change[6]))
    moved = mean_displacement(near, _changed_by(change))
    return Misalignment(turn, float(change[3]), shift, moved, evidence, found)


def _climb(looks: Sequence[Look]) -> Float64[np.ndarray, " changes"]:
    """Steepest ascent: the best step along any one kind of change, until none is better."""
    change = np.array(NOTHING)
    shifts = tuple(sign * farthest_shift(looks) * share for share in SHIFTS for sign in (1, -1))
    kinds = (DEGREES, DEGREES, DEGREES, FACTORS, shifts, shifts, shifts)
    best = score(looks, place).mean
    for _ in range(ROUNDS):
        gains: list[tuple[float, Float64[np.ndarray, " changes"]]] = []
        for axis, steps in enumerate(kinds):
            tried = np.repeat(change[None], len(steps), axis=0)
            tried[:, axis] = steps
            values = [score(looks, _changed_by(one)).mean for one in tried]
            gains.append((max(values), tried[int(np.argmax(values))]))
        found, step = max(gains, key=lambda gain: gain[0])
        if found <= best:
            break
        best, change = found, step
    return change


def farthest_shift(looks: Sequence[Look]) -> float:
    """A tenth of the median distance of the edges, in whose units the shifts are tried (m)."""
    distance = np.concatenate([np.linalg.norm(look.edges.points, axis=1) for look in looks])
    return float(0.1 * np.median(distance)) if len(distance) else 0.0


def _near_the_image(look: Look, most: int, random: np.random.Generator) -> Look:
    """About `most` points, without those that no small change brings into the image."""
    placed = place(look)
    size = np.array([look.camera.width, look.camera.height])
    low, high = -0.2 * size, 1.2 * size
    near = placed.in_front & (placed.pixel_uv > low).all(1) & (placed.pixel_uv < high).all(1)
    kept = near & (random.random(len(near)) * max(near.sum(), 1) < most)
    return with_rows(look, kept)


def _changed_by(change: Float64[np.ndarray, " changes"]) -> Place:
    """Where looks' points fall after a change; its motion is worked out once for all of them."""
    motion = _rotation(change[:3])
    motion[:3, 3] = change[4:]

    def changed(look: Look) -> Placed:
        placed = place(look, camera_side=motion)
        if change[3] == 1:
            return placed
        centre = (look.camera.cx, look.camera.cy)
        return Placed((placed.pixel_uv - centre) * change[3] + centre, placed.in_front)

    return changed


def _rotation(turn_deg: Float64[np.ndarray, "3"]) -> Float64[np.ndarray, "4 4"]:
    """Rotations about x, then y, then z."""
    turn = np.eye(4)
    for axis, angle in enumerate(np.deg2rad(turn_deg)):
        one, two = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(4)
        step[one, one] = step[two, two] = np.cos(angle)
        step[one, two], step[two, one] = -np.sin(angle), np.sin(angle)
        turn = step @ turn
    return turn
