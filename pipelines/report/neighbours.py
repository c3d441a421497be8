"""A report's section on nearest points: what the student finds alike in other frames."""

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
from p2pkit.pipelines.report.html import figure, table
from p2pkit.pipelines.report.networks import RunNetworks
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
        views: of the frames; queries lie in the first `queried` of them.
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
        """By the name of what they are of."""
        return {
            "3D student, pretrained": self.pairs.student["pretrained"],
            "3D student, random weights": self.pairs.student["random"],
            "2D teacher, at the point’s pixel": self.pairs.teacher,
        }


def nearest_points(
    views: Sequence[FrameView], queried: int, networks: RunNetworks, ignore_label: int | None
) -> NearestPoints | None:
    """Draw points and choose queries at random; None where there is nothing to search in.

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
    """Random points of a frame, each of another class where there are labels."""
    order = np.random.default_rng(frame).permutation(np.flatnonzero(pairs.frame == frame))
    if pairs.label is not None:
        _, first = np.unique(pairs.label[order], return_index=True)
        order = order[np.sort(first)]
    return order[:QUERIES_PER_FRAME].tolist()


def neighbours_section(found: NearestPoints | None, names: Sequence[str] | None) -> list[str]:
    """How often nearest points agree in their label, and some of them, drawn."""
    title = "<h2>Nearest points in other frames</h2>"
    if found is None:
        return [title, "<p>There is only one frame to search in.</p>"]
    where = "frame of another scene" if found.other_scenes else "other frame of the scene"
    lines = [
        title,
        f"<p>A point of one frame (blue ring), and the most similar of the {POINTS_PER_FRAME} "
        f"points drawn from each {where} (yellow rings): above by the student’s features, below "
        "by the teacher’s. Numbers are cosines, which compare within a row only.</p>",
    ]
    if not found.other_scenes:
        lines.append(
            "<p class='soft'>The frames searched are of one scene and may show the very same "
            "place: expect easy hits.</p>"
        )
    if found.pairs.label is not None:
        lines.append(_agreement(found, found.pairs.label))
    images = [view.image() for view in found.views]
    for query in found.queries:
        lines.append(_example(found, images, query, names))
    return lines


def _agreement(found: NearestPoints, label: np.ndarray) -> str:
    queries = np.flatnonzero(found.pairs.frame < found.queried)
    rows = [
        [name, f"{100 * share:.1f}"]
        for name, share in {
            **{
                name: neighbour_agreement(values, label, queries=queries, scene=found.scene)
                for name, values in found.features.items()
            },
            "chance": chance_agreement(label, queries=queries, scene=found.scene),
        }.items()
    ]
    header = ["features", f"nearest point has the label, % of {len(queries):,} points"]
    return table(header, rows)


def _example(
    found: NearestPoints, images: Sequence[Picture], query: int, names: Sequence[str] | None
) -> str:
    pairs = found.pairs
    label = label_name(pairs, query, names)
    key = found.views[int(pairs.frame[query])].key
    lines = [f"query{f': {label}' if label else ''}", key]
    shown = [figure(_ringed(found, images, query, QUERY_COLOR), lines, kind="query")]
    kinds = {STUDENT: pairs.student["pretrained"], TEACHER: pairs.teacher}
    for name, features in kinds.items():
        nearest = nearest_by_frame(
            features, query, frame=pairs.frame, scene=found.scene, count=SHOWN_NEIGHBOURS
        )
        shown += [
            _neighbour(found, images, (query, row), f"{name} {similarity:.2f}", names)
            for row, similarity in nearest
        ]
        shown += ["<div></div>"] * (SHOWN_NEIGHBOURS - len(nearest))
    return f'<div class="row nearest">{"".join(shown)}</div>'


def _neighbour(
    found: NearestPoints,
    images: Sequence[Picture],
    comparison: tuple[int, int],
    told: str,
    names: Sequence[str] | None,
) -> str:
    query, row = comparison
    pairs = found.pairs
    kind = pairs.hit_or_miss(query, row)
    lines = [told, found.views[int(pairs.frame[row])].key]
    label = label_name(pairs, row, names)
    if label:
        lines[0] += f" · {kind}: {label}" if kind else f" · {label}"
    return figure(_ringed(found, images, row, NEIGHBOUR_COLOR), lines, kind=kind)


def _ringed(
    found: NearestPoints, images: Sequence[Picture], pair: int, color: tuple[int, int, int]
) -> Picture:
    frame = int(found.pairs.frame[pair])
    uv = found.views[frame].drawn_uv(found.pairs.pixel_uv[pair])
    return draw_ring(images[frame], uv, color)
