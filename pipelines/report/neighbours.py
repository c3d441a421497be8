"""A report's section on nearest points: the most similar points in other frames."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from p2pkit.evaluation.neighbours import (
    chance_agreement,
    nearest_by_frame,
    neighbour_agreement,
)
from p2pkit.pipelines.report.false_negatives import label_name
from p2pkit.pipelines.report.frames import FrameView, Picture
from p2pkit.pipelines.report.networks import RunNetworks
from p2pkit.pipelines.report.page import Shown
from p2pkit.pipelines.report.pairs import ReportPairs, read_pairs
from p2pkit.pipelines.report.pictures import draw_ring

SEARCHED_FRAMES, POINTS_PER_FRAME = 16, 500
QUERIES_PER_FRAME, SHOWN_NEIGHBOURS = 2, 3
QUERY_COLOR, NEIGHBOUR_COLOR = (90, 190, 255), (255, 225, 90)
STUDENT, TEACHER = "3D student", "2D teacher"


@dataclass(frozen=True, eq=False)
class NearestPoints:
    """Points of several frames, and for some the nearest ones of other frames.

    Args:
        views: of the frames; queries come from the first `queried` of them.
        pairs: drawn points, those with labels where the store has labels.
        scene: of each pair; neighbours are of another scene than the query, or of another frame
            where all frames are of one scene.
        other_scenes: whether neighbours are of other scenes.
        queried: how many frames have queries.
        queries: pairs that are drawn.
    """

    views: Sequence[FrameView]
    pairs: ReportPairs
    scene: Int64[np.ndarray, " pairs"]
    other_scenes: bool
    queried: int
    queries: Sequence[int]

    @property
    def features(self) -> dict[str, np.ndarray]:
        """Features by name of the network."""
        return {
            "3D student, pretrained": self.pairs.student["pretrained"],
            "3D student, random weights": self.pairs.student["random"],
            "2D teacher, at the point’s pixel": self.pairs.teacher,
        }


def nearest_points(
    views: Sequence[FrameView], queried: int, networks: RunNetworks, ignore_label: int | None
) -> NearestPoints | None:
    """Draw points and choose queries at random; None if there is nothing to search.

    Args:
        views: queries come from the first `queried`; all are searched.
        queried: how many.
        networks: of the run.
        ignore_label: stored label that means void.
    """
    pairs = read_pairs(
        views,
        networks,
        names=("pretrained", "random"),
        pairs_per_frame=POINTS_PER_FRAME,
        selection="random",
        ignore_label=ignore_label,
    ).with_labels()
    _, scene_of_view = np.unique([view.cloud.sequence for view in views], return_inverse=True)
    scene = scene_of_view[pairs.frame]
    other_scenes = len(np.unique(scene)) > 1
    scene = scene if other_scenes else pairs.frame
    if len(np.unique(scene)) < 2:
        return None
    queries = [query for frame in range(queried) for query in _queries(pairs, frame)]
    return NearestPoints(views, pairs, scene, other_scenes, queried, queries)


def _queries(pairs: ReportPairs, frame: int) -> list[int]:
    """Random points of a frame, each of a different class if there are labels."""
    order = np.random.default_rng(frame).permutation(np.flatnonzero(pairs.frame == frame))
    if pairs.label is not None:
        _, first = np.unique(pairs.label[order], return_index=True)
        order = order[np.sort(first)]
    return order[:QUERIES_PER_FRAME].tolist()


@dataclass(frozen=True, eq=False)
class NeighboursSection:
    """What the page shows of nearest points.

    Args:
        other_scenes: whether neighbours are of other scenes.
        queries: points of which the agreement was measured.
        rows: of the table of agreement; empty without labels.
        examples: for each chosen query its picture, its nearest points by the student's features,
            and those by the teacher's.
    """

    other_scenes: bool
    queries: int
    rows: Sequence[Sequence[str]]
    examples: Sequence[tuple[Shown, Sequence[Shown], Sequence[Shown]]]


def neighbours_section(found: NearestPoints, names: Sequence[str] | None) -> NeighboursSection:
    """How often nearest points agree in their label, and pictures of some."""
    images = [view.image() for view in found.views]
    queries = np.flatnonzero(found.pairs.frame < found.queried)
    label = found.pairs.label
    return NeighboursSection(
        other_scenes=found.other_scenes,
        queries=len(queries),
        rows=[] if label is None else _agreement(found, label, queries),
        examples=[_example(found, images, query, names) for query in found.queries],
    )


def _agreement(found: NearestPoints, label: np.ndarray, queries: np.ndarray) -> list[list[str]]:
    shares = {
        name: neighbour_agreement(values, label, queries=queries, scene=found.scene)
        for name, values in found.features.items()
    }
    shares["chance"] = chance_agreement(label, queries=queries, scene=found.scene)
    return [[name, f"{100 * share:.1f}"] for name, share in shares.items()]


def _example(
    found: NearestPoints, images: Sequence[Picture], query: int, names: Sequence[str] | None
) -> tuple[Shown, list[Shown], list[Shown]]:
    pairs = found.pairs
    label = label_name(pairs, query, names)
    key = found.views[int(pairs.frame[query])].key
    lines = [f"query{f': {label}' if label else ''}", key]
    kinds = {STUDENT: pairs.student["pretrained"], TEACHER: pairs.teacher}
    by_student, by_teacher = (
        [
            _neighbour(found, images, (query, row), f"{name} {similarity:.2f}", names)
            for row, similarity in nearest_by_frame(
                features, query, frame=pairs.frame, scene=found.scene, count=SHOWN_NEIGHBOURS
            )
        ]
        for name, features in kinds.items()
    )
    ringed = _ringed(found, images, query, QUERY_COLOR)
    return Shown(ringed, lines, kind="query"), by_student, by_teacher


def _neighbour(
    found: NearestPoints,
    images: Sequence[Picture],
    comparison: tuple[int, int],
    text: str,
    names: Sequence[str] | None,
) -> Shown:
    query, row = comparison
    pairs = found.pairs
    kind = pairs.hit_or_miss(query, row)
    lines = [text, found.views[int(pairs.frame[row])].key]
    label = label_name(pairs, row, names)
    if label:
        lines[0] += f" · {kind}: {label}" if kind else f" · {label}"
    return Shown(_ringed(found, images, row, NEIGHBOUR_COLOR), lines, kind=kind)


def _ringed(
    found: NearestPoints, images: Sequence[Picture], pair: int, color: tuple[int, int, int]
) -> Picture:
    frame = int(found.pairs.frame[pair])
    uv = found.views[frame].drawn_uv(found.pairs.pixel_uv[pair])
    return draw_ring(images[frame], uv, color)
