"""Overlaps against sampled points, average precision against a slow reading of the definition."""

import sys

import numpy as np
import pytest
from box_points import points_in_boxes
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pkit.errors import MissingDependencyError
from p2pkit.evaluation.detection import (
    THRESHOLDS,
    ClassBoxes,
    average_precisions,
    match,
    mean_average_precision,
    suppressed,
)
from p2pkit.geometry.boxes import Upright, box_iou

Box = tuple[float, float, float, float, float, float, float]


def boxes(
    *rows: Box, classes: list[int] | None = None, scores: list[float] | None = None
) -> ClassBoxes:
    """Of x, y, z, sides and yaw."""
    table = np.array(rows, np.float64).reshape(-1, 7)
    return ClassBoxes(
        table[:, :3],
        table[:, 3:6],
        table[:, 6],
        np.zeros(len(table), np.int64) if classes is None else np.array(classes, np.int64),
        None if scores is None else np.array(scores, np.float32),
    )


def iou(one: Box, other: Box) -> float:
    return float(boxes(one).overlap(boxes(other))[0, 0])


CUBE: Box = (0, 0, 0, 2, 2, 2, 0)
NONE = boxes(scores=[])


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (CUBE, 1.0),
        ((0, 0, 0, 2, 2, 2, np.pi / 2), 1.0),
        ((2, 0, 0, 2, 2, 2, 0), 0.0),  # touching faces
        ((0, 0, 2, 2, 2, 2, 0), 0.0),
        ((0, 0, 0, 1, 1, 1, 0.7), 1 / 8),  # nested, turned
        ((1, 0, 0, 2, 2, 2, 0), 1 / 3),
        ((0, 0, 1, 2, 2, 2, 0), 1 / 3),
        # Two squares at 45 degrees share a regular octagon.
        ((0, 0, 0, 2, 2, 2, np.pi / 4), (8 * (np.sqrt(2) - 1)) / (8 - 8 * (np.sqrt(2) - 1))),
        ((9, 9, 9, 2, 2, 2, 0), 0.0),
    ],
)
def test_overlaps_that_are_known(other: Box, expected: float) -> None:
    assert iou(CUBE, other) == pytest.approx(expected, abs=1e-12)
    assert iou(other, CUBE) == pytest.approx(expected, abs=1e-12)


def test_overlap_agrees_with_sampled_points() -> None:
    random = np.random.default_rng(0)
    points = random.uniform(-2, 2, (40_000, 3))
    center = random.uniform(-0.5, 0.5, (6, 3))
    size, yaw = random.uniform(0.8, 2, (6, 3)), random.uniform(-4, 4, 6)
    inside = points_in_boxes(points, Upright(center, size, yaw))
    both = (inside[:, :, None] & inside[:, None]).sum(axis=0)
    either = (inside[:, :, None] | inside[:, None]).sum(axis=0)
    found = box_iou(Upright(center, size, yaw), Upright(center, size, yaw))
    np.testing.assert_allclose(found, both / either, atol=0.03)
    np.testing.assert_allclose(found, found.T)
    np.testing.assert_allclose(np.diagonal(found), 1)


def precision_of(found: list[ClassBoxes], truth: list[ClassBoxes], classes: int = 1) -> list[float]:
    return average_precisions(match(found, truth, classes=classes))[:, 0, 0].tolist()


def test_cases_made_by_hand() -> None:
    truth = [boxes(CUBE, (5, 0, 0, 2, 2, 2, 0))]
    both = boxes(CUBE, (5, 0, 0, 2, 2, 2, 0.1), scores=[0.9, 0.8])
    assert precision_of([both], truth) == [1.0, 1.0]
    # A duplicate counts as wrong: precision 1, 1/2, 2/3 at recalls 1/2, 1/2, 1.
    double = boxes(CUBE, CUBE, (5, 0, 0, 2, 2, 2, 0), scores=[0.9, 0.8, 0.7])
    assert precision_of([double], truth) == pytest.approx([0.5 + 0.5 * 2 / 3] * 2)
    # With the surer one wrong, all recalls have at best the precision 1/2.
    assert (
        precision_of([boxes((9, 9, 9, 1, 1, 1, 0), CUBE, scores=[0.9, 0.8])], truth) == [0.25] * 2
    )
    # An overlap of 1/3 is right at 0.25 only; one of exactly 0.25 is not.
    shifted = boxes((1, 0, 0, 2, 2, 2, 0), scores=[1.0])
    assert precision_of([shifted], [boxes(CUBE)]) == [1.0, 0.0]
    quarter = boxes((0, 0, 0, 1, 1, 2, 0), scores=[1.0])
    assert precision_of([quarter], [boxes(CUBE)]) == [0.0, 0.0]
    assert precision_of([NONE], truth) == [0.0, 0.0]
    assert precision_of([NONE, both], [boxes(CUBE), boxes()]) == [0.0, 0.0]


def test_classes_without_boxes_do_not_count() -> None:
    found = [boxes(CUBE, CUBE, scores=[0.5, 0.9], classes=[0, 1])]
    matches = match(found, [boxes(CUBE)], classes=3)
    table = average_precisions(matches)[:, 0]
    assert np.isnan(table[:, 1:]).all()
    assert mean_average_precision(matches).tolist() == [[1.0], [1.0]]
    nothing = match([NONE], [boxes()], classes=2)
    assert mean_average_precision(nothing).tolist() == [[0.0], [0.0]]


def slow_average_precision(hits: list[bool], scores: list[float], total: int) -> float:
    """By the definition: the mean over boxes of the best precision at their recall or beyond."""
    order = sorted(range(len(hits)), key=lambda row: -scores[row])
    points: list[tuple[int, float]] = []
    right = 0
    for rank, row in enumerate(order, start=1):
        right += hits[row]
        points.append((right, right / rank))
    return sum(
        max((precision for recall, precision in points if recall >= wanted), default=0.0)
        for wanted in range(1, total + 1)
    ) / max(total, 1)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=12), st.integers(0, 3))
def test_average_precision_agrees_with_its_definition(
    rows: list[tuple[int, bool]], extra: int
) -> None:
    """Each detection is of its own frame, which has a box at the same place or far away."""
    scores = np.linspace(0.9, 0.1, len(rows)).tolist()
    found = [
        boxes(CUBE, classes=[number], scores=[score])
        for (number, _), score in zip(rows, scores, strict=True)
    ]
    truth = [
        boxes(CUBE if right else (9, 9, 9, 1, 1, 1, 0), classes=[number]) for number, right in rows
    ]
    found += [NONE] * extra
    truth += [boxes(CUBE, classes=[0])] * extra
    if not found:
        return
    matches = match(found, truth, classes=3)
    table = average_precisions(matches)
    for number in range(3):
        hits = [right for one, right in rows if one == number]
        own = [score for (one, _), score in zip(rows, scores, strict=True) if one == number]
        total = len(hits) + (extra if number == 0 else 0)
        if total:
            expected = slow_average_precision(hits, own, total)
            assert table[:, 0, number].tolist() == pytest.approx([expected] * len(THRESHOLDS))


def test_resampled_frames_count_as_often_as_they_were_drawn() -> None:
    random = np.random.default_rng(1)
    found, truth = [], []
    for _ in range(4):
        rows = [(*random.uniform(-2, 2, 3), 1.5, 1.5, 1.5, 0.3) for _ in range(5)]
        truth.append(boxes(*rows[:3], classes=[0, 1, 0]))
        moved: list[Box] = [(x + 0.2, y, z, 1.5, 1.5, 1.5, 0.3) for x, y, z, *_ in rows]
        scores = random.uniform(0, 1, 5).tolist()
        found.append(boxes(*moved, classes=[0, 1, 1, 0, 0], scores=scores))
    matches = match(found, truth, classes=2)
    times = np.array([[1.0, 1, 1, 1], [2, 0, 1, 1]])
    twice = [0, 0, 2, 3]
    again = match([found[i] for i in twice], [truth[i] for i in twice], classes=2)
    resampled = mean_average_precision(matches, times)
    np.testing.assert_allclose(resampled[:, 0], mean_average_precision(matches)[:, 0])
    np.testing.assert_allclose(resampled[:, 1], mean_average_precision(again)[:, 0], atol=0.05)


def test_less_sure_detections_of_a_class_are_suppressed() -> None:
    near: Box = (0.3, 0, 0, 2, 2, 2, 0)
    found = boxes(
        near, CUBE, CUBE, (5, 0, 0, 2, 2, 2, 0), classes=[0, 0, 1, 0], scores=[0.5, 0.9, 0.8, 0.7]
    )
    kept = suppressed(found, overlap=0.25, most=10)
    assert kept.score is not None
    assert kept.score.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert len(suppressed(found, overlap=0.9, most=10).yaw) == 4
    assert len(suppressed(found, overlap=0.25, most=2).yaw) == 2
    assert len(suppressed(NONE, overlap=0.25, most=2).yaw) == 0


def test_without_shapely_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "shapely", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'p2pkit\[detect\]'"):
        iou(CUBE, CUBE)
