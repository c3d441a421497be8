"""The page and the pictures of a check."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup
from PIL import Image

from p2pkit.alignment.shifts import Profile
from p2pkit.datasets.frame import View
from p2pkit.errors import counted
from p2pkit.layers.geometry import PointCloud
from p2pkit.pipelines.report.figures import histogram, profile
from p2pkit.pipelines.report.page import captioned, render
from p2pkit.pipelines.report.pictures import depth_colors

Picture = UInt8[np.ndarray, "height width 3"]
OVERLAY_WIDTH = 800
OUTCOMES = {"pass": "passed", "fail": "FAILED", "cannot tell": "cannot tell"}


def overlay(view: View, cloud: PointCloud, number: int, depth_m: np.ndarray) -> Picture:
    """The image, darkened, with each pair's pixel coloured by depth: dark near, bright far."""
    width = min(OVERLAY_WIDTH, view.camera.width)
    scale = width / view.camera.width
    size = (width, max(round(view.camera.height * scale), 1))
    image = Image.fromarray(view.image).resize(size, Image.Resampling.BOX)
    picture = (np.asarray(image) * 0.45 + 90).astype(np.uint8)
    picture = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    rows = cloud.pair_view == number
    if not rows.any():
        return picture
    near, far = np.percentile(depth_m[rows], [2, 98])
    colors = depth_colors(depth_m[rows], float(near), float(far))
    far_to_near = np.argsort(-depth_m[rows], kind="stable")
    uv = np.rint((cloud.pixels[rows][far_to_near] + 0.5) * scale - 0.5).astype(np.int64)
    u, v = np.clip(uv, 0, np.subtract(size, 1)).T
    picture[v, u] = colors[far_to_near]
    if rows.sum() < 0.1 * size[0] * size[1]:
        right, below = np.minimum(u + 1, size[0] - 1), np.minimum(v + 1, size[1] - 1)
        for rows_v, columns_u in ((v, right), (below, u), (below, right)):
            picture[rows_v, columns_u] = colors[far_to_near]
    return picture


def check_page(
    report: Mapping[str, Any], curves: Sequence[Profile], overlays: Mapping[str, Picture]
) -> str:
    """The whole page, which loads nothing else."""
    statistics: Mapping[str, Any] = report["statistics"]
    return render(
        "check.html",
        name=Path(report["source"]).name or report["source"],
        report=report,
        outcomes=OUTCOMES,
        summary=summary_line(report),
        profiles=[
            profile(curve.steps, curve.scores, name=curve.name, unit=curve.unit) for curve in curves
        ],
        overlays=captioned(overlays),
        facts=_pair_facts(statistics),
        histograms=_histograms(statistics),
    )


def summary_line(report: Mapping[str, Any]) -> str:
    """One sentence for the page and the command line."""
    frames = counted(len(report["frames"]), "frame")
    if report["outcome"] == "fail":
        faults = ", ".join(report["faults"]) or "none of the known faults"
        return f"{frames}: do not trust these pairs; likely fault: {faults}"
    if report["outcome"] == "cannot tell":
        return f"{frames}: no fault was found, but some tests had too little data"
    return f"{frames}: no fault was found by these tests; the pairs can be trusted"


def _pair_facts(statistics: Mapping[str, Any]) -> dict[str, str]:
    removed = statistics["removed_by_occlusion"]
    return {
        "Frames": f"{statistics['frames']}",
        "Points per frame": f"{statistics['points_per_frame']:,.0f}",
        "Pairs per frame": f"{statistics['pairs_per_frame']:,.0f}",
        "Points seen by a camera": f"{100 * statistics['seen']:.1f} %",
        "Seen points with a pair": f"{100 * statistics['covered']:.1f} %",
        "Removed by the occlusion test": "unknown" if removed is None else f"{100 * removed:.1f} %",
        "Pairs by view": ", ".join(f"{count:,}" for count in statistics["pairs_by_view"]) or "none",
        "Pairs per occupied voxel": _number(statistics["pairs_per_voxel"]),
        f"Pairs per cell of {statistics['cell_px']} px": _number(statistics["pairs_per_cell"]),
    }


def _histograms(statistics: Mapping[str, Any]) -> list[Markup]:
    """Histograms of depth, range and confidence, without empty bins."""
    drawn: list[Markup] = []
    for name, label in (("depth", "depth, m"), ("range", "range, m"), ("confidence", "confidence")):
        rows = [row for row in statistics[f"{name}_histogram"] if row["share"] > 0]
        if rows:
            names = [f"{row['from']:g} – {row['to']:g}" for row in rows]
            drawn.append(histogram(names, [row["share"] for row in rows], label=label))
    return drawn


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f}"
