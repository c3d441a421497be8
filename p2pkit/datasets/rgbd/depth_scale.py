"""Catches a wrong `depth_units_per_metre` before a recording is used.

Two checks, both on a handful of frames: the median depth must be one that a depth sensor gives,
and where there are poses with a useful baseline, warping one frame into another must not agree far
better with another common unit. The second catches 5000 for 1000, which the first cannot see.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Float64, UInt16

from p2pkit.datasets.image_files import read_pose
from p2pkit.datasets.rgbd.posed_files import FrameFiles
from p2pkit.errors import FrameError, SourceError
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.transforms import invert_rigid

MEDIAN_RANGE_M = (0.05, 100.0)
COMMON_UNITS = (1.0, 100.0, 256.0, 1000.0, 4000.0, 5000.0, 10000.0)
_RELATIVE = 0.02
# Another unit must reach the first, and the declared one stay below the second times that.
_GOOD_AGREEMENT, _BAD_RATIO = 0.65, 0.6
_BASELINE_M = (0.1, 0.6)
_MIN_COS_ROTATION = np.cos(np.deg2rad(25.0))
_PAIRS, _STEP = 3, 4
# Poses are looked at in runs of neighbours, since only these overlap in a long recording.
_RUNS, _RUN_LENGTH = 4, 60

ReadDepth = Callable[[FrameFiles], UInt16[np.ndarray, "height width"]]
Posed = tuple[FrameFiles, Float64[np.ndarray, "4 4"]]
Item = TypeVar("Item")


def check_depth_scale(frames: Sequence[FrameFiles], read_depth: ReadDepth) -> None:
    """Raise SourceError if the frames' depth contradicts `depth_units_per_metre`.

    Bad frames are skipped here: each becomes a row of its own when it is loaded. Of many sequences
    the first, middle and last are looked at.
    """
    sequences: dict[str, list[FrameFiles]] = {}
    for files in frames:
        sequences.setdefault(files.sequence, []).append(files)
    for sequence in _spread(list(sequences.values()), 3):
        _check_median(sequence, read_depth)
        _check_agreement(sequence, read_depth)


def depth_agreement(
    depth_i: Float64[np.ndarray, "height width"],
    depth_j: Float64[np.ndarray, "height width"],
    camera: Camera,
    j_from_i: Float64[np.ndarray, "4 4"],
) -> float:
    """Share of frame i's points, seen from frame j, whose depth is j's to within 2 %.

    Counted over every 4th pixel whose point falls on a valid pixel of j; NaN if under 100 do.
    Points that are occluded in j count as disagreement, so even a perfect pair stays under 1.
    """
    v, u = np.nonzero(depth_i[::_STEP, ::_STEP])
    v, u = v * _STEP, u * _STEP
    z = depth_i[v, u]
    points = np.stack([(u - camera.cx) / camera.fx * z, (v - camera.cy) / camera.fy * z, z], axis=1)
    x, y, z = (points @ j_from_i[:3, :3].T + j_from_i[:3, 3]).T
    front = z > 0.01 * np.median(depth_i[v, u])
    x, y, z = x[front], y[front], z[front]
    column = np.round(x / z * camera.fx + camera.cx)
    row = np.round(y / z * camera.fy + camera.cy)
    inside = (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    seen = depth_j[row[inside].astype(np.intp), column[inside].astype(np.intp)]
    close = np.abs(seen - z[inside]) < _RELATIVE * seen
    measured = int(np.count_nonzero(seen))
    return float(close.sum() / measured) if measured >= 100 else float("nan")


def _check_median(frames: Sequence[FrameFiles], read_depth: ReadDepth) -> None:
    medians: list[float] = []
    for files in _spread(frames, 3):
        try:
            values = read_depth(files)
        except FrameError:
            continue
        medians.append(float(np.median(values[values > 0])) / files.calibration.units_per_metre)
    if not medians:
        return
    median, (low, high) = float(np.median(medians)), MEDIAN_RANGE_M
    if not low < median < high:
        raise SourceError(
            f"{_where(frames)}: depth_units_per_metre is "
            f"{frames[0].calibration.units_per_metre:g}, which puts the median depth of "
            f"{len(medians)} frames at {median:g} m; plausible is {low:g} to {high:g} m. Correct "
            "depth_units_per_metre in camera.json"
        )


def _check_agreement(frames: Sequence[FrameFiles], read_depth: ReadDepth) -> None:
    rows: list[list[float]] = []
    declared = frames[0].calibration.units_per_metre
    units = [declared, *(unit for unit in COMMON_UNITS if unit != declared)]
    for (first, world_from_i), (second, world_from_j) in _pairs_with_baseline(frames):
        try:
            depth_i, depth_j = (read_depth(files).astype(np.float64) for files in (first, second))
        except FrameError:
            continue
        j_from_i = invert_rigid(world_from_j) @ world_from_i
        camera = first.calibration.depth
        rows.append(
            [depth_agreement(depth_i / unit, depth_j / unit, camera, j_from_i) for unit in units]
        )
    if not rows:
        return
    agreement = np.median(np.nan_to_num(np.array(rows)), axis=0)
    best = int(np.argmax(agreement))
    if agreement[best] >= _GOOD_AGREEMENT and agreement[0] < _BAD_RATIO * agreement[best]:
        raise SourceError(
            f"{_where(frames)}: depth_units_per_metre is {declared:g}, but through their poses "
            f"{len(rows)} pairs of frames agree on {agreement[0]:.0%} of their depths with it "
            f"and on {agreement[best]:.0%} with {units[best]:g}. Correct depth_units_per_metre, or "
            "pose, in camera.json"
        )


def _pairs_with_baseline(frames: Sequence[FrameFiles]) -> list[tuple[Posed, Posed]]:
    """The pairs whose motion along the optical axis, which scale changes most, is largest."""
    scored: list[tuple[float, tuple[Posed, Posed]]] = []
    for start in _spread(range(max(1, len(frames) - _RUN_LENGTH + 1)), _RUNS):
        posed = _read_poses(frames[start : start + _RUN_LENGTH])
        for gap in (1, 2, 4, 8, 16):
            for first, second in zip(posed, posed[gap:], strict=False):
                motion = invert_rigid(second[1]) @ first[1]
                baseline = float(np.linalg.norm(motion[:3, 3]))
                turned = (np.trace(motion[:3, :3]) - 1) / 2 < _MIN_COS_ROTATION
                if _BASELINE_M[0] < baseline < _BASELINE_M[1] and not turned:
                    scored.append((abs(float(motion[2, 3])), (first, second)))
    scored.sort(key=lambda item: -item[0])
    return _without_repeats([pair for _, pair in scored])[:_PAIRS]


def _read_poses(frames: Sequence[FrameFiles]) -> list[Posed]:
    """The frames with depth and a good pose."""
    posed: list[Posed] = []
    for files in frames:
        if files.pose is None or files.depth is None:
            continue
        try:
            pose = files.calibration.world_from_depth(read_pose(files.pose, files.key))
        except FrameError:
            continue
        if pose is not None:
            posed.append((files, pose))
    return posed


def _without_repeats(pairs: list[tuple[Posed, Posed]]) -> list[tuple[Posed, Posed]]:
    """The pairs in order, each frame used at most once, so that one bad pose decides nothing."""
    used: set[str] = set()
    kept: list[tuple[Posed, Posed]] = []
    for pair in pairs:
        keys = {pair[0][0].key, pair[1][0].key}
        if not keys & used:
            used |= keys
            kept.append(pair)
    return kept


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """Up to `count` items, evenly spaced, the first and the last among them."""
    indices = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[int(index)] for index in indices]


def _where(frames: Sequence[FrameFiles]) -> str:
    return f"sequence {frames[0].sequence}"
