"""Is one mean clearly above 0, or above another? Student's t over clusters."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy import stats

from p2pkit.evaluation.edge_alignment import Score

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
