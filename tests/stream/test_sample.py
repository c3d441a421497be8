from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pkit.errors import ConfigError
from p2pkit.geometry.maps.grid import FeatureGrid
from p2pkit.layers.features import encode_grid, encode_pixels, pair_features
from p2pkit.layers.geometry import PointCloud
from p2pkit.layers.views import SeenImages, ViewMaps
from p2pkit.store.manifest import Sample
from p2pkit.stream.augmentation import NO_AUGMENTATION, AugmentConfig
from p2pkit.stream.samples import SampleConfig, make_sample

GRID = FeatureGrid(stride=(8.0, 8.0), offset=(0.0, 0.0), cells=(5, 4), input_size=(40, 30))
COUNT = 400
PLAIN = SampleConfig(inputs=("color",), voxel_size=0.1, pairs_per_frame=64, augment=NO_AUGMENTATION)


def make_cloud() -> PointCloud:
    random = np.random.default_rng(1)
    return PointCloud(
        key="frame-1",
        sequence="",
        points=(random.random((COUNT, 3)) * 0.8).astype(np.float32),
        colors=random.integers(0, 256, (COUNT, 3), dtype=np.uint8),
        labels=None,
        pair_point=random.permutation(COUNT)[:300].astype(np.int64),
        pair_view=np.zeros(300, np.uint8),
        pixels=(random.random((300, 2)) * (32, 24)).astype(np.float32),
        image_sizes=((40, 30),),
    )


def make_features() -> Sample:
    """A map of cell column, cell row and noise, so that features tell pairs apart."""
    row, column = np.mgrid[:4, :5]
    noise = np.random.default_rng(2).normal(size=(4, 5))
    feature_map = np.stack([column, row, noise], axis=2).astype(np.float16)
    return encode_grid("frame-1", [feature_map], [GRID])


def make_superpixels() -> Sample:
    """Eight superpixels, strewn over the pairs."""
    ids = np.random.default_rng(4).integers(0, 8, 300).astype(np.uint16)
    return Sample("frame-1", {"superpixel": ids}, {"superpixels": [8]})


def pairs_of(sample_feature: np.ndarray, cloud: PointCloud) -> np.ndarray:
    """The row of the cloud's pairs that each feature is of, found through the feature itself."""
    known = pair_features(make_features(), cloud, np.arange(300))
    distance = np.abs(known[None] - sample_feature[:, None]).max(axis=2)
    assert distance.min(axis=1).max() == 0
    return distance.argmin(axis=1)


def test_each_pair_joins_the_points_voxel_with_its_pixels_feature() -> None:
    cloud = make_cloud()
    sample = make_sample(cloud, make_features(), PLAIN, np.random.default_rng(0))
    rows = pairs_of(sample.pair_feature, cloud)
    points = cloud.points[cloud.pair_point[rows]].astype(np.float64)
    assert np.array_equal(sample.coordinates[sample.pair_voxel], np.floor(points / 0.1))
    assert len(rows) == 64
    assert len(np.unique(rows)) == 64


def test_a_frame_left_without_pairs_needs_only_the_drawn_view() -> None:
    cloud, none = make_cloud(), np.zeros(0, np.int64)
    bare = replace(cloud, pair_point=none, pair_view=none.astype(np.uint8), pixels=cloud.pixels[:0])
    maps = [np.zeros((4, 5, 3), np.float16)]
    mirrored = ViewMaps(SeenImages((GRID,), ((40, 30),), flip=True), maps)
    stored = encode_grid("frame-1", maps, [GRID], more=[mirrored])
    read = replace(stored, arrays={"map_1": stored.arrays["map_1"]})
    sample = make_sample(bare, read, PLAIN, np.random.default_rng(0), view=1)
    assert sample.pair_feature.shape == (0, 3)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.4]))
def test_augmented_samples_stay_consistent(seed: int, dropped: float) -> None:
    config = SampleConfig(
        inputs=("color",),
        voxel_size=0.05,
        pairs_per_frame=100,
        augment=AugmentConfig(drop_fraction=dropped),
    )
    sample = make_sample(make_cloud(), make_features(), config, np.random.default_rng(seed))
    assert len(np.unique(sample.coordinates, axis=0)) == len(sample.coordinates)
    assert sample.pair_voxel.min() >= 0
    assert sample.pair_voxel.max() < len(sample.coordinates)
    assert len(sample.pair_voxel) == len(sample.pair_feature) == len(sample.pair_cell) == 100
    assert np.abs(sample.inputs).max() <= 1


def test_the_generator_decides_everything() -> None:
    config = SampleConfig(
        inputs=("color",), pairs_per_frame=50, augment=AugmentConfig(color_jitter=0.2)
    )

    def made(seed: int) -> bytes:
        sample = make_sample(
            make_cloud(),
            make_features(),
            config,
            np.random.default_rng(seed),
            superpixels=make_superpixels(),
        )
        assert sample.fields == {}
        assert sample.prepared == {}
        arrays = [array for array in vars(sample).values() if isinstance(array, np.ndarray)]
        return b"".join(array.tobytes() for array in arrays)

    assert made(0) == made(0)
    assert made(0) != made(1)


def test_one_pair_per_voxel_and_per_cell() -> None:
    cloud, random = make_cloud(), np.random.default_rng(3)
    many = replace(PLAIN, voxel_size=0.4, pairs_per_frame=10_000)
    plain = make_sample(cloud, make_features(), many, random)
    assert len(plain.pair_voxel) == 300
    per_voxel = make_sample(cloud, make_features(), replace(many, pairs="one-per-voxel"), random)
    assert sorted(per_voxel.pair_voxel) == sorted(set(plain.pair_voxel))
    per_cell = make_sample(cloud, make_features(), replace(many, pairs="one-per-cell"), random)
    assert sorted(per_cell.pair_cell) == sorted(set(plain.pair_cell))


def test_pixels_layers_give_only_the_pairs_they_hold() -> None:
    cloud = make_cloud()
    maps = [make_features().arrays["map"][0]]
    pixels = encode_pixels(cloud, maps, [GRID], pairs=20, seed=0)
    sample = make_sample(cloud, pixels, PLAIN, np.random.default_rng(0))
    assert len(sample.pair_voxel) == 20


def test_voxels_hold_their_first_points_colour() -> None:
    points = np.array([[0.01, 0, 0], [0.02, 0, 0], [-0.01, 0, 0]], np.float32)
    colors = np.array([[0, 0, 0], [255, 255, 255], [51, 102, 204]], np.uint8)
    cloud = make_cloud()
    cloud = replace(
        cloud,
        points=points,
        colors=colors,
        pair_point=np.arange(3),
        pair_view=cloud.pair_view[:3],
        pixels=cloud.pair_uv[:3],
    )
    sample = make_sample(cloud, make_features(), PLAIN, np.random.default_rng(0))
    assert sample.coordinates.tolist() == [[0, 0, 0], [-1, 0, 0]]
    assert sample.inputs == pytest.approx(np.array([[-1, -1, -1], [-0.6, -0.2, 0.6]]), abs=1e-6)
    assert sorted(sample.pair_voxel.tolist()) == [0, 0, 1]


@pytest.mark.parametrize("settings", [{"voxel_size": 0.0}, {"pairs_per_frame": 1}])
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        SampleConfig(**settings)


def test_confidence_follows_its_pair_and_is_one_where_the_store_has_none() -> None:
    cloud, features = make_cloud(), make_features()
    plain = make_sample(cloud, features, PLAIN, np.random.default_rng(0))
    assert plain.pair_confidence.tolist() == [1] * len(plain.pair_voxel)
    rated = replace(cloud, pair_confidence=(np.arange(300) % 256).astype(np.uint8))
    sample = make_sample(rated, features, PLAIN, np.random.default_rng(0))
    rows = pairs_of(sample.pair_feature, cloud)
    np.testing.assert_allclose(sample.pair_confidence, (rows % 256) / 255, rtol=1e-6)


def test_superpixels_follow_their_pairs_and_change_nothing_else() -> None:
    cloud, features, superpixels = make_cloud(), make_features(), make_superpixels()
    plain = make_sample(cloud, features, PLAIN, np.random.default_rng(0))
    assert plain.pair_superpixel is None
    sample = make_sample(cloud, features, PLAIN, np.random.default_rng(0), superpixels=superpixels)
    rows = pairs_of(sample.pair_feature, cloud)
    assert sample.pair_superpixel is not None
    assert np.array_equal(sample.pair_superpixel, superpixels.arrays["superpixel"][rows])
    for name, value in vars(plain).items():
        if value is not None:
            assert np.array_equal(value, getattr(sample, name))
