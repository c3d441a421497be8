"""A report's section on likely false negatives: negatives that show the same thing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8

from p2pkit.evaluation.negatives import (
    Negatives,
    NegativeShare,
    compare_negatives,
    negative_share,
)
from p2pkit.losses import REGRESSIONS
from p2pkit.pipelines.report.frames import FrameView, Picture
from p2pkit.pipelines.report.networks import RunNetworks
from p2pkit.pipelines.report.page import Shown
from p2pkit.pipelines.report.pairs import ReportPairs, contrast, read_pairs
from p2pkit.pipelines.report.pictures import cut_out, draw_ring

MOST_FRAMES, MOST_PAIRS = 4, 1024
ANCHORS_PER_FRAME, SHOWN_NEGATIVES = 2, 4
CROP_SHARE = 5
ANCHOR_COLOR, NEGATIVE_COLOR = (90, 190, 255), (255, 165, 60)


@dataclass(frozen=True, eq=False)
class HardNegatives:
    """Anchors of a few frames with the suspected false negatives that push them hardest.

    Args:
        views: of the frames.
        pairs: drawn from them as in the run.
        negatives: their comparisons.
        chosen: anchors, and of each some pairs, the hardest first.
    """

    views: Sequence[FrameView]
    pairs: ReportPairs
    negatives: Negatives
    chosen: Sequence[tuple[int, Sequence[int]]]


def hard_negatives(
    views: Sequence[FrameView], networks: RunNetworks, ignore_label: int | None
) -> HardNegatives | None:
    """Compare pairs of the first frames as one batch; None for losses without negatives."""
    config = networks.config
    if config.loss.name in REGRESSIONS:
        return None
    views = views[:MOST_FRAMES]
    pairs = read_pairs(
        views,
        networks,
        names=("pretrained",),
        pairs_per_frame=min(config.stream.sample.pairs_per_frame, MOST_PAIRS),
        selection=config.stream.sample.pairs,
        ignore_label=ignore_label,
    )
    batch = contrast(pairs, networks.pretrained, config.device)
    negatives = compare_negatives(batch, config.loss)
    chosen = [
        (anchor, _hardest(negatives, anchor))
        for number in range(len(views))
        for anchor in _anchors(pairs, negatives, number)
    ]
    return HardNegatives(views, pairs, negatives, chosen)


def _anchors(pairs: ReportPairs, negatives: Negatives, number: int) -> list[int]:
    """The frame's anchors with the strongest push from suspected negatives, of different cells and,
    if there are labels, different classes.
    """
    push = (negatives.push * negatives.suspected).sum(dim=1).numpy()
    own = np.flatnonzero((pairs.frame == number) & (push > 0))
    found: list[int] = []
    for anchor in own[np.argsort(-push[own], kind="stable")].tolist():
        is_new = all(
            pairs.cell[anchor] != pairs.cell[other]
            and (pairs.label is None or pairs.label[anchor] != pairs.label[other])
            for other in found
        )
        if is_new:
            found.append(anchor)
        if len(found) == ANCHORS_PER_FRAME:
            break
    return found


def _hardest(negatives: Negatives, anchor: int) -> list[int]:
    student = negatives.student[anchor].masked_fill(~negatives.suspected[anchor], -torch.inf)
    order = torch.argsort(student, descending=True, stable=True)[:SHOWN_NEGATIVES]
    return [int(row) for row in order if torch.isfinite(student[row])]


@dataclass(frozen=True, eq=False)
class NegativesSection:
    """What the page shows of hard negatives.

    Args:
        pairs, frames: compared as one batch.
        header, rows: of the table of kinds of suspects.
        crops: for each chosen anchor its place, its own pixel, and its hardest negatives.
    """

    pairs: int
    frames: int
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    crops: Sequence[Sequence[Shown]]


def negatives_section(
    found: HardNegatives, similarity: float, names: Sequence[str] | None
) -> NegativesSection:
    """The share of false negatives, and pictures of the hardest ones.

    Args:
        found: the comparisons.
        similarity: of teacher features; negatives above it are suspected.
        names: of the labels.
    """
    images = [view.image() for view in found.views]
    label = ["with the anchor’s label, %"] if found.pairs.label is not None else []
    return NegativesSection(
        pairs=len(found.pairs.frame),
        frames=len(found.views),
        header=["suspects", "of the negatives, %", "of the push, %", *label, "left out by"],
        rows=_share_rows(found, similarity),
        crops=[
            [
                _place(found, images, anchor, negatives, names),
                _anchor_crop(found, images, anchor),
                *(
                    _negative_crop(found, images, (anchor, other), number, names)
                    for number, other in enumerate(negatives, start=1)
                ),
            ]
            for anchor, negatives in found.chosen
        ],
    )


def _share_rows(found: HardNegatives, similarity: float) -> list[list[str]]:
    negatives = found.negatives
    kinds = {
        "same teacher cell": (negatives.same_cell, "mask-same-cell; pairs=one-per-cell"),
        "same voxel": (negatives.same_voxel, "mask-same-voxel; pairs=one-per-voxel"),
        f"teacher similarity ≥ {similarity:g}": (negatives.similar, "mask-similar"),
        "any of these": (negatives.suspected, ""),
        "all negatives": (negatives.kept, ""),
    }
    label = None if found.pairs.label is None else torch.from_numpy(found.pairs.label)
    return [
        [
            name,
            *_percents(negative_share(negatives, which, label), has_labels=label is not None),
            setting,
        ]
        for name, (which, setting) in kinds.items()
    ]


def _percents(share: NegativeShare, *, has_labels: bool) -> list[str]:
    texts = [f"{100 * share.count:.2f}", f"{100 * share.push:.1f}"]
    if has_labels:
        texts.append("–" if share.same_label is None else f"{100 * share.same_label:.0f}")
    return texts


def _place(
    found: HardNegatives,
    images: Sequence[Picture],
    anchor: int,
    negatives: Sequence[int],
    names: Sequence[str] | None,
) -> Shown:
    """The anchor's image with the anchor and those of its negatives that lie in it."""
    frame = int(found.pairs.frame[anchor])
    picture = images[frame]
    for number, other in enumerate(negatives, start=1):
        if found.pairs.frame[other] == frame:
            uv = _drawn_uv(found, other)
            picture = draw_ring(picture, uv, NEGATIVE_COLOR, text=f"{number}")
    picture = draw_ring(picture, _drawn_uv(found, anchor), ANCHOR_COLOR, text="A")
    push = found.negatives.push[anchor]
    suspected = float(push[found.negatives.suspected[anchor]].sum() / push.sum())
    label = label_name(found.pairs, anchor, names)
    lines = [
        f"anchor A{f': {label}' if label else ''}, {found.views[frame].key}",
        f"{suspected:.0%} of its push comes from suspects",
    ]
    return Shown(picture, lines, kind="query")


def _anchor_crop(found: HardNegatives, images: Sequence[Picture], anchor: int) -> Shown:
    similarity = float(found.negatives.student[anchor, anchor])
    lines = ["A: its own pixel", f"student {similarity:.2f}"]
    return Shown(_crop(found, images, anchor, ANCHOR_COLOR), lines)


def _negative_crop(
    found: HardNegatives,
    images: Sequence[Picture],
    comparison: tuple[int, int],
    number: int,
    names: Sequence[str] | None,
) -> Shown:
    anchor, other = comparison
    pairs, negatives = found.pairs, found.negatives
    signs = {"same cell": negatives.same_cell, "same voxel": negatives.same_voxel}
    shared = [name for name, sign in signs.items() if sign[comparison]]
    lines = [
        f"{number}: student {float(negatives.student[comparison]):.2f}",
        f"teacher {float(negatives.teacher[comparison]):.2f}",
        ", ".join(shared) or "other cell and voxel",
    ]
    label = label_name(pairs, other, names)
    if label:
        lines.append(f"label {label}")
    if pairs.frame[other] != pairs.frame[anchor]:
        lines.append(f"in {found.views[int(pairs.frame[other])].key}")
    return Shown(
        _crop(found, images, other, NEGATIVE_COLOR), lines, kind=pairs.hit_or_miss(anchor, other)
    )


def label_name(pairs: ReportPairs, pair: int, names: Sequence[str] | None) -> str:
    """Name of a pair's class; empty for void and without labels."""
    value = pairs.label_of(pair)
    return "" if value is None or names is None else names[value]


def _drawn_uv(found: HardNegatives, pair: int) -> np.ndarray:
    view = found.views[int(found.pairs.frame[pair])]
    return view.drawn_uv(found.pairs.pixel_uv[pair])


def _crop(
    found: HardNegatives, images: Sequence[Picture], pair: int, color: tuple[int, int, int]
) -> UInt8[np.ndarray, "side side 4"]:
    """The surroundings of a pair's pixel, twice as large, with a ring round it."""
    image = images[int(found.pairs.frame[pair])]
    side = max(image.shape[1] // CROP_SHARE, 8)
    crop = cut_out(image, _drawn_uv(found, pair), side).repeat(2, axis=0).repeat(2, axis=1)
    centre = np.full(2, 2 * (side // 2) + 0.5)
    return draw_ring(crop, centre, color, share=1 / 12)
