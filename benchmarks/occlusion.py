"""Does the occlusion test remove the right pairs? Checked with PandaSet's point labels and images.

Labels: how often the label of a hidden, and of a kept, point differs from that of the nearest kept
point in the image. Images: a point that another sweep sees, too (a point of the same label within
10 cm, in world coordinates, kept there), has two colours; if this sweep's pixel shows something
else, they differ. Both are given for hidden and for kept points, and for the plain z-buffer with a
splat as wide.

Example: python benchmarks/occlusion.py --sweeps 4
"""

import os
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from scipy.spatial import KDTree

from p2pkit.datasets.frame import Frame, SourceOptions, View
from p2pkit.datasets.registry import open_source
from p2pkit.geometry.confidence import Margins, line_spacing_px, visibility
from p2pkit.geometry.project import project, visible_after_occlusion
from p2pkit.geometry.transforms import transform_points

SAME_POINT_M = 0.1
DEFAULT_DATA = Path(__file__).parents[2] / "shared" / "data"
TESTS = ("two opposite sides", "plain splat")


class Seen(NamedTuple):
    """Points of one sweep that project into its views, one row per point and view."""

    world: np.ndarray
    label: np.ndarray
    neighbour: np.ndarray
    color: np.ndarray
    kept: np.ndarray


def look(frame: Frame, view: View) -> dict[str, Seen]:
    """The points that project into a view, by test."""
    assert frame.points is not None
    assert frame.labels is not None
    assert frame.world_from_sensor is not None
    world = transform_points(frame.world_from_sensor, frame.points)
    projection = project(frame.points, view.camera, view.camera_from_sensor)
    spacing = line_spacing_px(projection, view.camera)
    kept = {
        TESTS[0]: visibility(projection, view.camera, Margins(), spacing_px=spacing).seen,
        TESTS[1]: visible_after_occlusion(
            projection, view.camera, downscale=max(round(spacing / 2), 1)
        ),
    }
    rows = np.flatnonzero(projection.visible)
    uv = projection.pixel_uv[rows]
    pixel = np.rint(uv).astype(np.int64)
    color = view.image[pixel[:, 1], pixel[:, 0]].astype(np.float64)
    found: dict[str, Seen] = {}
    for name, seen in kept.items():
        mine = seen[rows]
        anchors = np.flatnonzero(mine)
        # A kept point's nearest is itself: take the second.
        nearest = np.asarray(KDTree(uv[anchors]).query(uv, k=2)[1])
        choice = anchors[np.where(mine, nearest[:, 1], nearest[:, 0])]
        label = frame.labels[rows]
        found[name] = Seen(world[rows], label, label[choice], color, mine)
    return found


def color_differences(one: Seen, other: Seen) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `one` that `other` sees, too, and the distance of the two colours (0 … 441)."""
    anchors = np.flatnonzero(other.kept)
    found = KDTree(other.world[anchors]).query(one.world, distance_upper_bound=SAME_POINT_M)
    distance, nearest = (np.asarray(part) for part in found)
    rows = np.flatnonzero(np.isfinite(distance))
    match = anchors[nearest[rows]]
    same = one.label[rows] == other.label[match]
    rows, match = rows[same], match[same]
    return rows, np.linalg.norm(one.color[rows] - other.color[match], axis=1)


def report(sweeps: list[Seen], names: list[str]) -> list[str]:
    """The figures of one test."""
    joined = Seen(*(np.concatenate(fields) for fields in zip(*sweeps, strict=True)))
    hidden, differs = ~joined.kept, joined.label != joined.neighbour
    colors: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for one, other in permutations(sweeps, 2):
        rows, difference = color_differences(one, other)
        for kept in (True, False):
            colors[kept].append(difference[one.kept[rows] == kept])
    apart = {kept: np.concatenate(parts) for kept, parts in colors.items()}
    lines = [
        f"hidden: {100 * hidden.mean():.1f} % of {len(hidden):,} points in an image",
        f"label differs from the nearest kept point's: hidden {100 * differs[hidden].mean():.1f} "
        f"%, kept {100 * differs[~hidden].mean():.1f} %",
        f"median distance of the colours in two sweeps: hidden {np.median(apart[False]):.0f} "
        f"({len(apart[False]):,} points), kept {np.median(apart[True]):.0f} ({len(apart[True]):,})",
    ]
    for label in np.argsort(-np.bincount(joined.label))[:6]:
        mine = joined.label == label
        lines.append(f"    {names[label]:<24} hidden {100 * hidden[mine].mean():5.1f} %")
    return lines


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=os.environ.get("P2PKIT_DATA", str(DEFAULT_DATA)),
    help="Folder of the recordings; $P2PKIT_DATA by default.",
)
@click.option("--sweeps", default=4, show_default=True, help="Number of sweeps, the last ones.")
def main(data: Path, sweeps: int) -> None:
    """Print the figures of both tests."""
    source = open_source("pandaset", SourceOptions(root=data / "pandaset"))
    found: dict[str, list[Seen]] = {name: [] for name in TESTS}
    for key in source.keys()[-sweeps:]:
        frame = source.load(key)
        looks = [look(frame, view) for view in frame.views]
        for name, parts in found.items():
            views = [one[name] for one in looks]
            parts.append(Seen(*(np.concatenate(fields) for fields in zip(*views, strict=True))))
    for name, parts in found.items():
        click.echo(name)
        click.echo("\n".join(f"  {line}" for line in report(parts, list(source.label_names or ()))))


if __name__ == "__main__":
    main()
