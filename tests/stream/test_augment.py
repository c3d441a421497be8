import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pkit.errors import ConfigError, GeometryError
from p2pkit.stream.augmentation import (
    NO_AUGMENTATION,
    AugmentConfig,
    augment_colors,
    augment_intensity,
    augment_points,
    drop_points,
    outside_cuboid,
    random_linear_map,
)
from p2pkit.stream.augmentation_kernels import add_noise_field, blur_three

UP = (0.0, -1.0, 0.0)


def only(**options):
    return AugmentConfig(
        **{"rotation_deg": 0.0, "tilt_deg": 0.0, "scale": (1.0, 1.0), "elastic": (), **options}
    )


def cloud(count=500, seed=0, size=3.0):
    return np.random.default_rng(seed).uniform(0, size, (count, 3)).astype(np.float32)


def augmented(points, config, seed=1, **options):
    return augment_points(points, np.random.default_rng(seed), config, **options).points


def test_turned_off_it_changes_nothing():
    points = cloud()
    assert np.array_equal(augmented(points, NO_AUGMENTATION), points)
    assert drop_points(7, np.random.default_rng(0), NO_AUGMENTATION) is None
    colors = np.linspace(-1, 1, 30, dtype=np.float32).reshape(10, 3)
    assert np.array_equal(augment_colors(colors, np.random.default_rng(0), NO_AUGMENTATION), colors)


@pytest.mark.parametrize("config", [AugmentConfig(), AugmentConfig(jitter_m=0.01, flip_x=0.5)])
def test_the_seed_decides_all_and_the_input_stays(config):
    points = cloud()
    before = points.copy()
    first, again, other = (augmented(points, config, seed) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert not np.allclose(first, other)
    assert np.array_equal(points, before)
    assert not np.allclose(first, points)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.sampled_from([UP, (0.0, 0.0, 1.0), (0.6, 0.0, -0.8)]))
def test_rotation_keeps_heights_and_distances(seed, up):
    points = cloud()
    moved = augmented(points, only(rotation_deg=180.0), seed, up_axis=up)
    np.testing.assert_allclose(moved @ np.array(up), points @ np.array(up), rtol=0, atol=1e-5)
    gaps, gaps_moved = (np.linalg.norm(p[1:] - p[:-1], axis=1) for p in (points, moved))
    np.testing.assert_allclose(gaps_moved, gaps, rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32))
def test_linear_map_is_within_its_bounds(seed):
    config = AugmentConfig(rotation_deg=30.0, tilt_deg=5.0, flip_x=0.5)
    matrix = random_linear_map(np.random.default_rng(seed), config, UP)
    scale = abs(np.linalg.det(matrix)) ** (1 / 3)
    assert 0.9 <= scale <= 1.1
    rigid = matrix / scale
    assert rigid @ rigid.T == pytest.approx(np.eye(3), abs=1e-12)
    up = np.array(UP)
    assert np.degrees(np.arccos(up @ rigid @ up)) <= 5.0 + 1e-6


def test_flip_happens_as_often_as_asked_and_keeps_heights():
    random = np.random.default_rng(0)
    config = only(flip_x=0.25)
    maps = [random_linear_map(random, config, UP) for _ in range(2000)]
    flipped = [np.linalg.det(matrix) < 0 for matrix in maps]
    assert 0.2 < np.mean(flipped) < 0.3
    assert all(np.allclose(np.array(UP) @ matrix, UP) for matrix in maps)


def test_full_rotation_reaches_all_directions():
    random = np.random.default_rng(0)
    maps = [random_linear_map(random, only(rotation_deg=180.0), UP) for _ in range(2000)]
    angles = np.degrees([np.arctan2(matrix[0, 2], matrix[0, 0]) for matrix in maps])
    assert np.histogram(angles, 8, (-180, 180))[0].min() > 180


def test_jitter_has_its_sigma():
    points = np.zeros((20_000, 3), np.float32)
    assert augmented(points, only(jitter_m=0.02)).std() == pytest.approx(0.02, rel=0.03)


def test_elastic_distortion_is_smooth_and_of_the_stated_size():
    points = cloud(4000, size=6.0)
    near = points + np.float32(0.01)
    together = augmented(np.concatenate([points, near]), only(elastic=((0.4, 0.5),)))
    shift, shift_near = np.split(together - np.concatenate([points, near]), 2)
    # nodes have 0.114 · magnitude; between nodes the trilinear mean of correlated nodes is smaller
    assert 0.07 * 0.5 < shift.std() < 0.13 * 0.5
    assert np.abs(shift - shift_near).max() < 0.1 * 0.5


def test_elastic_noise_is_bounded_in_memory_and_repeats_far_away():
    points = np.array([[0, 0, 0], [64 * 0.25, 0, 0], [1e6, 0, 0]], np.float32)
    shift = augmented(points, only(elastic=((0.25, 1.0),))) - points
    assert shift[0] == pytest.approx(shift[1], abs=1e-5)
    assert np.isfinite(shift).all()


@pytest.mark.parametrize("nodes", [1, 2, 3, 7])
def test_blur_is_the_mean_of_three_nodes_on_a_ring(nodes):
    field = np.random.default_rng(0).standard_normal((3, nodes, 4), np.float32)
    blurred = np.empty_like(field)
    blur_three(field, blurred)
    ring = field + np.roll(field, 1, axis=1) + np.roll(field, -1, axis=1)
    np.testing.assert_array_equal(blurred, ring / np.float32(3))


def naive_field(point, origin, spacing, field):
    cell = (point - origin) / spacing
    low = np.floor(cell).astype(int)
    total = np.zeros(3)
    for offset in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(offset, cell - low, 1 - (cell - low)))
        total += weight * field[tuple((low + offset) % field.shape[:3])]
    return total


def test_noise_field_equals_the_naive_reference():
    random = np.random.default_rng(0)
    field = random.normal(size=(4, 5, 6, 3))
    points = random.uniform(-3, 3, (200, 3))
    origin = np.array([-1.0, 0.5, 0.0])
    wanted = [point + 0.7 * naive_field(point, origin, 0.3, field) for point in points]
    moved = points.copy()
    add_noise_field(moved, origin, 0.3, field, 0.7)
    np.testing.assert_allclose(moved, wanted, rtol=0, atol=1e-12)


def test_no_points_and_one_point():
    assert augmented(np.zeros((0, 3), np.float32), AugmentConfig()).shape == (0, 3)
    assert np.isfinite(augmented(np.zeros((1, 3), np.float32), AugmentConfig())).all()


def test_points_that_are_not_finite_are_named():
    points = cloud(5)
    points[2, 1] = np.nan
    with pytest.raises(GeometryError, match="point 2 is"):
        augmented(points, AugmentConfig())


@settings(deadline=None)
@given(st.integers(0, 200), st.floats(0, 1), st.integers(0, 2**32))
def test_dropping_keeps_order_and_the_stated_share(count, fraction, seed):
    config = AugmentConfig(drop_fraction=fraction)
    kept = drop_points(count, np.random.default_rng(seed), config)
    if kept is None:
        assert fraction == 0
        return
    assert len(kept) == max(count - int(count * fraction), min(count, 1))
    assert (np.diff(kept) > 0).all()
    assert set(kept.tolist()) <= set(range(count))


def test_bytes_become_minus_one_to_one():
    colors = np.array([[0, 255, 51]], np.uint8)
    found = augment_colors(colors, np.random.default_rng(0), AugmentConfig())
    assert found[0] == pytest.approx([-1.0, 1.0, -0.6], abs=1e-6)


def test_colors_are_jittered_alike_within_a_frame_and_stay_in_range():
    config = AugmentConfig(color_jitter=0.3)
    colors = np.random.default_rng(0).uniform(-1, 1, (100, 3)).astype(np.float32)
    found = augment_colors(colors, np.random.default_rng(1), config)
    assert np.abs(found).max() <= 1
    assert np.abs(found - colors).max() <= 0.6 + 1e-6
    free = (np.abs(found) < 1).all(axis=1)
    fit, *_ = np.linalg.lstsq(
        np.column_stack([colors[free, 0], np.ones(free.sum())]), found[free, 0], rcond=None
    )
    assert np.column_stack([colors[free, 0], np.ones(free.sum())]) @ fit == pytest.approx(
        found[free, 0], abs=1e-5
    )
    assert not np.allclose(found, colors)


def test_colors_are_dropped_as_often_as_asked():
    config = AugmentConfig(drop_color=0.25)
    random = np.random.default_rng(0)
    colors = np.ones((2, 3), np.float32)
    dropped = [augment_colors(colors, random, config) is None for _ in range(2000)]
    assert 0.2 < np.mean(dropped) < 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"up_axis": (0.0, 2.0, 0.0)}, "up_axis is"),
        ({"rotation_deg": -1.0}, "rotation_deg is -1.0"),
        ({"tilt_deg": 200.0}, "tilt_deg is 200.0"),
        ({"scale": (1.1, 0.9)}, "scale is"),
        ({"scale": (0.0, 1.0)}, "scale.0 is 0.0; must be greater than 0"),
        ({"elastic": ((0.0, 1.0),)}, "elastic.0.0 is 0.0; must be greater than 0"),
        ({"jitter_m": float("nan")}, "jitter_m is nan"),
        ({"drop_fraction": 1.5}, "drop_fraction is 1.5"),
        ({"flip_x": -0.5}, "flip_x is -0.5"),
        ({"color_jitter": 2.0}, "color_jitter is 2.0"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        AugmentConfig(**options)
    if "up_axis" in options:
        # The recording's own axis is checked where it is used.
        with pytest.raises(ConfigError, match=message):
            augmented(cloud(), AugmentConfig(), **options)


@pytest.mark.parametrize("up", [(0.0, 0.0, 1.0), (0.0, -1.0, 0.0)])
@pytest.mark.parametrize("flips", [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_flips_mirror_their_own_axis(up, flips):
    """Along x, and along the other horizontal axis: y of LiDARs, z of depth cameras."""
    points = cloud()
    other = 1 if up == (0.0, 0.0, 1.0) else 2
    expected = points.copy()
    for row in range(len(points)):
        expected[row, 0] *= -1 if flips[0] else 1
        expected[row, other] *= -1 if flips[1] else 1
    moved = augmented(points, only(flip_x=flips[0], flip_y=flips[1]), up_axis=up)
    np.testing.assert_allclose(moved, expected, atol=1e-6)


def test_flips_are_independent():
    random = np.random.default_rng(0)
    config = only(flip_x=0.5, flip_y=0.25)
    maps = [random_linear_map(random, config, (0.0, 0.0, 1.0)).diagonal() for _ in range(2000)]
    flipped = np.array(maps)[:, :2] < 0
    assert flipped.mean(axis=0) == pytest.approx([0.5, 0.25], abs=0.04)
    assert (flipped[:, 0] & flipped[:, 1]).mean() == pytest.approx(0.125, abs=0.03)


def test_turning_about_up_is_a_plane_rotation():
    """Against complex numbers, whose product turns the plane."""
    points = cloud()
    moved = augmented(points, only(rotation_deg=180.0, scale=(0.95, 1.05)), up_axis=(0.0, 0.0, 1.0))
    flat, turned = points[:, 0] + 1j * points[:, 1], moved[:, 0] + 1j * moved[:, 1]
    factors = turned / flat
    np.testing.assert_allclose(factors, factors[0], rtol=1e-4)
    assert 0.95 <= abs(factors[0]) <= 1.05
    np.testing.assert_allclose(moved[:, 2], abs(factors[0]) * points[:, 2], rtol=1e-4)


def naive_outside(points, centre, share):
    """SLidR's box, one point at a time."""
    found = []
    for point in points:
        inside = True
        for axis in range(3):
            values = points[:, axis]
            half = (values.max() - values.min()) * share / 2
            inside = inside and abs(point[axis] - centre[axis]) < half
        found.append(not inside)
    return np.array(found)


def test_dropped_boxes_are_slidrs():
    points = cloud(3000)
    pairs, views = np.arange(3000).repeat(2), np.tile(np.array([0, 1], np.uint8), 3000)
    dropped = 0
    for seed in range(20):
        found = outside_cuboid(points, pairs, views, np.random.default_rng(seed), views=2)
        again = np.random.default_rng(seed)
        share = again.uniform(0, 0.2)
        centre = points[again.integers(3000)]
        np.testing.assert_array_equal(found, naive_outside(points, centre, share))
        dropped += (~found).sum()
    assert dropped > 20


@pytest.mark.parametrize("views", [2, 3])
def test_no_box_is_dropped_where_a_camera_would_keep_few_pairs(views):
    """The last camera has 1024 pairs, of which it would lose some, or none at all."""
    points = np.zeros((3000, 3), np.float32)
    points[0], points[1] = 1, -1
    pairs = np.concatenate([np.arange(3000), np.arange(1024)])
    of_view = np.concatenate([np.zeros(3000), np.ones(1024)]).astype(np.uint8)
    found = outside_cuboid(points, pairs, of_view, np.random.default_rng(1), views=views)
    assert found.all()
    alone = outside_cuboid(points, pairs[:0], of_view[:0], np.random.default_rng(1), views=0)
    assert not alone.all()


def test_intensities_change_as_the_formula_says():
    intensity = np.random.default_rng(0).uniform(0.2, 0.8, 500).astype(np.float32)
    assert augment_intensity(intensity, np.random.default_rng(1), AugmentConfig()) is not intensity
    same = augment_intensity(intensity, np.random.default_rng(1), AugmentConfig())
    np.testing.assert_array_equal(same, intensity)
    config = AugmentConfig(intensity_gain=0.2, intensity_jitter=0.5)
    found = augment_intensity(intensity, np.random.default_rng(1), config)
    again = np.random.default_rng(1)
    factor = 1 + 0.2 * again.uniform(-1, 1)
    noise = again.standard_normal(500, np.float32)
    for one, value, more in zip(found, intensity, noise, strict=True):
        assert one == pytest.approx(min(max(value * factor + 0.5 * more, 0), 1), abs=1e-5)
    assert {0.0, 1.0} <= set(found.tolist())
