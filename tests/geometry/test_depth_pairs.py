"""From a depth image to pairs in one go, against the single steps one after the other."""

from dataclasses import replace

import numpy as np
import pytest

from p2pkit.errors import GeometryError
from p2pkit.geometry.backproject import back_project
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.confidence import Margins, visibility
from p2pkit.geometry.depth_pairs import ColorView, DepthPairs, Thinning, pair_depth
from p2pkit.geometry.project import nearest_pixels, project
from p2pkit.geometry.voxelize import voxel_deduplicate

CAMERA = Camera(width=64, height=48, fx=60.0, fy=61.0, cx=31.2, cy=23.9)
OTHER = Camera(width=80, height=50, fx=70.0, fy=69.0, cx=38.0, cy=26.0)
RANGE_M = (0.4, 3.5)
UNITS = 1000.0


def scene(seed: int) -> np.ndarray:
    """A slope with boxes before it, holes and noise (mm)."""
    random = np.random.default_rng(seed)
    depth = np.linspace(3800, 1000, 48)[:, None] + np.zeros(64)
    for u in range(0, 60, 15):
        depth[10 : 20 + u // 3, u : u + 8] = 600 + 10 * u
    depth = (depth + random.integers(-9, 10, depth.shape)).astype(np.uint16)
    depth[random.random(depth.shape) < 0.1] = 0
    return depth


def view_of(camera: Camera, seed: int, *, shift_m: float) -> ColorView:
    random = np.random.default_rng(seed)
    pose = np.eye(4)
    if shift_m:
        angle = 0.1
        pose[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        pose[:3, 3] = (shift_m, -0.03, 0.05)
    size = (camera.height, camera.width)
    image = random.integers(0, 256, (*size, 3)).astype(np.uint8)
    return ColorView(image, camera, pose)


def single_steps(depth: np.ndarray, view: ColorView, thinning: Thinning) -> DepthPairs:
    found = back_project(depth, CAMERA, units_per_metre=UNITS, depth_range_m=thinning.depth_range_m)
    projection = project(found.points, view.camera, view.camera_from_depth)
    registered = view.camera == CAMERA and np.array_equal(view.camera_from_depth, np.eye(4))
    visible = visibility(
        projection,
        view.camera,
        thinning.margins,
        motion_m=view.motion_m,
        hide=not registered,
    )
    seen = np.flatnonzero(visible.seen)
    u, v = nearest_pixels(projection.pixel_uv, view.camera.width, view.camera.height)
    if view.valid is not None:
        seen = seen[view.valid[v[seen], u[seen]]]
    voxels = None
    keep = seen
    if thinning.voxel_size:
        voxels = voxel_deduplicate(found.points[seen], thinning.voxel_size)
        keep = seen[voxels.keep]
    return DepthPairs(
        len(found.points),
        found.pixel[keep],
        depth.reshape(-1)[found.pixel[keep]],
        view.image[v[keep], u[keep]],
        visible.confidence[keep],
        None if voxels is None else found.pixel[seen],
        voxels,
    )


@pytest.mark.parametrize("voxel_size", [0.0, 0.02, 0.15])
@pytest.mark.parametrize("case", ["registered", "shifted", "masked", "moving", "beside"])
def test_pairs_equal_the_single_steps(case: str, voxel_size: float) -> None:
    depth = scene(seed=3)
    view = view_of(CAMERA, 5, shift_m=0.0)
    if case in ("shifted", "masked"):
        view = view_of(OTHER, 5, shift_m=0.25)
    if case == "masked":
        view = replace(view, valid=np.random.default_rng(1).random((50, 80)) < 0.6)
    if case == "moving":
        view = replace(view_of(OTHER, 5, shift_m=0.1), motion_m=0.2)
    if case == "beside":
        view = view_of(OTHER, 5, shift_m=1.5)
    margins = Margins(margin_m=0.06, margin_relative=0.02, edge_px=3.0, motion_px=5.0)
    thinning = Thinning(RANGE_M, voxel_size, margins)
    expected = single_steps(depth, view, thinning)
    found = pair_depth(depth, CAMERA, view, thinning, units_per_metre=UNITS, with_seen=True)
    assert 0 < len(expected.pixel) < expected.measured or case == "registered"
    assert found.measured == expected.measured
    for name in ("pixel", "depth", "colors", "confidence"):
        array, wanted = getattr(found, name), getattr(expected, name)
        assert array.dtype == wanted.dtype
        assert np.array_equal(array, wanted), name
    assert (found.seen is None) == (voxel_size == 0)
    if found.seen is not None and found.voxels is not None and expected.voxels is not None:
        assert np.array_equal(found.seen, expected.seen)
        for array, wanted in zip(found.voxels, expected.voxels, strict=True):
            assert np.array_equal(array, wanted)
    alone = pair_depth(depth, CAMERA, view, thinning, units_per_metre=UNITS)
    assert alone.seen is None
    assert np.array_equal(alone.pixel, expected.pixel)


@pytest.mark.parametrize("finer", [1, 3, 3.6, 5, 6])
def test_a_box_hides_the_wall_from_images_of_any_resolution(finer: float) -> None:
    """A box at 1 m before a wall at 3 m, and a camera beside the depth camera."""
    camera = Camera(width=160, height=120, fx=110.0, fy=110.0, cx=79.5, cy=59.5)
    fine = Camera(
        width=round(160 * finer),
        height=round(120 * finer),
        fx=110.0 * finer,
        fy=110.0 * finer,
        cx=(160 * finer - 1) / 2,
        cy=(120 * finer - 1) / 2,
    )
    half, beside_m = 0.25, 6.5 / (camera.fx * 2 / 3)  # half way between pixels of the box
    u, v = np.meshgrid(np.arange(160), np.arange(120))
    x, y = (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy
    depth = np.where((np.abs(x) < half) & (np.abs(y) < half), 1000, 3000).astype(np.uint16)
    pose = np.eye(4)
    pose[0, 3] = -beside_m
    view = ColorView(np.zeros((fine.height, fine.width, 3), np.uint8), fine, pose)
    found = pair_depth(depth, camera, view, Thinning(), units_per_metre=1000.0)
    kept = np.zeros(depth.size, np.bool_)
    kept[found.pixel] = True
    # Where the line from the camera to a point of the wall crosses the plane of the box; the box
    # ends between two pixels, so that those at its rim are left open.
    crossing = beside_m + (3 * x - beside_m) / 3
    rim = 1.5 / camera.fx
    hidden = (depth == 3000) & (np.abs(crossing) < half - rim) & (np.abs(y) < half - rim)
    clear = (depth == 3000) & ((np.abs(crossing) > half + rim) | (np.abs(y) > half + rim))
    assert np.count_nonzero(hidden) > 200
    assert not kept[hidden.ravel()].any()
    inside = np.abs(3 * x - beside_m) / 3 * fine.fx < fine.width / 2 - 1
    assert kept[(clear & inside).ravel()].mean() > 0.98


def test_many_voxels_outgrow_the_first_table() -> None:
    """Every pixel of a large image is a voxel."""
    camera = Camera(width=200, height=120, fx=200.0, fy=200.0, cx=99.5, cy=59.5)
    depth = np.full((120, 200), 2000, np.uint16)
    view = view_of(camera, 0, shift_m=0.0)
    for size in (0.01, 0.02):
        found = pair_depth(depth, camera, view, Thinning(voxel_size=size), units_per_metre=1000.0)
        points = back_project(depth, camera, units_per_metre=1000.0).points
        keep = voxel_deduplicate(points, size).keep
        assert np.array_equal(found.pixel, keep)


def test_nothing_measured_and_nothing_seen_give_no_pairs() -> None:
    view = view_of(CAMERA, 0, shift_m=0.0)
    empty = np.zeros((48, 64), np.uint16)
    found = pair_depth(empty, CAMERA, view, Thinning(voxel_size=0.1), units_per_metre=UNITS)
    assert found.measured == len(found.pixel) == 0
    behind = view.camera_from_depth.copy()
    behind[2, 3] = -9.0
    view = replace(view, camera_from_depth=behind)
    found = pair_depth(scene(0), CAMERA, view, Thinning(voxel_size=0.1), units_per_metre=UNITS)
    assert found.measured > 0
    assert len(found.pixel) == 0


def test_a_range_beyond_16_bits_gives_no_points() -> None:
    """At 10,000 units per metre the farthest depth that can be stored is 6.5535 m."""
    depth = np.array([[0, 100, 2**16 - 1], [5, 0, 60000]], np.uint16)
    camera = Camera(width=3, height=2, fx=4.0, fy=4.0, cx=1.0, cy=0.5)
    range_m, units = (7.0, 10.0), 10_000.0
    found = back_project(depth, camera, units_per_metre=units, depth_range_m=range_m)
    assert len(found.points) == 0
    view = view_of(camera, 1, shift_m=0.0)
    pairs = pair_depth(depth, camera, view, Thinning(range_m), units_per_metre=units)
    assert (pairs.measured, len(pairs.pixel)) == (0, 0)


def test_what_cannot_be_is_named() -> None:
    view, depth = view_of(CAMERA, 0, shift_m=0.0), scene(0)
    with pytest.raises(GeometryError, match="voxel index does not fit in 32 bits"):
        pair_depth(depth, CAMERA, view, Thinning(voxel_size=1e-11), units_per_metre=UNITS)
    with pytest.raises(GeometryError, match="voxel_size is -1"):
        pair_depth(depth, CAMERA, view, Thinning(voxel_size=-1.0), units_per_metre=UNITS)
    for wrong in (
        replace(view, camera=OTHER),
        replace(view, camera_from_depth=2 * np.eye(4)),
    ):
        with pytest.raises(GeometryError):
            pair_depth(depth, CAMERA, wrong, Thinning(), units_per_metre=UNITS)
