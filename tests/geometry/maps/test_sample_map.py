import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pkit.errors import GeometryError
from p2pkit.geometry.maps.sample_map import nearest_cell, sample_map


def by_torch(feature_map, cell_uv):
    """grid_sample in float64; its align_corners=True puts -1 and 1 on the outer cells' centres."""
    height, width, _ = feature_map.shape
    image = torch.from_numpy(feature_map.astype(np.float64)).permute(2, 0, 1)[None]
    size = torch.tensor([max(width - 1, 1), max(height - 1, 1)], dtype=torch.float64)
    grid = 2 * torch.from_numpy(cell_uv.astype(np.float64)) / size - 1
    sampled = torch.nn.functional.grid_sample(
        image, grid[None, None], mode="bilinear", padding_mode="border", align_corners=True
    )
    return sampled[0, :, 0].T.numpy()


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 40)),
    st.sampled_from([np.float16, np.float32]),
    st.integers(0, 2**32),
)
def test_equals_grid_sample_with_border_padding(shape, dtype, seed):
    random = np.random.default_rng(seed)
    feature_map = random.normal(size=shape).astype(dtype)
    cell_uv = random.uniform(-3, 23, (100, 2))
    found = sample_map(feature_map, cell_uv)
    np.testing.assert_allclose(found, by_torch(feature_map, cell_uv), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_whole_coordinates_give_the_cell_itself(dtype):
    feature_map = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(dtype)
    v, u = np.divmod(np.arange(35), 7)
    found = sample_map(feature_map, np.stack([u, v], axis=1).astype(np.float64))
    assert np.array_equal(found, feature_map.reshape(-1, 3).astype(np.float32))


def test_strided_maps_and_coordinates_are_read_right():
    feature_map = np.random.default_rng(0).normal(size=(3, 5, 7)).astype(np.float16)
    cell_uv = np.random.default_rng(1).uniform(0, 4, (2, 9)).T
    turned = feature_map.transpose(1, 2, 0)
    assert np.array_equal(
        sample_map(turned, cell_uv),
        sample_map(np.ascontiguousarray(turned), np.ascontiguousarray(cell_uv)),
    )


def test_no_pairs():
    assert sample_map(np.zeros((2, 2, 4), np.float32), np.zeros((0, 2))).shape == (0, 4)


def test_nearest_cell_rounds_halves_up_and_clamps():
    cell_uv = np.array([[0.49, 0.0], [0.5, 1.5], [-9.0, 9.0], [2.0, 0.2], [99.0, -1.0]])
    assert nearest_cell(cell_uv, (4, 3)).tolist() == [0, 9, 8, 2, 3]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_coordinates_that_are_not_finite_are_named(value):
    cell_uv = np.zeros((3, 2))
    cell_uv[1, 0] = value
    with pytest.raises(GeometryError, match="cell coordinate 1"):
        sample_map(np.zeros((2, 2, 1), np.float32), cell_uv)
    with pytest.raises(GeometryError, match="cell coordinate 1"):
        nearest_cell(cell_uv, (2, 2))


def test_map_without_cells_is_refused():
    with pytest.raises(GeometryError, match="5 x 0 cells"):
        sample_map(np.zeros((0, 5, 4), np.float32), np.zeros((1, 2)))
