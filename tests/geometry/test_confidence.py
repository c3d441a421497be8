import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pkit.errors import GeometryError
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.confidence import Margins, line_spacing_px, visibility
from p2pkit.geometry.kernels import occlusion as occlusion_kernels
from p2pkit.geometry.project import Projection, project, visible_after_occlusion

CAMERA = Camera(width=64, height=48, fx=60.0, fy=60.0, cx=31.5, cy=23.5)
INF = np.float32(np.inf)


def scattered(seed: int, count: int = 400) -> Projection:
    random = np.random.default_rng(seed)
    points = random.uniform((-2, -1.5, 0.5), (2, 1.5, 4), (count, 3)).astype(np.float32)
    return project(points, CAMERA)


def naive_sides(nearest: np.ndarray, row: int, column: int, reach: int) -> float:
    """The blocker's depth, wedge by wedge."""
    sides = {"above": [], "below": [], "left": [], "right": []}
    for other_row in range(nearest.shape[0]):
        for other_column in range(nearest.shape[1]):
            dv, du = other_row - row, other_column - column
            if max(abs(dv), abs(du)) > reach:
                continue
            if abs(du) <= abs(dv) and dv:
                sides["above" if dv < 0 else "below"].append(nearest[other_row, other_column])
            elif dv == 0 and du:
                sides["left" if du < 0 else "right"].append(nearest[other_row, other_column])
    low = {side: min(values, default=np.inf) for side, values in sides.items()}
    pairs = [max(low["above"], low["below"]), max(low["left"], low["right"])]
    return float(min(*pairs, nearest[row, column]))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_blockers_on_two_sides_equal_the_naive_reference(seed: int, reach: int) -> None:
    random = np.random.default_rng(seed)
    nearest = random.uniform(1, 9, tuple(random.integers(1, 10, 2))).astype(np.float32)
    nearest[random.random(nearest.shape) < 0.4] = INF
    found = occlusion_kernels.side_blockers(nearest, reach)
    for row, column in np.ndindex(nearest.shape):
        assert found[row, column] == np.float32(naive_sides(nearest, row, column, reach))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_edge_distance_equals_the_naive_reference(seed: int, limit: int) -> None:
    edge = np.random.default_rng(seed).random((9, 12)) < 0.05
    rows, columns = np.nonzero(edge)
    v, u = np.mgrid[:9, :12]
    expected = np.full(edge.shape, np.inf)
    for row, column in zip(rows, columns, strict=True):
        expected = np.minimum(expected, np.hypot(v - row, u - column))
    found = occlusion_kernels.edge_squares(edge, limit)
    np.testing.assert_allclose(np.sqrt(found), np.minimum(expected, limit), rtol=1e-6)


def test_jumps_are_marked_on_both_sides_and_across_empty_cells() -> None:
    nearest = np.array([[1, 1.02, INF, 3, INF], [1, 1, 1, INF, 3.1]], np.float32)
    edge = np.zeros(nearest.shape, np.bool_)
    occlusion_kernels.mark_jumps(nearest, (0.05, 0.05), edge)
    assert edge.tolist() == [[False, True, False, True, False], [False, False, True, False, True]]


@pytest.mark.parametrize("seed", range(3))
def test_dense_visibility_is_the_z_buffer_test(seed: int) -> None:
    projection = scattered(seed)
    found = visibility(projection, CAMERA, Margins(), spacing_px=1.0)
    assert np.array_equal(found.seen, visible_after_occlusion(projection, CAMERA))
    assert not found.confidence[~found.seen].any()
    everything = visibility(projection, CAMERA, Margins(), hide=False)
    assert np.array_equal(everything.seen, projection.visible)


def test_confidence_is_the_product_of_its_three_parts() -> None:
    """A wall at 4 m with a board at 2 m: the doubts near its edge, behind it, and in motion."""
    v, u = np.mgrid[:48, :64]
    depth = np.where((np.abs(u - 31) < 8) & (np.abs(v - 23) < 8), 2.0, 4.0)
    points = np.stack([(u - 31.5) / 60 * depth, (v - 23.5) / 60 * depth, depth], axis=2)
    projection = project(points.reshape(-1, 3).astype(np.float32), CAMERA)
    margins = Margins(edge_px=6.0, motion_px=10.0)
    still = visibility(projection, CAMERA, margins, hide=False).confidence.reshape(48, 64)
    # Columns 38 | 39 are the board's last and the wall's first.
    assert still[23, [38, 39, 40, 43, 45, 60]].tolist() == [
        round(255 * (d + 0.5) / 6) if d < 5.5 else 255 for d in (0, 0, 1, 4, 6, 6)
    ]
    moving = visibility(projection, CAMERA, margins, hide=False, motion_m=0.2).confidence
    wall_px, board_px = 60 * 0.2 / 4, 60 * 0.2 / 2
    assert moving.reshape(48, 64)[2, 2] == round(255 / (1 + wall_px / 10))
    assert moving.reshape(48, 64)[23, 31] == round(255 / (1 + board_px / 10))


def test_points_halfway_to_the_margin_are_half_sure() -> None:
    points = np.array([[0, 0, 2.0], [0, 0, 2.05], [0, 0, 2.2]], np.float32)
    found = visibility(project(points, CAMERA), CAMERA, Margins(edge_px=0.5))
    assert found.seen.tolist() == [True, True, False]
    assert found.confidence[0] == 255
    assert found.confidence[1] == pytest.approx(255 * (1 - 0.05 / 0.1025), abs=1)


def road_and_car() -> tuple[np.ndarray, np.ndarray]:
    """32 scan lines 1.8 m above a road with a board 8 m ahead, and which points are its shadow's.

    The camera is 1.2 m below the LiDAR, so it cannot see all that the LiDAR sees behind the board.
    """
    elevation = np.deg2rad(np.linspace(-20, 6, 32))[:, None]
    azimuth = np.deg2rad(np.arange(-25, 25, 0.3))[None, :]
    ray = np.stack(np.broadcast_arrays(np.tan(azimuth), -np.tan(elevation), 1.0), axis=2)
    ray = ray.reshape(-1, 3)
    with np.errstate(divide="ignore"):
        road = np.where(ray[:, 1] > 0, 1.8 / ray[:, 1], 60.0)
    depth = np.minimum(road, 60.0)
    at_board = 8.0 * ray
    on_board = (np.abs(at_board[:, 0]) < 1) & (at_board[:, 1] > 0.3) & (at_board[:, 1] < 1.8)
    depth = np.where(on_board & (depth > 8.0), 8.0, depth)
    points = depth[:, None] * ray
    seen_from = points - (0, 1.2, 0)
    crossing = seen_from / np.maximum(seen_from[:, 2:], 1e-9) * 8.0 + (0, 1.2, 0)
    hidden = (points[:, 2] > 8.5) & (np.abs(crossing[:, 0]) < 1)
    hidden &= (crossing[:, 1] > 0.3) & (crossing[:, 1] < 1.8)
    return points.astype(np.float32), hidden


def test_sparse_visibility_removes_what_a_board_hides_and_keeps_the_road() -> None:
    points, hidden = road_and_car()
    camera = Camera(width=800, height=450, fx=600.0, fy=600.0, cx=399.5, cy=224.5)
    lower = np.eye(4)
    lower[1, 3] = -1.2
    projection = project(points, camera, lower)
    hidden &= projection.visible
    spacing = line_spacing_px(projection, camera)
    assert 5 < spacing < 16  # 0.84 degrees at 600 px
    found = visibility(projection, camera, Margins(), spacing_px=spacing)
    kept = found.seen & projection.visible
    assert hidden.sum() > 20
    assert kept[hidden].mean() < 0.2
    assert kept[projection.visible & ~hidden].mean() > 0.97
    naive = visible_after_occlusion(projection, camera, downscale=round(spacing))
    assert naive[projection.visible & ~hidden].mean() < kept[projection.visible & ~hidden].mean()


def test_line_spacing_of_dense_and_of_no_points() -> None:
    v, u = np.mgrid[:48, :64]
    grid = np.stack([(u - 31.5) / 60, (v - 23.5) / 60, np.ones(u.shape)], axis=2).reshape(-1, 3)
    assert line_spacing_px(project(grid.astype(np.float32), CAMERA), CAMERA) < 1.1
    assert line_spacing_px(project(-grid.astype(np.float32), CAMERA), CAMERA) == 0


def naive_line_spacing(projection: Projection) -> float:
    """Of points that fill an image of 48 rows, strip by strip."""
    uv = projection.pixel_uv[projection.visible].astype(np.float64)
    extent = np.ptp(np.percentile(uv, [1, 99], axis=0), axis=0)
    width = max(1.0, np.sqrt(extent[0] * extent[1] / len(uv)))
    strips = np.floor((uv[:, 0] + 0.5) / width)
    down = [np.diff(np.sort(uv[strips == strip, 1])) for strip in np.unique(strips)]
    gaps = np.sort(np.concatenate(down))
    gaps = gaps[gaps > 0]
    return min(gaps[np.searchsorted(np.cumsum(gaps), gaps.sum() / 2)], 12.0)


@pytest.mark.parametrize("seed", range(5))
def test_line_spacing_equals_the_naive_reference(seed: int) -> None:
    projection = scattered(seed, count=300 * (seed + 1))
    spacing = line_spacing_px(projection, CAMERA)
    assert spacing == pytest.approx(naive_line_spacing(projection), rel=1e-9)


@pytest.mark.parametrize(
    "options", [{"margin_m": -1.0}, {"margin_relative": -0.1}, {"edge_px": 0.0}, {"motion_px": 0.0}]
)
def test_impossible_margins_are_named(options: dict[str, float]) -> None:
    with pytest.raises(GeometryError, match=next(iter(options))):
        Margins(**options)


def test_a_projection_of_another_camera_is_refused() -> None:
    foreign = Projection(
        np.array([[64.0, 0.0]], np.float32), np.ones(1, np.float32), np.ones(1, np.bool_)
    )
    with pytest.raises(GeometryError, match="64 x 48"):
        visibility(foreign, CAMERA, Margins())
