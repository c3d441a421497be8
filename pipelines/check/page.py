"""The page and the pictures of a check."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from p2pkit.alignment.shifts import Profile
from p2pkit.datasets.frame import View
from p2pkit.layers.geometry import PointCloud
from p2pkit.pipelines.report.html import definitions, figures, page, table
from p2pkit.pipelines.report.pictures import depth_colors

Picture = UInt8[np.ndarray, "height width 3"]
OVERLAY_WIDTH = 800
WIDTH, HEIGHT, LEFT, FOOT = 360, 190, 46, 30
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
    report: Mapping[str, Any], profiles: Sequence[Profile], overlays: Mapping[str, Picture]
) -> str:
    """The whole page, which needs nothing from outside."""
    tests: list[dict[str, Any]] = report["tests"]
    rows = [
        [test["test"], OUTCOMES[test["outcome"]], test["fault"] or "–", test["reason"]]
        for test in tests
    ]
    title = f"p2pkit check: {report['source']}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="box">{escape(summary_line(report))}</p>',
        "<h2>Tests</h2>",
        _text_table(["test", "outcome", "likely fault", "why"], rows),
        *_profile_section(profiles),
        "<h2>Overlays</h2>",
        '<p class="soft">Each pair at its pixel, dark near, bright far. The outlines of things '
        "in the picture and in the points should be the same.</p>",
        figures(overlays) if overlays else "<p>A store keeps no images.</p>",
        *_statistics_section(report["statistics"]),
    ]
    return page(title, body)


def summary_line(report: Mapping[str, Any]) -> str:
    """One sentence for the page and the command line."""
    frames = f"{len(report['frames'])} frames"
    if report["outcome"] == "fail":
        faults = ", ".join(report["faults"]) or "none of the known faults"
        return f"{frames}: do not trust these pairs; likely fault: {faults}"
    if report["outcome"] == "cannot tell":
        return f"{frames}: nothing wrong was found, but some tests had too little to go by"
    return f"{frames}: the pairs can be trusted as far as these tests see"


def _text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in header)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _profile_section(profiles: Sequence[Profile]) -> list[str]:
    if not profiles:
        return []
    return [
        "<h2>Shift test</h2>",
        '<p class="soft">How well edges of the geometry fall on edges of the images as the pixels '
        "are displaced or the points turned. 0 is chance; the peak should be at 0.</p>",
        f'<div class="row">{"".join(map(_profile_figure, profiles))}</div>',
    ]


def _profile_figure(profile: Profile) -> str:
    steps, scores = np.array(profile.steps), np.array(profile.scores)
    low, high = min(0.0, float(scores.min())), max(float(scores.max()), 0.01) * 1.05
    across = (WIDTH - LEFT - 8) / (steps[-1] - steps[0])
    x = LEFT + (steps - steps[0]) * across
    y = 8 + (high - scores) / (high - low) * (HEIGHT - FOOT - 8)
    zero_x, zero_y = LEFT - steps[0] * across, 8 + high / (high - low) * (HEIGHT - FOOT - 8)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    labels = "".join(
        f'<text x="{place:.0f}" y="{HEIGHT - 12}" text-anchor="{anchor}">{value:g}</text>'
        for place, anchor, value in (
            (x[0], "start", steps[0]),
            (zero_x, "middle", 0),
            (x[-1], "end", steps[-1]),
        )
    )
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{profile.name}">'
        f'<path d="M{LEFT} {zero_y:.1f}H{WIDTH - 8}" stroke="var(--line)"/>'
        f'<path d="M{zero_x:.1f} 8V{HEIGHT - FOOT}" stroke="var(--second)" stroke-dasharray="4 4"/>'
        f'<polyline points="{points}" fill="none" stroke="var(--accent)" stroke-width="2"/>'
        f'<text x="{LEFT - 6}" y="16" text-anchor="end">{high:.2f}</text>{labels}</svg>'
        f"<figcaption>{escape(profile.name)} ({escape(profile.unit)})</figcaption></figure>"
    )


def _statistics_section(statistics: Mapping[str, Any]) -> list[str]:
    removed = statistics["removed_by_occlusion"]
    facts = {
        "frames counted": f"{statistics['frames']}",
        "points per frame": f"{statistics['points_per_frame']:,.0f}",
        "pairs per frame": f"{statistics['pairs_per_frame']:,.0f}",
        "points with a pair": f"{100 * statistics['covered']:.1f} %",
        "removed by the occlusion test": "unknown" if removed is None else f"{100 * removed:.1f} %",
        "pairs by view": ", ".join(f"{count:,}" for count in statistics["pairs_by_view"]),
        "pairs per occupied voxel": _number(statistics["pairs_per_voxel"]),
        f"pairs per cell of {statistics['cell_px']} px": _number(statistics["pairs_per_cell"]),
    }
    parts = ["<h2>Pairs</h2>", definitions(facts)]
    for name, unit in (("depth", "m"), ("range", "m"), ("confidence", "")):
        rows = [
            [f"{row['from']:g} – {row['to']:g} {unit}".strip(), f"{100 * row['share']:.1f} %"]
            for row in statistics[f"{name}_histogram"]
            if row["share"] > 0
        ]
        parts += [f"<h2>{name.capitalize()}</h2>", table([name, "pairs"], rows)]
    return parts


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f}"
