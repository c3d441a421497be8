"""Statistics of a recording's pairs: coverage, duplicates, distances, confidence."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from p2pkit.datasets.frame import Frame
from p2pkit.geometry.project import project
from p2pkit.geometry.voxelize import voxel_deduplicate
from p2pkit.layers.geometry import GeometryConfig, PointCloud, decode_geometry, encode_geometry

CELL_PX = 32
VOXEL_M, SPARSE_VOXEL_M = 0.025, 0.1
DISTANCE_EDGES_M = tuple(map(float, (0, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 80, 120, 250)))
CONFIDENCE_EDGES = (0, 26, 51, 77, 102, 128, 153, 179, 204, 230, 256)


@dataclass
class PairStatistics:
    """Sums over frames.

    Args:
        geometry: how an extraction would thin points and cut pairs.
        frames: that were counted.
        points: kept points.
        seen: points that a camera sees, also those too near to it for a pair.
        covered: points with at least one pair.
        pairs: of all views.
        in_view: points that project into a view, over all views, before the occlusion test.
        seen_by_view: pairs of each view.
        per_voxel, per_cell: how many pairs share an occupied voxel or teacher cell.
        depth, distance, confidence: histograms over the edges above.
    """

    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    frames: int = 0
    points: int = 0
    seen: int = 0
    covered: int = 0
    pairs: int = 0
    in_view: int = 0
    seen_by_view: dict[int, int] = field(default_factory=dict)
    per_voxel: list[float] = field(default_factory=list)
    per_cell: list[float] = field(default_factory=list)
    depth: np.ndarray = field(default_factory=lambda: np.zeros(len(DISTANCE_EDGES_M) - 1))
    distance: np.ndarray = field(default_factory=lambda: np.zeros(len(DISTANCE_EDGES_M) - 1))
    confidence: np.ndarray = field(default_factory=lambda: np.zeros(len(CONFIDENCE_EDGES) - 1))

    def add_frame(self, frame: Frame) -> None:
        """Count the pairs that `p2pkit extract` would store for a frame.

        Raises:
            FrameError: it would store none.
        """
        cloud = decode_geometry(encode_geometry(frame, self.geometry))
        projected = [
            project(cloud.points, view.camera, view.camera_from_sensor) for view in frame.views
        ]
        visible: Bool[np.ndarray, "views points"] = np.stack([p.visible for p in projected])
        depth: Float[np.ndarray, "views points"] = np.stack([p.depth_m for p in projected])
        self.in_view += int(visible.sum())
        sparse = frame.depth is None
        self.add_cloud(cloud, depth[cloud.pair_view, cloud.pair_point], sparse=sparse)

    def add_cloud(
        self, cloud: PointCloud, depth_m: Float[np.ndarray, "pairs"], *, sparse: bool
    ) -> None:
        """Count the pairs of a frame; `depth_m` is the depth of each in its view (m)."""
        self.frames += 1
        self.points += len(cloud.points)
        self.seen += int(cloud.seen.sum())
        self.covered += len(np.unique(cloud.pair_point))
        self.pairs += len(cloud.pair_point)
        for view, count in enumerate(
            np.bincount(cloud.pair_view, minlength=len(cloud.image_sizes)).tolist()
        ):
            self.seen_by_view[view] = self.seen_by_view.get(view, 0) + count
        if len(cloud.pair_point) == 0:
            return
        paired = cloud.points[cloud.pair_point]
        voxels = voxel_deduplicate(paired, SPARSE_VOXEL_M if sparse else VOXEL_M).voxel_of_point
        self.per_voxel.append(_mean_group(voxels))
        column, row = np.floor((cloud.pair_uv + 0.5) / CELL_PX).astype(np.int64).T
        view_of_pair = cloud.pair_view.astype(np.int64)
        self.per_cell.append(_mean_group((view_of_pair * 4096 + row) * 4096 + column))
        self.depth += np.histogram(depth_m, DISTANCE_EDGES_M)[0]
        self.distance += np.histogram(np.linalg.norm(paired, axis=1), DISTANCE_EDGES_M)[0]
        if cloud.pair_confidence is not None:
            self.confidence += np.histogram(cloud.pair_confidence, CONFIDENCE_EDGES)[0]

    def to_json(self) -> dict[str, Any]:
        """Shares, means and histograms."""
        removed = 1 - self.pairs / self.in_view if self.in_view else None
        return {
            "frames": self.frames,
            "points_per_frame": self.points / max(self.frames, 1),
            "pairs_per_frame": self.pairs / max(self.frames, 1),
            "seen": self.seen / max(self.points, 1),
            "covered": self.covered / max(self.seen, 1),
            "removed_by_occlusion": removed,
            "pairs_by_view": [self.seen_by_view[view] for view in sorted(self.seen_by_view)],
            "pairs_per_voxel": _mean(self.per_voxel),
            "pairs_per_cell": _mean(self.per_cell),
            "cell_px": CELL_PX,
            "depth_histogram": _shares(self.depth, DISTANCE_EDGES_M),
            "range_histogram": _shares(self.distance, DISTANCE_EDGES_M),
            "confidence_histogram": _shares(
                self.confidence, tuple(round(edge / 256, 1) for edge in CONFIDENCE_EDGES)
            ),
        }


def _mean_group(group: Int64[np.ndarray, " pairs"]) -> float:
    return len(group) / len(np.unique(group))


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _shares(counts: np.ndarray, edges: tuple[float, ...]) -> list[dict[str, float]]:
    total = max(float(counts.sum()), 1.0)
    rows = zip(edges[:-1], edges[1:], counts.tolist(), strict=True)
    return [{"from": low, "to": high, "share": count / total} for low, high, count in rows]
