"""What a few runs say about a mean difference: intervals over label draws and over test scenes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import stats

from p2pkit.errors import ConfigError

LEVEL = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Difference:
    """A paired difference of two methods over the same label draws.

    Args:
        mean: of the differences.
        low, high: the 95 % interval of the mean by Student's t; None with a single pair, or where
            all draws have the same labels.
        pairs: how many.
        p: two-sided p-value of a mean of 0; None without an interval.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: int
    p: float | None = None

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def paired_difference(
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    shared: Float64[np.ndarray, "draws draws"] | None = None,
) -> Difference:
    """Mean of `ours - theirs` with its interval; row i of both is of one seed and one label subset.

    Pairs take out what the subset does to both. With few pairs the interval is wide: t of 2 degrees
    of freedom is 4.3.

    Args:
        ours: values by draw.
        theirs: the same of the other method.
        shared: share of the labels that each two draws have in common, 1 on the diagonal; None if
            they have none in common. See `error_of_mean`.

    Raises:
        ConfigError: the numbers of values differ, or there are none.
    """
    if len(ours) != len(theirs) or not ours:
        raise ConfigError(f"expected equally many values, found {len(ours)} and {len(theirs)}")
    differences = np.subtract(ours, theirs).astype(np.float64)
    mean, pairs = float(differences.mean()), len(differences)
    shared = np.eye(pairs) if shared is None else shared
    if pairs < 2 or np.allclose(shared, 1):
        return Difference(mean, None, None, pairs)
    errors, freedom = error_of_mean(differences[None], shared)
    error = float(errors[0])
    half = float(stats.t.ppf(0.5 + LEVEL / 2, freedom)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, freedom)) if error else float(mean == 0)
    return Difference(mean, mean - half, mean + half, pairs, p)


def error_of_mean(
    differences: Float64[np.ndarray, "rows draws"], shared: Float64[np.ndarray, "draws draws"]
) -> tuple[Float64[np.ndarray, " rows"], float]:
    """Standard error of the mean over draws whose label subsets overlap, and degrees of freedom.

    s² (1/n + o / (1 - o)) for n draws that share o of their labels on average: draws with common
    labels are alike, so their variance s² is too small by 1 - o and their mean varies more than
    s² / n. With independent draws of k out of N scenes o is k / N, which gives the correction of
    Nadeau and Bengio (2003), "Inference for the Generalization Error": 1/n + k / (N - k).

    Some draws overlap more than others. s² then has fewer than n - 1 degrees of freedom, by
    Satterthwaite (1946): (Σ e)² / Σ e² with the eigenvalues e of the centred matrix of shares.

    Args:
        differences: of several comparisons; each of at least two draws.
        shared: share of the labels that each two draws have in common; not all of them 1.
    """
    draws = len(shared)
    overlap = (shared.sum() - np.trace(shared)) / (draws * (draws - 1))
    centring = np.eye(draws) - 1 / draws
    centred = centring @ shared @ centring
    error = differences.std(axis=1, ddof=1) * np.sqrt(1 / draws + overlap / (1 - overlap))
    return error, float(np.trace(centred) ** 2 / np.square(centred).sum())


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for being several, by Holm's step-down method (1979).

    Calling those below 0.05 clear is wrong about any of them in at most 5 % of all tables.
    """
    order = np.argsort(p, kind="stable")
    scaled = np.asarray(p, np.float64)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0) if len(p) else scaled
    return adjusted.tolist()


def bootstrap_interval(
    ours: Int64[np.ndarray, "draws scenes 3 classes"],
    theirs: Int64[np.ndarray, "draws scenes 3 classes"],
    *,
    seed: int = 0,
) -> tuple[float, float] | None:
    """95 % percentile interval of the mean difference in mIoU when test scenes are resampled.

    Both methods and all draws get the same resampled scenes. None with a single test scene.

    Args:
        ours: hits, labelled and predicted points of each class in each test scene, as of
            `segmentation.class_counts`.
        theirs: the same of the other method.
        seed: of the resampling.
    """
    held = (ours[0, :, 1].sum(axis=1) > 0).astype(np.int64)
    scores = [
        [partial(_resampled_miou, draw.astype(np.float64)) for draw in method]
        for method in (ours, theirs)
    ]
    return resampled_interval(*scores, scenes=ours.shape[1], held=held, seed=seed)


Resampled = Callable[[Float64[np.ndarray, "resamples scenes"]], Float64[np.ndarray, " resamples"]]
"""The score of one draw, by how often each test scene counts."""


def resampled_interval(
    ours: Sequence[Resampled],
    theirs: Sequence[Resampled],
    *,
    scenes: int,
    held: Int64[np.ndarray, " scenes"] | None = None,
    seed: int = 0,
) -> tuple[float, float] | None:
    """95 % percentile interval of the mean difference of a score when test scenes are resampled.

    Both methods and all draws get the same resampled scenes. None with a single test scene.

    Args:
        ours: by draw.
        theirs: the same of the other method.
        scenes: number of test scenes.
        held: 1 for scenes with something to score, else 0; resamples without any are skipped.
        seed: of the resampling.
    """
    if scenes < 2:
        return None
    drawn = np.random.default_rng(seed).multinomial(scenes, np.full(scenes, 1 / scenes), RESAMPLES)
    times = (drawn if held is None else drawn[drawn @ held > 0]).astype(np.float64)
    found = [np.mean([score(times) for score in method], axis=0) for method in (ours, theirs)]
    low, high = np.quantile(found[0] - found[1], [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return float(low), float(high)


def _resampled_miou(
    counts: Float64[np.ndarray, "scenes 3 classes"], times: Float64[np.ndarray, "resamples scenes"]
) -> Float64[np.ndarray, " resamples"]:
    return _miou(np.tensordot(times, counts, axes=1))


def _miou(counts: Float64[np.ndarray, "resamples 3 classes"]) -> Float64[np.ndarray, " resamples"]:
    hits, support, predicted = np.moveaxis(counts, 1, 0)
    present: Bool[np.ndarray, "resamples classes"] = support > 0
    iou = hits / np.maximum(support + predicted - hits, 1)
    return (iou * present).sum(axis=1) / present.sum(axis=1)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and the standard deviation of single values (None with one)."""
    if not values:
        raise ConfigError("expected at least one value, found none")
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), deviation
