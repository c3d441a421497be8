import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pkit.errors import ConfigError, NoLabelsError
from p2pkit.evaluation.segmentation import confusion_matrix, segmentation_scores

CLASSES = 5
points = st.lists(st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1)


def arrays(pairs) -> tuple[np.ndarray, np.ndarray]:
    both = np.array(pairs, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


@given(points)
def test_scores_equal_set_operations(pairs):
    truth, prediction = arrays(pairs)
    scores = segmentation_scores(confusion_matrix(truth, prediction, classes=CLASSES))
    ious, recalls = [], []
    for label in range(CLASSES):
        true = {i for i, t in enumerate(truth) if t == label}
        found = {i for i, p in enumerate(prediction) if p == label}
        if true:
            ious.append(len(true & found) / len(true | found))
            recalls.append(len(true & found) / len(true))
            assert scores.iou[label] == pytest.approx(ious[-1])
        else:
            assert np.isnan(scores.iou[label])
        assert scores.support[label] == len(true)
    assert scores.miou == pytest.approx(np.mean(ious))
    assert scores.class_accuracy == pytest.approx(np.mean(recalls))
    assert scores.accuracy == pytest.approx(np.mean(truth == prediction))


@given(points)
def test_confusion_equals_a_loop_and_adds_over_parts(pairs):
    truth, prediction = arrays(pairs)
    expected = np.zeros((CLASSES, CLASSES), np.int64)
    for t, p in pairs:
        expected[t, p] += 1
    whole = confusion_matrix(truth, prediction, classes=CLASSES)
    assert np.array_equal(whole, expected)
    half = len(truth) // 2
    parts = [
        confusion_matrix(truth[part], prediction[part], classes=CLASSES)
        for part in (slice(half), slice(half, None))
    ]
    assert np.array_equal(parts[0] + parts[1], whole)


@given(points, st.permutations(range(CLASSES)))
def test_renaming_the_classes_changes_no_mean(pairs, names):
    truth, prediction = arrays(pairs)
    names = np.array(names)
    before = segmentation_scores(confusion_matrix(truth, prediction, classes=CLASSES))
    after = segmentation_scores(confusion_matrix(names[truth], names[prediction], classes=CLASSES))
    assert after.miou == pytest.approx(before.miou)
    assert after.accuracy == before.accuracy


def test_void_points_count_nowhere_whatever_was_predicted():
    truth, prediction = np.array([0, 255, 1, 255], np.uint8), np.array([0, 1, 1, 77])
    confusion = confusion_matrix(truth, prediction, classes=2, ignore_label=255)
    assert np.array_equal(confusion, [[1, 0], [0, 1]])
    assert segmentation_scores(confusion).miou == 1


def test_a_class_that_is_only_predicted_lowers_the_class_it_was_taken_from():
    scores = segmentation_scores(confusion_matrix(np.array([0, 0]), np.array([0, 2]), classes=3))
    assert scores.miou == 0.5
    assert np.isnan(scores.iou[2])


def test_small_label_types_do_not_wrap():
    labels = np.arange(200, dtype=np.uint8)
    confusion = confusion_matrix(labels, labels, classes=200)
    assert np.array_equal(confusion, np.eye(200))


@pytest.mark.parametrize(("truth", "prediction", "name"), [(7, 0, "label 7"), (0, 7, "prediction")])
def test_labels_out_of_range_are_named(truth, prediction, name):
    with pytest.raises(ConfigError, match=rf"{name}.* outside 0\.\.2"):
        confusion_matrix(np.array([truth]), np.array([prediction]), classes=3)
    with pytest.raises(ConfigError, match="-1 is outside"):
        confusion_matrix(np.array([-1]), np.array([0]), classes=3)


def test_scores_of_nothing_are_an_error():
    with pytest.raises(NoLabelsError, match="no labelled point"):
        segmentation_scores(np.zeros((3, 3), np.int64))
