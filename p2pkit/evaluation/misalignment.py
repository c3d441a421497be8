"""The shift test: is the alignment best where the calibration says, and if not, where?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from p2pkit.evaluation.edge_alignment import Look, Placed, Score, place, score
from p2pkit.evaluation.evidence import Evidence, above

PIXELS = (-40, -24, -16, -12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 40)
"""Displacements as thousandths of the image's width and half (at 640 px: px)."""
DEGREES = (-4, -3, -2.5, -2, -1.5, -1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 4)
FACTORS = (0.85, 0.875, 0.9, 0.925, 0.95, 0.975, 1, 1.025, 1.05, 1.075, 1.1, 1.125, 1.15)
ROUNDS = 3
NAMES = ("turn_x_deg", "turn_y_deg", "turn_z_deg", "image_scale")
STEPS = (DEGREES, DEGREES, DEGREES, FACTORS)


class Profile(NamedTuple):
    """Scores along one kind of displacement."""

    name: str
    unit: str
    steps: tuple[float, ...]
    scores: tuple[float, ...]


class Misalignment(NamedTuple):
    """The small change of the calibration that fits best, found on half of the data.

    Fields:
        turn_deg: rotation of the points about the camera's x, y and z axes.
        image_scale: factor of the focal lengths.
        displacement: mean distance of the edge points' pixels before and after, as a share of the
            image's width.
        evidence: that it fits better, on the other half.
        found: its score on the other half.
    """

    turn_deg: tuple[float, float, float]
    image_scale: float
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
            change = np.array([0.0, 0.0, 0.0, 1.0])
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
    """Climb from the declared calibration on every other cluster, and test on those between."""
    fitted, tested = _halves(looks)
    change = np.array([0.0, 0.0, 0.0, 1.0])
    for _ in range(ROUNDS):
        before = change.copy()
        for axis, steps in enumerate(STEPS):
            tried = np.repeat(change[None], len(steps), axis=0)
            tried[:, axis] = steps
            values = [score(fitted, lambda look, one=one: _changed(look, one)).mean for one in tried]
            change = tried[int(np.argmax(values))]
        if np.array_equal(change, before):
            break
    found = score(tested, lambda look: _changed(look, change))
    declared = score(tested, place)
    turn = (float(change[0]), float(change[1]), float(change[2]))
    moved = _displacement(looks, change)
    return Misalignment(turn, float(change[3]), moved, above(found, declared), found)


def _halves(looks: Sequence[Look]) -> tuple[list[Look], list[Look]]:
    """Even and odd frames, or even and odd blocks where there are too few frames."""
    frames = sorted({look.frame for look in looks})
    halves: list[list[Look]] = []
    for parity in (0, 1):
        if len(frames) >= 8:
            halves.append([look for look in looks if frames.index(look.frame) % 2 == parity])
            continue
        half: list[Look] = []
        for look in looks:
            rows = look.edges.block % 2 == parity
            half.append(look._replace(edges=type(look.edges)(*(f[rows] for f in look.edges))))
        halves.append(half)
    return halves[0], halves[1]


def _changed(look: Look, change: Float64[np.ndarray, "changes"]) -> Placed:
    placed = place(look, camera_side=_rotation(change[:3]))
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
