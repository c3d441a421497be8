"""2D cells of points on the three coordinate planes, and nearest neighbours, for WaffleIron.

Puy, Boulch and Marlet, "Using a Waffle Iron for Automotive Point Cloud Semantic Segmentation",
ICCV 2023 (arXiv 2301.10100).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from p2pkit.errors import GeometryError
from p2pkit.geometry.students.preparation import Prepared

PLANES = ((0, 1), (0, 2), (1, 2))
"""Axes that remain of the projections along z, y and x."""


def inside_of(
    points: Float32[np.ndarray, "points 3"],
    low: tuple[float, ...],
    high: tuple[float, ...],
) -> Bool[np.ndarray, " points"]:
    """Whether each point lies strictly between `low` and `high` (m) on all axes."""
    return np.all((points > np.array(low)) & (points < np.array(high)), axis=1)


def plane_cells(
    points: Float32[np.ndarray, "points 3"],
    low: tuple[float, ...],
    high: tuple[float, ...],
    cells: tuple[int, int, int],
) -> Int64[np.ndarray, "points 3"]:
    """The 2D cell of each point in the projections along z, y and x: first axis · size + second.

    Args:
        points: x, y, z (m), inside the field of view.
        low: corner of the field of view (m).
        high: the opposite corner (m).
        cells: along x, y and z.
    """
    size = (np.array(high) - np.array(low)) / np.array(cells)
    index = ((points.astype(np.float64) - np.array(low)) / size).astype(np.int64)
    index = np.clip(index, 0, np.array(cells) - 1)
    return np.stack([index[:, a] * cells[b] + index[:, b] for a, b in PLANES], axis=1)


def nearest_points(
    points: Float32[np.ndarray, "points 3"], count: int
) -> Int64[np.ndarray, "points count"]:
    """Rows of each point's nearest others (m), nearest first; itself where there are no more."""
    # Takes a quarter of a second to import, which other students should not pay.
    from scipy.spatial import KDTree

    own = np.arange(len(points))
    found = np.repeat(own[:, None], count, axis=1)
    known = min(count, len(points) - 1)
    if known == 0:
        return found
    rows = np.asarray(KDTree(points).query(points, k=known + 1)[1], np.int64)
    # Of points at one place, another may come first: leave out itself wherever it stands.
    is_self = rows == own[:, None]
    is_self[~is_self.any(axis=1), -1] = True
    found[:, :known] = rows[~is_self].reshape(len(points), known)
    return found


@dataclass(frozen=True)
class PlanePreparation:
    """Neighbours and 2D cells of a frame's points, as a `Preparation`.

    It gives `inside`, the voxels in the field of view; for these `neighbours` (rows of `inside`)
    and `cells` on the three planes; and for all voxels `nearest`, the row of `inside` whose
    features they take.

    Args:
        low, high: field of view (m), in the axes of the points.
        cells: of the 2D grids along x, y and z.
        neighbours: of each point.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    cells: tuple[int, int, int]
    neighbours: int

    def of_frame(
        self,
        points: Float32[np.ndarray, "voxels 3"],
        coordinates: Int32[np.ndarray, "voxels 3"],
    ) -> Prepared:
        """See `Preparation`.

        Raises:
            GeometryError: no point is in the field of view.
        """
        from scipy.spatial import KDTree

        is_inside = inside_of(points, self.low, self.high)
        inside = np.flatnonzero(is_inside)
        if not len(inside):
            between = f"{points.min(axis=0).tolist()} and {points.max(axis=0).tolist()} m"
            raise GeometryError(
                f"no point of a frame is in the field of view, {self.low} to {self.high} m"
                + (f": they lie between {between}" if len(points) else ": it has no points")
                + "; set waffleiron.fov and waffleiron.cells, or another waffleiron.scene"
            )
        seen = points[inside]
        nearest = np.empty(len(points), np.int64)
        nearest[inside] = np.arange(len(inside))
        outside = np.flatnonzero(~is_inside)
        if len(outside):
            nearest[outside] = KDTree(seen).query(points[outside])[1]
        return {
            "inside": inside,
            "nearest": nearest,
            "neighbours": nearest_points(seen, self.neighbours),
            "cells": plane_cells(seen, self.low, self.high, self.cells),
        }

    def joined(self, frames: Sequence[Prepared]) -> Prepared:
        """See `Preparation`; each frame has a grid of its own on each plane."""
        sizes = np.array([self.cells[a] * self.cells[b] for a, b in PLANES])
        voxels = _starts([len(frame["nearest"]) for frame in frames])
        seen = _starts([len(frame["inside"]) for frame in frames])
        first: dict[str, list[np.ndarray]] = {
            "inside": voxels,
            "nearest": seen,
            "neighbours": seen,
            "cells": [number * sizes for number in range(len(frames))],
        }
        return {
            name: np.concatenate(
                [frame[name] + start for frame, start in zip(frames, starts, strict=True)]
            )
            for name, starts in first.items()
        }


def _starts(lengths: list[int]) -> list[np.ndarray]:
    """Where each of several consecutive parts begins, as arrays of one element."""
    return list(np.cumsum([0, *lengths[:-1]])[:, None])
