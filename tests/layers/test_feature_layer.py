import numpy as np
import pytest

from p2pkit.errors import StoreError
from p2pkit.geometry.maps.grid import FeatureGrid
from p2pkit.layers.features import (
    encode_grid,
    encode_pixels,
    feature_fields,
    pair_cells,
    pair_features,
    usable_pairs,
)
from p2pkit.layers.geometry import PointCloud
from p2pkit.store.manifest import Sample

SIZES = ((40, 30), (20, 16))
GRIDS = (
    FeatureGrid(stride=(8.0, 8.0), offset=(0.0, 0.0), cells=(5, 4), input_size=(40, 30)),
    FeatureGrid(stride=(8.0, 8.0), offset=(3.5, 3.5), cells=(5, 4), input_size=(40, 32)),
)


def make_cloud(count: int = 300, key: str = "frame-1") -> PointCloud:
    """Pairs in two views; the second view is resized to twice its size for the teacher."""
    random = np.random.default_rng(4)
    view = random.integers(0, 2, count).astype(np.uint8)
    size = np.array(SIZES)[view]
    uv = (random.random((count, 2)) * size - 0.5).astype(np.float32)
    return PointCloud(
        key=key,
        sequence="",
        points=random.normal(size=(count, 3)).astype(np.float32),
        colors=np.zeros((count, 3), np.uint8),
        labels=None,
        pair_point=np.arange(count, dtype=np.int64),
        pair_view=view,
        pixels=uv,
        image_sizes=SIZES,
    )


def make_maps(channels: int = 6) -> list[np.ndarray]:
    random = np.random.default_rng(5)
    return [random.normal(size=(4, 5, channels)).astype(np.float16) for _ in GRIDS]


def upsampled(
    cloud: PointCloud, maps: list[np.ndarray], row: int, *, slidr: bool = False
) -> np.ndarray:
    """Bilinear value of one pair, cell by cell, in float64."""
    view = cloud.pair_view[row]
    grid, size = GRIDS[view], np.array(SIZES[view])
    if slidr:
        cell = cloud.pair_uv[row] * (np.array(grid.cells) - 1) / (size - 1)
    else:
        scale = np.array(grid.input_size) / size
        cell = (scale * (cloud.pair_uv[row] + 0.5) - 0.5 - np.array(grid.offset)) / grid.stride
    x, y = np.clip(cell, 0, np.array(grid.cells) - 1)
    value = np.zeros(maps[view].shape[-1])
    for row_cell in range(grid.cells[1]):
        for column_cell in range(grid.cells[0]):
            weight = max(0.0, 1 - abs(x - column_cell)) * max(0.0, 1 - abs(y - row_cell))
            value += weight * maps[view][row_cell, column_cell].astype(np.float64)
    return value


@pytest.mark.parametrize("alignment", ["measured", "slidr"])
def test_grid_features_are_the_map_upsampled_at_the_pixel(alignment: str) -> None:
    cloud, maps = make_cloud(), make_maps()
    sample = encode_grid(cloud.key, maps, GRIDS)
    rows = np.array([7, 3, 250, 3])
    found = pair_features(sample, cloud, rows, alignment=alignment)
    expected = [upsampled(cloud, maps, row, slidr=alignment == "slidr") for row in rows]
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_alignments_differ() -> None:
    cloud = make_cloud()
    sample, rows = encode_grid(cloud.key, make_maps(), GRIDS), np.arange(300)
    measured, slidr = (
        pair_features(sample, cloud, rows, alignment=name) for name in ("measured", "slidr")
    )
    assert np.abs(measured - slidr).max() > 0.1


@pytest.mark.parametrize("stored", [0, 100])
def test_pixels_and_grid_give_the_same_features(stored: int) -> None:
    cloud, maps = make_cloud(), make_maps()
    grid = encode_grid(cloud.key, maps, GRIDS)
    pixels = encode_pixels(cloud, maps, GRIDS, pairs=stored, seed=1)
    rows = usable_pairs(pixels, cloud)
    assert len(rows) == (stored or 300)
    chosen = np.random.default_rng(0).permutation(rows)[:40]
    np.testing.assert_allclose(
        pair_features(pixels, cloud, chosen),
        pair_features(grid, cloud, chosen),
        rtol=1e-3,
        atol=1e-6,
    )
    assert np.array_equal(pair_cells(pixels, cloud, chosen), pair_cells(grid, cloud, chosen))


def test_the_choice_of_pairs_depends_on_seed_and_key_alone() -> None:
    def chosen(key: str, seed: int) -> bytes:
        cloud = make_cloud(key=key)
        sample = encode_pixels(cloud, make_maps(), GRIDS, pairs=50, seed=seed)
        return sample.arrays["feature_pair"].tobytes()

    assert chosen("frame-1", 0) == chosen("frame-1", 0)
    assert len({chosen(key, seed) for key in ("frame-1", "frame-2") for seed in (0, 1)}) == 4


def test_cells_are_the_nearest_and_differ_between_views() -> None:
    cloud = make_cloud()
    cells = pair_cells(encode_grid(cloud.key, make_maps(), GRIDS), cloud, np.arange(300))
    for row in range(300):
        view = cloud.pair_view[row]
        grid = GRIDS[view]
        centres_u = grid.offset[0] + grid.stride[0] * np.arange(grid.cells[0])
        centres_v = grid.offset[1] + grid.stride[1] * np.arange(grid.cells[1])
        scale = np.array(grid.input_size) / SIZES[view]
        u, v = scale * (cloud.pair_uv[row].astype(np.float64) + 0.5) - 0.5
        nearest_u, nearest_v = np.abs(centres_u - u).argmin(), np.abs(centres_v - v).argmin()
        assert cells[row] == 20 * view + 5 * nearest_v + nearest_u


def test_every_array_matches_the_fields_table() -> None:
    cloud, maps = make_cloud(), make_maps()
    samples: dict[str, Sample] = {
        "grid": encode_grid(cloud.key, maps, GRIDS),
        "pixels": encode_pixels(cloud, maps, GRIDS, pairs=9, seed=0),
    }
    for layout in ("grid", "pixels"):
        fields = {field.name: field for field in feature_fields(layout, "zstd")}
        assert set(fields) == set(samples[layout].arrays)
        for name, array in samples[layout].arrays.items():
            fields[name].check(array, cloud.key)


def test_views_with_maps_of_two_shapes_are_refused() -> None:
    maps = [np.zeros((4, 5, 3), np.float16), np.zeros((4, 6, 3), np.float16)]
    with pytest.raises(StoreError, match=r"frame-1: its views give maps of shapes"):
        encode_grid("frame-1", maps, GRIDS)


def test_pixels_refuse_what_they_do_not_hold() -> None:
    cloud = make_cloud()
    sample = encode_pixels(cloud, make_maps(), GRIDS, pairs=50, seed=0)
    missing = np.setdiff1d(np.arange(300), usable_pairs(sample, cloud))[:1]
    with pytest.raises(StoreError, match="no feature for some of the requested pairs"):
        pair_features(sample, cloud, missing)
    with pytest.raises(StoreError, match="extract with --features grid"):
        pair_features(sample, cloud, usable_pairs(sample, cloud), alignment="slidr")
