import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from p2pkit.errors import GeometryError
from p2pkit.geometry.voxelize import majority_labels, voxel_deduplicate


def naive(points, voxel_size):
    coordinates = np.floor(points.astype(np.float64) / voxel_size).astype(np.int64)
    _, first, inverse = np.unique(coordinates, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return coordinates, first[order], np.argsort(order)[inverse.ravel()]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 3000),
    st.floats(1e-3, 10.0),
    st.sampled_from([0.01, 1.0, 50.0, 1e5]),
    st.integers(0, 2**32),
)
def test_equals_the_naive_reference(count, voxel_size, extent, seed):
    points = np.random.default_rng(seed).uniform(-extent, extent, (count, 3)).astype(np.float32)
    coordinates, keep, voxel_of_point = naive(points, voxel_size)
    found = voxel_deduplicate(points, voxel_size)
    assert np.array_equal(found.coordinates, coordinates[keep])
    assert np.array_equal(found.coordinates[found.voxel_of_point], coordinates)
    assert np.array_equal(found.keep, keep)
    assert np.array_equal(found.voxel_of_point, voxel_of_point)


def test_many_voxels_make_the_table_grow():
    points = np.random.default_rng(0).uniform(-3, 3, (60_000, 3)).astype(np.float32)
    _, keep, voxel_of_point = naive(points, 0.05)
    found = voxel_deduplicate(points, 0.05)
    assert len(keep) > 40_000
    assert np.array_equal(found.keep, keep)
    assert np.array_equal(found.voxel_of_point, voxel_of_point)


def test_extreme_voxels_are_told_apart():
    far = np.float32(2**31 - 128)
    axes = np.array([-(2.0**31), -1.0, 0.0, 1.0, far], np.float32)
    points = np.stack(np.meshgrid(axes, axes, axes), axis=-1).reshape(-1, 3)
    assert len(voxel_deduplicate(points, 1.0).keep) == 125


def test_negative_coordinates_round_down():
    points = np.array([[-0.01, 0.0, 0.01], [-1.0, 0.999, 1.0]], np.float32)
    assert voxel_deduplicate(points, 1.0).coordinates.tolist() == [[-1, 0, 0], [-1, 0, 1]]


def test_keeping_the_first_points_is_stable():
    points = np.random.default_rng(1).normal(size=(5000, 3)).astype(np.float32)
    keep = voxel_deduplicate(points, 0.2).keep
    again = voxel_deduplicate(points[keep], 0.2)
    assert np.array_equal(again.keep, np.arange(len(keep)))


def test_no_points():
    found = voxel_deduplicate(np.zeros((0, 3), np.float32), 0.1)
    assert found.keep.size == found.voxel_of_point.size == 0
    assert found.coordinates.shape == (0, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e9, -1e9])
def test_points_without_a_voxel_are_named(value):
    points = np.zeros((5, 3), np.float32)
    points[3, 1] = value
    with pytest.raises(GeometryError, match="point 3 is"):
        voxel_deduplicate(points, 0.1)


@pytest.mark.parametrize("size", [0.0, -1.0, np.nan, np.inf])
def test_bad_voxel_sizes_are_named(size):
    with pytest.raises(GeometryError, match="voxel_size is"):
        voxel_deduplicate(np.zeros((1, 3), np.float32), size)


@settings(deadline=None)
@given(
    points=hnp.arrays(
        np.float32, st.tuples(st.integers(1, 60), st.just(3)), elements=st.floats(-1, 1, width=16)
    ),
    seed=st.integers(0, 9),
)
def test_the_commonest_label_of_a_voxel_wins(points: np.ndarray, seed: int) -> None:
    labels = np.random.default_rng(seed).choice([0, 7, 255], len(points)).astype(np.uint8)
    voxels = voxel_deduplicate(points, 0.7)
    found = majority_labels(points, labels, voxels)
    for voxel, first in enumerate(voxels.keep):
        own = np.flatnonzero(voxels.voxel_of_point == voxel)
        distance = np.linalg.norm(points[own].astype(float) - points[first].astype(float), axis=1)
        rank = [
            (-(labels[own] == label).sum(), distance[labels[own] == label].min(), label)
            for label in np.unique(labels[own])
        ]
        best = [label for count, near, label in rank if (count, near) == min(rank)[:2]]
        assert found[voxel] in best


def test_ties_go_to_the_nearer_point() -> None:
    points = np.array([[0.1, 0, 0], [0.9, 0, 0], [0.3, 0, 0], [0.8, 0, 0], [0.2, 0, 0]], np.float32)
    voxels = voxel_deduplicate(points, 1.0)
    for labels, expected in (([1, 2, 1, 2, 3], 1), ([3, 2, 1, 2, 1], 1), ([1, 2, 2, 2, 1], 2)):
        assert majority_labels(points, np.array(labels, np.uint8), voxels).tolist() == [expected]
    with pytest.raises(GeometryError, match="points"):
        majority_labels(points[:4], np.zeros(4, np.uint8), voxels)
