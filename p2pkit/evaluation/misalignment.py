"""The shift test: is the alignment best where the calibration says, and if not, where?"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64
from scipy.spatial.transform import Rotation

from p2pkit.evaluation.edge_alignment import Look, Placed, Score, place, score
from p2pkit.evaluation.edge_points import EdgePoints
from p2pkit.evaluation.evidence import Evidence, above

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
INTERVALS = (-1.0, -0.75, -0.5, -0.25, -0.1, 0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Differences in time between points and images, in intervals between frames."""
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
    """
    found = [
        _profile(looks, name, "px at 640 px of width", PIXELS, partial(_shifted, axis=axis))
        for axis, name in enumerate(("u", "v"))
    ]
    found += [
        _profile(looks, f"turn about {name}", "degrees", _SORTED, partial(_turned, axis=axis))
        for axis, name in enumerate("xyz")
    ]
    timed = [look for look in looks if all(move is not None for move in look.moves)]
    if timed:
        found.append(_profile(timed, "time", "frame intervals", INTERVALS, _timed))
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
    return _changed(look, change)


def _timed(look: Look, intervals: float) -> Placed:
    """The points as the sensor would see them a part of an interval later or earlier."""
    move = look.moves[1] if intervals > 0 else look.moves[0]
    assert move is not None
    part = np.eye(4)
    part[:3, :3] = Rotation.from_rotvec(
        abs(intervals) * Rotation.from_matrix(move[:3, :3]).as_rotvec()
    ).as_matrix()
    part[:3, 3] = abs(intervals) * move[:3, 3]
    return place(look, sensor_side=part)


def _shifted(look: Look, steps: float, axis: int) -> Placed:
    placed = place(look)
    shift = np.zeros(2)
    shift[axis] = steps * look.camera.width / 640
    return Placed(placed.pixel_uv + shift, placed.in_front)


def find_misalignment(looks: Sequence[Look]) -> Misalignment:
    """Climb from the declared calibration; docs/check.md tells how the gain is tested."""
    random = np.random.default_rng(0)
    most = max(POINTS_IN_ALL // max(len(looks), 1), FEWEST_OF_A_LOOK)
    near = [_near_the_image(look, most, random) for look in looks]
    halves = _halves(near)
    changes = [_climb(half) for half in halves]
    crossed = [
        score(half, lambda look, change=change: _changed(look, change))
        for half, change in zip(halves, reversed(changes), strict=True)
    ]
    found = _joined(crossed)
    declared = _joined([score(half, place) for half in halves])
    change = _climb(near)
    turn = (float(change[0]), float(change[1]), float(change[2]))
    shift = (float(change[4]), float(change[5]), float(change[6]))
    moved = _displacement(near, change)
    return Misalignment(turn, float(change[3]), shift, moved, above(found, declared), found)


def _climb(looks: Sequence[Look]) -> Float64[np.ndarray, "changes"]:
    """Steepest ascent: the best step along any one kind of change, until none is better."""
    change = np.array(NOTHING)
    shifts = tuple(sign * farthest_shift(looks) * share for share in SHIFTS for sign in (1, -1))
    kinds = (DEGREES, DEGREES, DEGREES, FACTORS, shifts, shifts, shifts)
    best = score(looks, place).mean
    for _ in range(ROUNDS):
        gains: list[tuple[float, Float64[np.ndarray, "changes"]]] = []
        for axis, steps in enumerate(kinds):
            tried = np.repeat(change[None], len(steps), axis=0)
            tried[:, axis] = steps
            values = [score(looks, lambda look, one=one: _changed(look, one)).mean for one in tried]
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
    return _with_rows(look, kept)


def _with_rows(look: Look, rows: Bool[np.ndarray, "edges"]) -> Look:
    edges = look.edges
    kept = EdgePoints(edges.points[rows], edges.direction[rows], edges.block[rows])
    return look._replace(edges=kept)


def _halves(looks: Sequence[Look]) -> tuple[list[Look], list[Look]]:
    """Even and odd frames, or even and odd blocks where there are too few frames."""
    frames = sorted({look.frame for look in looks})
    if len(frames) >= 6:
        parity = [frames.index(look.frame) % 2 for look in looks]
        halves = [[one for one, p in zip(looks, parity, strict=True) if p == h] for h in (0, 1)]
        return halves[0], halves[1]
    halves = [[_with_rows(look, look.edges.block % 2 == h) for look in looks] for h in (0, 1)]
    return halves[0], halves[1]


def _joined(scores: Sequence[Score]) -> Score:
    return Score(
        np.concatenate([one.total for one in scores]),
        np.concatenate([one.number for one in scores]),
    )


def _changed(look: Look, change: Float64[np.ndarray, "changes"]) -> Placed:
    motion = _rotation(change[:3])
    motion[:3, 3] = change[4:]
    placed = place(look, camera_side=motion)
    if change[3] == 1:
        return placed
    centre = (look.camera.cx, look.camera.cy)
    return Placed((placed.pixel_uv - centre) * change[3] + centre, placed.in_front)


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


def _displacement(looks: Sequence[Look], change: Float64[np.ndarray, "changes"]) -> float:
    shares: list[np.ndarray] = []
    for look in looks:
        before, after = place(look), _changed(look, change)
        size = (look.camera.width, look.camera.height)
        inside = before.in_front & (before.pixel_uv >= 0).all(1) & (before.pixel_uv < size).all(1)
        moved = np.linalg.norm(after.pixel_uv[inside] - before.pixel_uv[inside], axis=1)
        shares.append(moved / look.camera.width)
    joined = np.concatenate(shares)
    return float(joined.mean()) if len(joined) else 0.0
