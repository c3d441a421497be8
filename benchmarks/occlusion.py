"""Does the occlusion test remove the right pairs? Asked of PandaSet's point labels and its images.

For each sweep and camera: the share of points in the image that the test hides; how often the label
of a hidden, and of a kept, point differs from that of the nearest kept point in the image; and
whether the pixel's colour is more likely for the point's own label or for that neighbour's, by
colour histograms of the other sweeps. The same for the plain z-buffer with a splat as wide.

Example: python benchmarks/occlusion.py --sweeps 4
"""

import os
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from scipy.spatial import KDTree

from p2pkit.datasets import SourceOptions, open_source
from p2pkit.datasets.frame import Frame, View
from p2pkit.geometry.confidence import Margins, line_spacing_px, visibility
from p2pkit.geometry.project import project, visible_after_occlusion

BINS = 8
DEFAULT_DATA = Path(__file__).parents[2] / "shared" / "data"
TESTS = ("two opposite sides", "plain splat")


class Seen(NamedTuple):
    """Points of one view: label, neighbour's label, colour bin, and whether each test keeps it."""

    label: np.ndarray
    neighbour: np.ndarray
    color: np.ndarray
    kept: np.ndarray


def look(frame: Frame, view: View) -> dict[str, Seen]:
    """The points that project into a view, by test."""
    assert frame.points is not None
    assert frame.labels is not None
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
    color = (view.image[pixel[:, 1], pixel[:, 0]] // (256 // BINS)).astype(np.int64)
    color = (color[:, 0] * BINS + color[:, 1]) * BINS + color[:, 2]
    found: dict[str, Seen] = {}
    for name, seen in kept.items():
        mine = seen[rows]
        anchors = np.flatnonzero(mine)
        # A kept point's nearest is itself: take its second.
        nearest = KDTree(uv[anchors]).query(uv, k=2)[1]
        choice = anchors[np.where(mine, nearest[:, 1], nearest[:, 0])]
        label = frame.labels[rows]
        found[name] = Seen(label, label[choice], color, mine)
    return found


def histograms(looks: list[Seen], classes: int) -> np.ndarray:
    """Log probability of each colour for each class, from kept points."""
    counts = np.full((classes, BINS**3), 0.05)
    for one in looks:
        np.add.at(counts, (one.label[one.kept], one.color[one.kept]), 1)
    return np.log(counts / counts.sum(axis=1, keepdims=True))


def report(sweeps: list[list[Seen]], names: list[str]) -> list[str]:
    """The figures of one test."""
    fits: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for number, looks in enumerate(sweeps):
        others = [one for k, part in enumerate(sweeps) if k != number for one in part]
        logs = histograms(others, len(names))
        for one in looks:
            own = logs[one.label, one.color] - logs[one.neighbour, one.color]
            for kept in (True, False):
                fits[kept].append(own[(one.kept == kept) & (one.label != one.neighbour)] > 0)
    joined = Seen(*(np.concatenate(f) for f in zip(*sum(sweeps, []), strict=True)))
    hidden = ~joined.kept
    differs = joined.label != joined.neighbour
    lines = [
        f"hidden: {100 * hidden.mean():.1f} % of {len(hidden):,} points in an image",
        f"label differs from the nearest kept point's: hidden {100 * differs[hidden].mean():.1f} %, "
        f"kept {100 * differs[~hidden].mean():.1f} %",
        "of those, colour suits the point's own label better: "
        f"hidden {100 * np.concatenate(fits[False]).mean():.1f} %, "
        f"kept {100 * np.concatenate(fits[True]).mean():.1f} %",
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
@click.option("--sweeps", default=4, show_default=True)
def main(data: Path, sweeps: int) -> None:
    """Print the figures of both tests."""
    source = open_source("pandaset", SourceOptions(root=data / "pandaset"))
    keys = source.keys()
    chosen = np.unique(np.linspace(0, len(keys) - 1, sweeps).round().astype(int))
    found: dict[str, list[list[Seen]]] = {name: [] for name in TESTS}
    for row in chosen:
        frame = source.load(keys[row])
        looks = [look(frame, view) for view in frame.views]
        for name, parts in found.items():
            parts.append([one[name] for one in looks])
    for name, parts in found.items():
        click.echo(name)
        click.echo("\n".join(f"  {line}" for line in report(parts, list(source.label_names or ()))))


if __name__ == "__main__":
    main()
