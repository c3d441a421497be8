"""The shift test: is the alignment best where the calibration says, and if not, where?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from p2pkit.evaluation.edge_alignment import Look, Placed, Score, place, score
from p2pkit.evaluation.edge_points import EdgePoints
from p2pkit.evaluation.evidence import Evidence, above

PIXELS = (-40, -24, -16, -12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 40)
"""Displacements as thousandths of the image's width and half (at 640 px: px)."""
DEGREES = (-4, -3, -2.5, -2, -1.5, -1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 4)
FACTORS = (0.85, 0.875, 0.9, 0.925, 0.95, 0.975, 1, 1.025, 1.05, 1.075, 1.1, 1.125, 1.15)
SHIFTS = (0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.27, 0.35, 0.43, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
"""Motions of the cameras as shares of `farthest_shift`."""
ROUNDS = 4
POINTS_IN_ALL, FEWEST_OF_A_LOOK = 20_000, 300
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
    """Scores as the pixels are shifted along u and v, and the points turned about three axes."""
    found: list[Profile] = []
    for axis, name in enumerate(("u", "v")):
        values = [
            score(looks, lambda look, k=k, axis=axis: _shifted(look, axis, k)).mean for k in PIXELS
        ]
        found.append(Profile(name, "px at 640 px of width", PIXELS, tuple(values)))
    for axis, name in enumerate("xyz"):
        values = []
        for degrees in DEGREES:
            change = np.array(NOTHING)
            change[axis] = degrees
            values.append(score(looks, lambda look, change=change: _changed(look, change)).mean)
        found.append(Profile(f"rotation about {name}", "degrees", DEGREES, tuple(values)))
    return found


def _shifted(look: Look, axis: int, steps: float) -> Placed:
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
        np.concatenate([one.total for one in scores]), np.concatenate([one.count for one in scores])
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
