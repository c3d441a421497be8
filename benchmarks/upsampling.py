"""Bilinear against joint bilateral upsampling of a teacher's map, on labelled NYUv2 frames; and
bilinear with the map moved by parts of a stride, which shows where the cells should be.

A linear probe is fitted on the teacher's own features at random labelled pixels of one half of the
scenes and scored on the other half, over all pixels and over those near a boundary of labels. The
difference to bilinear is paired over the scored scenes, with its 95 % interval by Student's t.

Example: python benchmarks/upsampling.py NYUV2 --frames 200
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from scipy.ndimage import distance_transform_edt

from p2pkit.datasets.frame import Frame, SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.evaluation.intervals import paired_difference
from p2pkit.evaluation.label_sets import IGNORE, LabelSet, open_label_set
from p2pkit.evaluation.linear_probe import fit_linear_probe
from p2pkit.evaluation.segmentation import (
    SegmentationScores,
    confusion_matrix,
    segmentation_scores,
)
from p2pkit.geometry.maps.grid import FeatureGrid
from p2pkit.geometry.maps.joint_bilateral import JointBilateral, sample_joint_bilateral
from p2pkit.geometry.maps.sample_map import sample_map
from p2pkit.teachers import TeacherOptions, open_teacher

FITTED, SCORED, TIMED = 300, 1000, 16384
MOVED = (-0.75, -0.5, -0.25, 0.25)
Upsampler = Callable[[np.ndarray, FeatureGrid, np.ndarray, np.ndarray], np.ndarray]


def bilinear(
    feature_map: np.ndarray, grid: FeatureGrid, image: np.ndarray, pixel_uv: np.ndarray
) -> np.ndarray:
    """As by readers of a `grid` layer."""
    return sample_map(feature_map, grid.cell_from_pixel(pixel_uv, (image.shape[1], image.shape[0])))


def joint_bilateral(range_sigma: float) -> Upsampler:
    """With the other weights at their defaults."""
    weights = JointBilateral(range_sigma)

    def upsample(
        feature_map: np.ndarray, grid: FeatureGrid, image: np.ndarray, pixel_uv: np.ndarray
    ) -> np.ndarray:
        return sample_joint_bilateral(feature_map, grid, image, pixel_uv, weights)

    return upsample


def moved(strides: float) -> Upsampler:
    """Bilinear, with each cell that far right of and below where it was measured."""

    def upsample(
        feature_map: np.ndarray, grid: FeatureGrid, image: np.ndarray, pixel_uv: np.ndarray
    ) -> np.ndarray:
        x, y = (o + strides * s for o, s in zip(grid.offset, grid.stride, strict=True))
        return bilinear(feature_map, replace(grid, offset=(x, y)), image, pixel_uv)

    return upsample


UPSAMPLERS: dict[str, Upsampler] = {
    "bilinear": bilinear,
    **{f"joint-bilateral:{sigma}": joint_bilateral(sigma) for sigma in (0.05, 0.1, 0.2, 0.4)},
    "spatial Gaussian alone": joint_bilateral(float("inf")),
    **{f"bilinear, cells moved by {part:+g} strides": moved(part) for part in MOVED},
}


@dataclass(frozen=True, eq=False)
class Labelled:
    """Random labelled pixels of a frame, and the teacher's features there, by upsampler."""

    sequence: str
    labels: np.ndarray
    edge_px: np.ndarray
    features: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of one upsampler: all pixels, those near a boundary, and the latter by sequence."""

    whole: SegmentationScores
    near: SegmentationScores
    by_sequence: list[float]


def boundary_distance(labels: np.ndarray) -> np.ndarray:
    """Distance (px) of each pixel to the nearest one with another label beside or below it."""
    edge = np.zeros(labels.shape, bool)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return np.asarray(distance_transform_edt(~edge))


def labelled(
    frame: Frame, feature_map: np.ndarray, grid: FeatureGrid, label_set: LabelSet, count: int
) -> Labelled:
    """`count` pixels of the frame, all upsamplers at the same ones."""
    assert frame.depth is not None
    assert frame.labels is not None
    classes = label_set.convert(frame.labels)
    rows, columns = np.nonzero((classes != IGNORE) & (frame.depth.values > 0))
    chosen = np.random.default_rng(int(frame.key)).permutation(len(rows))[:count]
    rows, columns = rows[chosen], columns[chosen]
    pixel_uv = np.stack([columns, rows], axis=1).astype(np.float32)
    return Labelled(
        sequence=frame.sequence,
        labels=classes[rows, columns],
        edge_px=boundary_distance(frame.labels)[rows, columns],
        features={
            name: upsample(feature_map, grid, frame.views[0].image, pixel_uv)
            for name, upsample in UPSAMPLERS.items()
        },
    )


def scores(
    fitted: Sequence[Labelled], scored: Sequence[Labelled], name: str, near_px: float, classes: int
) -> Scores:
    """Fit a probe on the features of one upsampler and score it."""
    features = np.concatenate([one.features[name] for one in fitted])
    labels = np.concatenate([one.labels for one in fitted])
    probe = fit_linear_probe(features, labels, classes=classes)
    total, edges = (np.zeros((classes, classes), np.int64) for _ in range(2))
    right: dict[str, list[np.ndarray]] = {}
    for one in scored:
        found, near = probe.predict(one.features[name]), one.edge_px <= near_px
        total += confusion_matrix(one.labels, found, classes=classes)
        edges += confusion_matrix(one.labels[near], found[near], classes=classes)
        right.setdefault(one.sequence, []).append((found == one.labels)[near])
    return Scores(
        whole=segmentation_scores(total),
        near=segmentation_scores(edges),
        by_sequence=[float(np.concatenate(parts).mean()) for parts in right.values()],
    )


def cost_ms(upsample: Upsampler, feature_map: np.ndarray, grid: FeatureGrid, frame: Frame) -> float:
    """CPU time, best of five: as many pairs as `--features pixels` stores of a frame by default."""
    image = frame.views[0].image
    size = np.array(image.shape[1::-1])
    pixel_uv = np.random.default_rng(0).uniform(0, size - 1, (TIMED, 2)).astype(np.float32)
    upsample(feature_map, grid, image, pixel_uv[:10])
    times: list[float] = []
    for _ in range(5):
        began = time.thread_time()
        upsample(feature_map, grid, image, pixel_uv)
        times.append(1e3 * (time.thread_time() - began))
    return min(times)


@click.command()
@click.argument("root", type=click.Path(exists=True, path_type=Path))
@click.option("--frames", default=200, type=click.IntRange(8))
@click.option("--teacher", default="tf_efficientnet_lite0")
@click.option("--layer", default=-1)
@click.option("--input-size", type=(int, int), default=(640, 480), show_default=True)
@click.option(
    "--near-px", default=4.0, help="Distance that counts as near a boundary, at 320 x 240 px."
)
def main(
    root: Path, frames: int, teacher: str, layer: int, input_size: tuple[int, int], near_px: float
) -> None:
    """Print the table."""
    source = open_source("nyuv2", SourceOptions(root=root))
    keys = source.keys()[:: max(1, len(source.keys()) // frames)][:frames]
    network = open_teacher(TeacherOptions(name=teacher, layer=layer, input_size=input_size))
    label_set = open_label_set("nyu13", source.label_names or (), source.ignore_label)
    first = source.load(keys[0])
    width, height = first.views[0].image.shape[1::-1]
    grid = network.grid((width, height))
    parts: tuple[list[Labelled], list[Labelled]] = ([], [])
    place: dict[str, int] = {}
    for key in keys:
        frame = source.load(key)
        half = place.setdefault(frame.sequence, len(place) % 2)
        feature_map = network.features([frame.views[0].image])[0]
        count = SCORED if half else FITTED
        parts[half].append(labelled(frame, feature_map, grid, label_set, count))
    click.echo(
        f"{teacher}, layer {layer}, stride {grid.stride[0]:g} of {input_size[0]} x {input_size[1]} "
        f"px: {len(parts[0])} frames fitted, {len(parts[1])} frames scored\n\n"
        f"| upsampling | mIoU | accuracy | mIoU <= {near_px:g} px | accuracy <= {near_px:g} px | "
        "the latter to bilinear, per scene | CPU ms |\n|---|--:|--:|--:|--:|--:|--:|"
    )
    base: list[float] = []
    for name, upsample in UPSAMPLERS.items():
        found = scores(*parts, name, near_px, len(label_set.classes))
        base = base or found.by_sequence
        change = paired_difference(found.by_sequence, base)
        interval = f"{change.mean:+.2%} ({change.low:+.2%} to {change.high:+.2%})"
        cost = cost_ms(upsample, network.features([first.views[0].image])[0], grid, first)
        click.echo(
            f"| {name} | {found.whole.miou:.2%} | {found.whole.accuracy:.2%} | "
            f"{found.near.miou:.2%} | {found.near.accuracy:.2%} | "
            f"{interval if name != 'bilinear' else ''} | {cost:.1f} |"
        )


if __name__ == "__main__":
    main()
