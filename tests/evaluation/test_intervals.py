import math

import numpy as np
import pytest
from scipy import stats

from p2pkit.errors import ConfigError
from p2pkit.evaluation.intervals import (
    bootstrap_interval,
    error_of_mean,
    holm,
    mean_and_deviation,
    paired_difference,
)
from p2pkit.evaluation.segmentation import class_counts, segmentation_scores
from p2pkit.pipelines.evaluate.split import drawn_scenes, shared_scenes


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
        with pytest.raises(ConfigError, match="expected equally many values"):
            paired_difference(ours, theirs)


def clear_by_chance(percent: float, draws: int = 3, scenes: int = 68) -> float:
    """How often an interval excludes a true effect of 0; each scene has its own effect."""
    rows = [drawn_scenes(scenes, round(scenes * percent / 100), draw) for draw in range(draws)]
    shared = shared_scenes([[str(row) for row in chosen] for chosen in rows])
    random = np.random.default_rng(0)
    effects = random.normal(0, 1, (4000, scenes))
    differences = np.stack([effects[:, chosen].mean(axis=1) for chosen in rows], axis=-1)
    error, freedom = error_of_mean(differences, shared)
    half = stats.t.ppf(0.975, freedom) * error
    return float((np.abs(differences.mean(axis=-1)) > half).mean())


@pytest.mark.parametrize("percent", [5, 10, 25, 50, 90])
@pytest.mark.parametrize("draws", [3, 5])
def test_without_an_effect_at_most_five_in_a_hundred_are_clear(percent: float, draws: int) -> None:
    """Uncorrected intervals of overlapping subsets were clear in 17 % at 50, 50 % at 90 %."""
    assert 0.02 < clear_by_chance(percent, draws) < 0.06


def test_the_correction_is_that_of_nadeau_and_bengio() -> None:
    values, total, drawn = np.array([[0.1, 0.3, 0.2]]), 20, 5
    expected = values.var(ddof=1) * (1 / 3 + drawn / (total - drawn))
    shared = np.full((3, 3), drawn / total) + np.diag(np.full(3, 1 - drawn / total))
    error, freedom = error_of_mean(values, shared)
    assert error[0] ** 2 == pytest.approx(expected)
    assert freedom == pytest.approx(2)


def test_the_same_labels_in_every_draw_give_no_interval() -> None:
    found = paired_difference([0.3, 0.31, 0.32], [0.1, 0.1, 0.1], shared=np.ones((3, 3)))
    assert (found.low, found.high, found.p, found.is_clear) == (None, None, None, False)


def test_p_values_are_those_of_the_paired_t_test() -> None:
    ours, theirs = [0.31, 0.35, 0.29, 0.4], [0.28, 0.3, 0.3, 0.31]
    assert paired_difference(ours, theirs).p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    assert paired_difference([0.5, 0.5], [0.25, 0.25]).p == 0.0


def test_holm_takes_the_smallest_times_their_number() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_is_rarely_wrong_about_any() -> None:
    p = np.random.default_rng(0).random((4000, 6))
    wrong = np.mean([min(holm(row.tolist())) < 0.05 for row in p])
    assert wrong == pytest.approx(0.05, abs=0.012)


def test_the_bootstrap_covers_what_other_scenes_would_give() -> None:
    """Two methods that are right as often: 0 lies in the interval about as often as it says."""
    random, inside = np.random.default_rng(0), 0
    for _ in range(150):
        hits = random.binomial(100, np.clip(random.normal(0.6, 0.1, (2, 1, 30, 2)), 0, 1))
        counts = np.stack([hits, np.full_like(hits, 100), np.full_like(hits, 100)], axis=3)
        found = bootstrap_interval(counts[0], counts[1])
        assert found is not None
        inside += found[0] < 0 < found[1]
    assert inside / 150 == pytest.approx(0.94, abs=0.05)


def test_one_test_scene_gives_no_interval_over_scenes() -> None:
    one = np.ones((3, 1, 3, 2), np.int64)
    assert bootstrap_interval(one, one) is None


def test_the_bootstrap_has_the_scores_of_the_whole_part_in_its_middle() -> None:
    random = np.random.default_rng(0)
    confusions = random.integers(0, 50, (2, 1, 12, 4, 4))
    counts = np.array([[[class_counts(scene) for scene in d] for d in m] for m in confusions])
    ours, theirs = (segmentation_scores(method[0].sum(axis=0)).miou for method in confusions)
    found = bootstrap_interval(counts[0], counts[1])
    assert found is not None
    assert found[0] < ours - theirs < found[1]
