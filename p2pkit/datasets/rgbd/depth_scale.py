"""Catch wrong depth units before a recording is used, for every reader of depth images.

Two checks, both on a handful of frames: the median depth must be plausible for a depth sensor,
and where there are poses with a useful baseline, warping one frame into another must not agree far
better with another common unit. The second catches 5000 for 1000, which the first cannot see.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float64

from p2pkit.datasets.frame import DepthImage
from p2pkit.datasets.listing import ListedFrame
from p2pkit.errors import SourceError
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.transforms import invert_rigid
from p2pkit.sampling import evenly_spread

MEDIAN_RANGE_M = (0.05, 100.0)
COMMON_UNITS = (1.0, 100.0, 256.0, 1000.0, 4000.0, 5000.0, 10000.0)
# The median depth of rooms and streets, to suggest a unit.
LIKELY_MEDIAN_M = (0.3, 30.0)
_RELATIVE = 0.02
# Another unit must reach the first, and the declared one stay below the second times that.
_GOOD_AGREEMENT, _BAD_RATIO = 0.65, 0.6
_BASELINE_M = (0.1, 0.6)
_MIN_COS_ROTATION = np.cos(np.deg2rad(25.0))
_PAIRS, _STEP = 3, 4
# Poses are compared in runs of neighbours, since only these overlap in a long recording.
_RUNS, _RUN_LENGTH = 4, 60


@dataclass(frozen=True)
class DepthProbe:
    """A frame whose depth and pose can be read without the rest of it.

    Args:
        key, sequence: as in `Frame`.
        depth: reads the depth image; raises SourceError where the frame is bad.
        pose: reads world_from_depth; None without one; raises SourceError where it is bad.
    """

    key: str
    sequence: str
    depth: Callable[[], DepthImage]
    pose: Callable[[], Float64[np.ndarray, "4 4"] | None]


@runtime_checkable
class ProbesDepth(Protocol):
    """A source whose depth units can be checked."""

    def depth_probes(self) -> Sequence[DepthProbe]:
        """The frames to check, in recording order."""
        ...


Item = TypeVar("Item")


def probes_of(
    frames: Iterable[ListedFrame],
    depth: Callable[[ListedFrame], DepthImage],
    pose: Callable[[ListedFrame], Float64[np.ndarray, "4 4"] | None] = lambda _: None,
) -> list[DepthProbe]:
    """Probes of listed frames, of which `depth` and `pose` read one."""
    return [
        DepthProbe(one.key, one.sequence, partial(depth, one), partial(pose, one)) for one in frames
    ]


Posed = tuple[DepthProbe, Float64[np.ndarray, "4 4"]]


def check_depth_scale(probes: Sequence[DepthProbe]) -> None:
    """Raise SourceError if the frames' depth contradicts their units.

    The message gives the factor and the option that corrects it. Bad frames are skipped here: each
    is reported when it is loaded. With many sequences the first, middle and last are checked.
    """
    sequences: dict[str, list[DepthProbe]] = {}
    for probe in probes:
        sequences.setdefault(probe.sequence, []).append(probe)
    for sequence in _spread(list(sequences.values()), 3):
        _check_median(sequence)
        _check_agreement(sequence)


def depth_agreement(
    depth_i: Float64[np.ndarray, "height width"],
    depth_j: Float64[np.ndarray, "height width"],
    camera: Camera,
    j_from_i: Float64[np.ndarray, "4 4"],
) -> float:
    """Share of frame i's points, seen from frame j, whose depth is j's to within 2 %.

    Counted over every 4th pixel whose point falls on a valid pixel of j; NaN if under 100 do.
    Points that are occluded in j are counted as disagreement, so even a perfect pair stays under 1.
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


def _check_median(probes: Sequence[DepthProbe]) -> None:
    medians: list[float] = []
    declared = 0.0
    for probe in _spread(probes, 3):
        try:
            depth = probe.depth()
        except SourceError:
            continue
        declared = depth.units_per_metre
        medians.append(float(np.median(depth.values[depth.values > 0])))
    if not medians:
        return
    median, (low, high) = float(np.median(medians)), MEDIAN_RANGE_M
    if low < median / declared < high:
        return
    least, most = LIKELY_MEDIAN_M
    fitting = [unit for unit in COMMON_UNITS if least < median / unit < most]
    raise SourceError(
        f"{_where(probes)}: depth_units_per_metre is {declared:g}, which puts the median depth of "
        f"{len(medians)} frames at {median / declared:g} m; expected {low:g} to {high:g} m. "
        + _mending([1000.0] if 1000.0 in fitting else fitting, declared)
    )


def _check_agreement(probes: Sequence[DepthProbe]) -> None:
    rows: list[list[float]] = []
    units: list[float] = []
    for (first, world_from_i), (second, world_from_j) in _pairs_with_baseline(probes):
        try:
            depths = first.depth(), second.depth()
        except SourceError:
            continue
        declared = depths[0].units_per_metre
        units = [declared, *(unit for unit in COMMON_UNITS if unit != declared)]
        depth_i, depth_j = (depth.values.astype(np.float64) for depth in depths)
        j_from_i = invert_rigid(world_from_j) @ world_from_i
        camera = depths[0].camera
        if depth_i.shape == depth_j.shape:
            rows.append(
                [
                    depth_agreement(depth_i / unit, depth_j / unit, camera, j_from_i)
                    for unit in units
                ]
            )
    if not rows:
        return
    agreement = np.median(np.nan_to_num(np.array(rows)), axis=0)
    best = int(np.argmax(agreement))
    if agreement[best] >= _GOOD_AGREEMENT and agreement[0] < _BAD_RATIO * agreement[best]:
        raise SourceError(
            f"{_where(probes)}: depth_units_per_metre is {units[0]:g}, with which {len(rows)} "
            f"pairs of posed frames agree on {agreement[0]:.0%} of their depths; with "
            f"{units[best]:g} they agree on {agreement[best]:.0%}. "
            + _mending(units[best : best + 1], units[0])
        )


def _mending(units: Sequence[float], declared: float) -> str:
    """The factor and the option for each possible unit."""
    options = " or ".join(
        f"--depth-units {unit:g} (depths become {declared / unit:g} times as large)"
        for unit in units
    )
    return f"Give {options or '--depth-units N, the units per metre'}, or correct the recording"


def _pairs_with_baseline(probes: Sequence[DepthProbe]) -> list[tuple[Posed, Posed]]:
    """The pairs whose motion along the optical axis, which scale changes most, is largest."""
    scored: list[tuple[float, tuple[Posed, Posed]]] = []
    for start in _spread(range(max(1, len(probes) - _RUN_LENGTH + 1)), _RUNS):
        posed = _read_poses(probes[start : start + _RUN_LENGTH])
        for gap in (1, 2, 4, 8, 16):
            for first, second in zip(posed, posed[gap:], strict=False):
                motion = invert_rigid(second[1]) @ first[1]
                baseline = float(np.linalg.norm(motion[:3, 3]))
                turned = (np.trace(motion[:3, :3]) - 1) / 2 < _MIN_COS_ROTATION
                if _BASELINE_M[0] < baseline < _BASELINE_M[1] and not turned:
                    scored.append((abs(float(motion[2, 3])), (first, second)))
    scored.sort(key=lambda item: -item[0])
    return _without_repeats([pair for _, pair in scored])[:_PAIRS]


def _read_poses(probes: Sequence[DepthProbe]) -> list[Posed]:
    """The frames with a good pose."""
    posed: list[Posed] = []
    for probe in probes:
        try:
            pose = probe.pose()
        except SourceError:
            continue
        if pose is not None:
            posed.append((probe, pose))
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
    """Up to `count` items, evenly spread, the first and the last among them."""
    return [items[index] for index in evenly_spread(len(items), count).tolist()]


def _where(probes: Sequence[DepthProbe]) -> str:
    return f"sequence {probes[0].sequence}"
