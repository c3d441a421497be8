import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pkit.errors import GeometryError
from p2pkit.geometry.backproject import back_project, back_project_pixels
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.project import project


@st.composite
def cameras(draw):
    width, height = draw(st.integers(1, 640)), draw(st.integers(1, 480))
    return Camera(
        width=width,
        height=height,
        fx=draw(st.floats(50, 2000)),
        fy=draw(st.floats(50, 2000)),
        cx=width * draw(st.floats(0.2, 0.8)),
        cy=height * draw(st.floats(0.2, 0.8)),
    )


def random_depth(camera, seed, count=4000):
    """Depth at up to `count` random pixels, the extreme values among them, else 0."""
    random = np.random.default_rng(seed)
    depth = np.zeros(camera.height * camera.width, np.uint16)
    some = random.integers(0, depth.size, count)
    depth[some] = random.integers(0, 2**16, count)
    depth[some[:2]] = 1, 2**16 - 1
    return depth.reshape(camera.height, camera.width)


def naive(depth, camera, units_per_metre, depth_range_m):
    v, u = np.nonzero(depth)
    z = depth[v, u].astype(np.longdouble) / np.longdouble(units_per_metre)
    inside = (z.astype(float) >= depth_range_m[0]) & (z.astype(float) <= depth_range_m[1])
    u, v, z = u[inside], v[inside], z[inside]
    x = (u - np.longdouble(camera.cx)) / np.longdouble(camera.fx) * z
    y = (v - np.longdouble(camera.cy)) / np.longdouble(camera.fy) * z
    return np.stack([x, y, z], axis=1).astype(np.float32), (v * camera.width + u).astype(np.uint32)


@settings(deadline=None, max_examples=30)
@given(cameras(), st.sampled_from([1000.0, 5000.0, 256.0, 999.7]), st.integers(0, 2**32))
def test_equals_the_naive_reference(camera, units, seed):
    depth = random_depth(camera, seed)
    limits = (0.3, 10.0)
    found = back_project(depth, camera, units_per_metre=units, depth_range_m=limits)
    points, pixel = naive(depth, camera, units, limits)
    assert np.array_equal(found.pixel, pixel)
    # one unit in the last place: the reference rounds once from a longer type
    np.testing.assert_array_max_ulp(found.points, points, maxulp=1)


@settings(deadline=None, max_examples=30)
@given(cameras(), st.sampled_from([1000.0, 5000.0]), st.integers(0, 2**32))
def test_projection_gives_the_pixel_back(camera, units, seed):
    found = back_project(random_depth(camera, seed), camera, units_per_metre=units)
    projection = project(found.points, camera)
    assert projection.visible.all()
    v, u = np.divmod(found.pixel.astype(np.int64), camera.width)
    assert np.abs(projection.pixel_uv - np.stack([u, v], axis=1)).max(initial=0.0) < 1e-4
    assert np.array_equal(projection.depth_m, found.points[:, 2])


@settings(deadline=None, max_examples=30)
@given(cameras(), st.floats(0.5, 60000), st.integers(0, 2**32))
def test_points_are_rebuilt_to_the_bit(camera, units, seed):
    depth = random_depth(camera, seed)
    found = back_project(depth, camera, units_per_metre=units)
    rebuilt = back_project_pixels(
        depth.ravel()[found.pixel], found.pixel, camera, units_per_metre=units
    )
    assert rebuilt.tobytes() == found.points.tobytes()
    order = np.random.default_rng(seed).permutation(len(found.pixel))
    strewn = found.pixel[order]
    rebuilt = back_project_pixels(depth.ravel()[strewn], strewn, camera, units_per_metre=units)
    assert rebuilt.tobytes() == found.points[order].tobytes()


CAMERA = Camera(width=4, height=3, fx=2.0, fy=2.0, cx=1.5, cy=1.0)


def test_colors_come_from_the_same_pixel_also_of_a_strided_image():
    image = np.arange(72, dtype=np.uint8).reshape(6, 4, 3)[::2]
    depth = np.array([[0, 5, 0, 1], [2, 0, 0, 0], [0, 0, 7, 0]], np.uint16)
    found = back_project(depth, CAMERA, units_per_metre=1.0, image=image)
    assert found.pixel.tolist() == [1, 3, 4, 10]
    assert np.array_equal(found.colors, image.reshape(-1, 3)[found.pixel])
    assert back_project(depth, CAMERA, units_per_metre=1.0).colors is None


@pytest.mark.parametrize(
    ("limits", "kept"),
    [((0.0, np.inf), 11), ((0.3, 0.7), 5), ((0.3001, 0.6999), 3), ((5.0, 9.0), 0), ((0.7, 0.7), 1)],
)
def test_depth_range_is_inclusive_and_0_is_never_a_point(limits, kept):
    depth = (100 * np.arange(12, dtype=np.uint16)).reshape(3, 4)
    found = back_project(depth, CAMERA, units_per_metre=1000.0, depth_range_m=limits)
    assert len(found.points) == len(found.pixel) == kept


def test_empty_depth_gives_no_points():
    found = back_project(np.zeros((3, 4), np.uint16), CAMERA, units_per_metre=1.0)
    assert found.points.shape == (0, 3)
    nothing = np.zeros(0, np.uint16), np.zeros(0, np.uint32)
    assert back_project_pixels(*nothing, CAMERA, units_per_metre=1.0).shape == (0, 3)


def test_read_only_and_strided_depth_is_accepted():
    depth = np.ones((3, 8), np.uint16)
    depth.flags.writeable = False
    found = back_project(depth[:, ::2], CAMERA, units_per_metre=1.0)
    assert found.pixel.tolist() == list(range(12))


def unchecked(function):
    """The function without the shape checks of the test run, which would speak first."""
    return getattr(function, "__wrapped__", function)


GOOD = np.ones((3, 4), np.uint16)


@pytest.mark.parametrize(
    ("depth", "options", "message"),
    [
        (GOOD.astype(np.float32), {}, "depth is float32"),
        (GOOD.T.copy(), {}, r"depth is uint16 \[4, 3\]; it must be uint16 \[3, 4\]"),
        (GOOD, {"image": np.zeros((3, 5, 3), np.uint8)}, r"image is uint8 \[3, 5, 3\]"),
        (GOOD, {"units_per_metre": 0.0}, "units_per_metre is 0.0"),
        (GOOD, {"units_per_metre": np.nan}, "units_per_metre is nan"),
        (GOOD, {"depth_range_m": (2.0, 1.0)}, "depth_range_m is"),
        (GOOD, {"depth_range_m": (-1.0, 1.0)}, "depth_range_m is"),
        (GOOD, {"depth_range_m": (np.nan, 1.0)}, "depth_range_m is"),
    ],
)
def test_bad_arguments_are_named(depth, options, message):
    with pytest.raises(GeometryError, match=message):
        unchecked(back_project)(depth, CAMERA, **{"units_per_metre": 1000.0, **options})


@pytest.mark.parametrize(
    ("depth", "pixel", "message"),
    [([1, 1], [0, 12], "pixel index 12"), ([1], [0, 1], r"it must be uint16 \[2\]")],
)
def test_bad_pixel_lists_are_named(depth, pixel, message):
    arrays = np.array(depth, np.uint16), np.array(pixel, np.uint32)
    with pytest.raises(GeometryError, match=message):
        unchecked(back_project_pixels)(*arrays, CAMERA, units_per_metre=1.0)
