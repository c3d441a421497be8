"""A change found on one half of the data and tested on the other, so that noise is not rewarded."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64
from scipy import stats

from p2pkit.alignment.edge_points import EdgePoints
from p2pkit.alignment.edges import Look, Place, Score, place, score

FEWEST_CLUSTERS = 4

FEWEST_POINTS = 100


class Evidence(NamedTuple):
    """How sure a difference is.

    Fields:
        difference: of the means.
        t: the difference over its standard error.
        p: chance of such a t or a larger one if there were no difference; 1 without enough data.
    """

    difference: float
    t: float
    p: float


def above_zero(found: Score) -> Evidence:
    """Whether the mean of `found` is above 0."""
    return _evidence(found.mean, found.influence(), found)


def above(found: Score, other: Score) -> Evidence:
    """Whether the mean of `found` is above that of `other`, paired by cluster."""
    return _evidence(found.mean - other.mean, found.influence() - other.influence(), found)


def _evidence(
    difference: float, influence: Float64[np.ndarray, " clusters"], score: Score
) -> Evidence:
    clusters = score.clusters
    if clusters < FEWEST_CLUSTERS or score.number.sum() < FEWEST_POINTS:
        return Evidence(difference, 0.0, 1.0)
    error = float(np.sqrt((influence**2).sum() * clusters / (clusters - 1)))
    t = difference / max(error, 1e-12)
    return Evidence(difference, t, float(stats.t.sf(t, clusters - 1)))


FRAMES_TO_SPLIT = 6


def split_looks(looks: Sequence[Look]) -> tuple[list[Look], list[Look]]:
    """Even and odd frames, or even and odd blocks where there are too few frames."""
    frames = sorted({look.frame for look in looks})
    if len(frames) >= FRAMES_TO_SPLIT:
        parity = [frames.index(look.frame) % 2 for look in looks]
        halves = [[one for one, p in zip(looks, parity, strict=True) if p == h] for h in (0, 1)]
        return halves[0], halves[1]
    halves = [[with_rows(look, look.edges.block % 2 == h) for look in looks] for h in (0, 1)]
    return halves[0], halves[1]


def cross_tested(
    halves: tuple[list[Look], list[Look]], found_on: Sequence[Place]
) -> tuple[Score, Evidence]:
    """Score of what each half found, on the other half; and that it is above the declared one.

    Args:
        halves: from `split_looks`.
        found_on: the calibration that fits the first half best, and the second's.
    """
    crossed = [score(half, where) for half, where in zip(halves, reversed(found_on), strict=True)]
    found = _joined(crossed)
    return found, above(found, _joined([score(half, place) for half in halves]))


def mean_displacement(looks: Sequence[Look], where: Place) -> float:
    """How far a calibration moves the points that are in the image, as a share of its width."""
    shares: list[np.ndarray] = []
    for look in looks:
        before, after = place(look), where(look)
        size = (look.camera.width, look.camera.height)
        inside = before.in_front & (before.pixel_uv >= 0).all(1) & (before.pixel_uv < size).all(1)
        moved = np.linalg.norm(after.pixel_uv[inside] - before.pixel_uv[inside], axis=1)
        shares.append(moved / look.camera.width)
    joined = np.concatenate(shares)
    return float(joined.mean()) if len(joined) else 0.0


def with_rows(look: Look, rows: Bool[np.ndarray, " edges"]) -> Look:
    """The look with some of its edge points."""
    edges = look.edges
    kept = EdgePoints(edges.points[rows], edges.direction[rows], edges.block[rows])
    return look._replace(edges=kept)


def _joined(scores: Sequence[Score]) -> Score:
    return Score(
        np.concatenate([one.total for one in scores]),
        np.concatenate([one.number for one in scores]),
    )
