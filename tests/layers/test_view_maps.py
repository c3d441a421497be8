"""Further views of a rig's images, whose cameras have images of different sizes."""

import numpy as np
import pytest
from test_feature_layer import GRIDS, SIZES, make_cloud, make_maps

from p2pkit.errors import StoreError
from p2pkit.geometry.maps.grid import FeatureGrid
from p2pkit.layers.features import encode_grid, feature_fields, pair_cells, pair_features
from p2pkit.layers.map_coding import FeatureCoder, parse_map_coding
from p2pkit.layers.views import SeenImages, ViewMaps
from p2pkit.store.manifest import Sample

HALF_SIZES = ((20, 15), (10, 8))
HALF_GRIDS = tuple(
    FeatureGrid(stride=(8.0, 8.0), offset=(0.0, 0.0), cells=(3, 2), input_size=size)
    for size in HALF_SIZES
)


def make_half() -> list[np.ndarray]:
    random = np.random.default_rng(8)
    return [random.normal(size=(2, 3, 6)).astype(np.float16) for _ in HALF_GRIDS]


def rig_sample(coder: FeatureCoder | None = None) -> Sample:
    """The images as they are, their maps again as mirror images, and others of half the size."""
    more = [
        ViewMaps(SeenImages(GRIDS, SIZES, flip=True), make_maps()),
        ViewMaps(SeenImages(HALF_GRIDS, HALF_SIZES), make_half()),
    ]
    return encode_grid("frame-1", make_maps(), GRIDS, coder or FeatureCoder(), more=more)


def test_each_camera_has_its_own_geometry_in_each_view() -> None:
    cloud, sample, rows = make_cloud(), rig_sample(), np.arange(300)
    sizes = np.array(SIZES)[cloud.pair_view]
    mirrored = cloud.pair_uv.astype(np.float64)
    mirrored[:, 0] = sizes[:, 0] - 1 - mirrored[:, 0]
    turned = make_cloud()
    turned.pair_uv[:] = mirrored
    # The mirror image's map is a copy of the image's: it answers as that does at the mirror place.
    np.testing.assert_allclose(
        pair_features(sample, cloud, rows, view=1), pair_features(sample, turned, rows), atol=1e-5
    )
    assert np.array_equal(pair_cells(sample, cloud, rows, view=1), pair_cells(sample, turned, rows))
    halved = make_cloud()
    halved.pair_uv[:] = (cloud.pair_uv + 0.5) / 2 - 0.5
    object.__setattr__(halved, "image_sizes", HALF_SIZES)
    plain = encode_grid("frame-1", make_half(), HALF_GRIDS)
    np.testing.assert_allclose(
        pair_features(sample, cloud, rows, view=2), pair_features(plain, halved, rows), atol=1e-5
    )


def test_slidrs_alignment_stretches_over_the_view() -> None:
    cloud, sample, rows = make_cloud(), rig_sample(), np.flatnonzero(make_cloud().pair_view == 0)
    turned = make_cloud()
    turned.pair_uv[rows, 0] = 39 - cloud.pair_uv[rows, 0]
    np.testing.assert_allclose(
        pair_features(sample, cloud, rows, alignment="slidr", view=1),
        pair_features(sample, turned, rows, alignment="slidr"),
        atol=1e-5,
    )


@pytest.mark.parametrize("coding", ["float16", "int8"])
def test_every_view_stands_in_the_fields_table(coding: str) -> None:
    read = parse_map_coding(coding)
    sample = rig_sample(FeatureCoder(int8=read.int8))
    fields = {
        field.name: field
        for field in feature_fields("grid", "none", read, views=("flip", "scale:0.5"))
    }
    assert set(fields) == set(sample.arrays)
    assert list(fields) == sorted(fields)
    assert fields["map_2"].description == "the teacher's map, channels last, of scale:0.5"
    for name, array in sample.arrays.items():
        fields[name].check(array, "frame-1")


def test_maps_of_one_view_must_have_one_shape() -> None:
    maps = [np.zeros((2, 3, 6), np.float16), np.zeros((2, 2, 6), np.float16)]
    more = [ViewMaps(SeenImages(HALF_GRIDS, HALF_SIZES), maps)]
    with pytest.raises(StoreError, match=r"give maps of shapes \[\(2, 2, 6\), \(2, 3, 6\)\]"):
        encode_grid("frame-1", make_maps(), GRIDS, more=more)
