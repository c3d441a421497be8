import math

import numpy as np
import pytest
from scipy import stats

from p2pkit.errors import ConfigError
from p2pkit.evaluation.intervals import mean_and_deviation, paired_difference


def test_the_interval_is_that_of_the_paired_t_test() -> None:
    ours, theirs = [0.31, 0.35, 0.29, 0.4], [0.28, 0.3, 0.3, 0.31]
    found = paired_difference(ours, theirs)
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(ours) - np.mean(theirs))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert not found.is_clear


def test_pairs_take_out_what_both_share() -> None:
    subset = np.array([0.1, 0.4, 0.25])
    gains = np.array([0.051, 0.05, 0.049])
    found = paired_difference((subset + gains).tolist(), subset.tolist())
    assert found.is_clear
    assert found.low == pytest.approx(0.05 - 4.3027 * 0.001 / math.sqrt(3), abs=1e-6)


def test_it_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        found = paired_difference(*random.normal([[0.3], [0.0]], 1.0, (2, 3)).tolist())
        assert found.low is not None
        assert found.high is not None
        covered += found.low < 0.3 < found.high
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)


def test_one_pair_has_no_interval_and_none_is_an_error() -> None:
    found = paired_difference([0.3], [0.1])
    assert (found.low, found.high, found.is_clear) == (None, None, False)
    assert mean_and_deviation([0.3]) == (0.3, None)
    for ours, theirs in (([], []), ([1.0], [1.0, 2.0])):
        with pytest.raises(ConfigError, match="cannot be paired"):
            paired_difference(ours, theirs)
