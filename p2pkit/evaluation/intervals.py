"""What a few runs say about a mean: standard deviations, and intervals of paired differences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from p2pkit.errors import ConfigError

LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """A paired difference of two methods over the same seeds.

    Args:
        mean: of the differences.
        low, high: the 95 % interval of the mean by Student's t; None with a single pair.
        pairs: how many.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Mean of `ours - theirs` with its interval; row i of both is of one seed and one label subset.

    Pairs take out what the subset does to both. With few pairs the interval is wide: t of 2 degrees
    of freedom is 4.3.

    Raises:
        ConfigError: the numbers of values differ, or there are none.
    """
    if len(ours) != len(theirs) or not ours:
        raise ConfigError(f"{len(ours)} and {len(theirs)} values cannot be paired")
    differences = np.subtract(ours, theirs)
    mean = float(differences.mean())
    if len(differences) < 2:
        return Difference(mean, None, None, len(differences))
    error = float(differences.std(ddof=1)) / np.sqrt(len(differences))
    half = float(stats.t.ppf(0.5 + LEVEL / 2, len(differences) - 1)) * float(error)
    return Difference(mean, mean - half, mean + half, len(differences))


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and the standard deviation of single values (None with one)."""
    if not values:
        raise ConfigError("there are no values")
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), deviation
