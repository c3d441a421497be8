"""What a detection head is trained with: which cell answers for which box, and the losses.

From the descriptions of FCAF3D (Rukhovich et al. 2022) and TR3D (Rukhovich et al. 2023): the
cells nearest to a box's middle answer for it, large boxes on the coarse level and small ones on
the fine one; scores get the focal loss of Lin et al. (2017, "Focal Loss for Dense Object
Detection"), boxes the distance-IoU loss of Zheng et al. (2020). The IoU here is that of the boxes
in the annotated one's axes, as if both had its yaw; the yaw has a loss of its own, as sine and
cosine of twice the angle, which counts as much as the sides of the footprint differ.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from p2pkit.heads.detection import CellBoxes

ALPHA, GAMMA = 0.25, 2.0
"""Of the focal loss, the values of its paper."""
TURN_WEIGHT = 0.5
BACKGROUND = -1


@dataclass(frozen=True, eq=False)
class TargetBoxes:
    """Annotated boxes of a batch, in upright axes (m, rad).

    Args:
        frame: batch index of each.
        center, size, yaw, class_id: of each.
    """

    frame: Int64[Tensor, " boxes"]
    center: Float[Tensor, "boxes 3"]
    size: Float[Tensor, "boxes 3"]
    yaw: Float[Tensor, " boxes"]
    class_id: Int64[Tensor, " boxes"]


def assigned(
    cells: CellBoxes, boxes: TargetBoxes, *, edges_m: tuple[float, ...], nearest: int, coarse: float
) -> Int64[Tensor, " cells"]:
    """The row of the box that each cell answers for; `BACKGROUND` where it is none.

    A box belongs to the coarsest level on which the geometric mean of its sides is at least
    `coarse` cells, else to the finest. There its `nearest` cells answer for it, if they are within
    half of its diagonal and a cell of its middle. A cell of several boxes answers for the smallest.

    Args:
        cells: of all levels.
        boxes: of the same frames.
        edges_m: of the cells of each level, coarse first.
        nearest: cells per box.
        coarse: see above.
    """
    found = torch.full_like(cells.frame, BACKGROUND)
    volume = boxes.size.prod(dim=1)
    for row in volume.argsort(descending=True).tolist():
        side = float(volume[row]) ** (1 / 3)
        fitting = [i for i, edge in enumerate(edges_m) if side >= coarse * edge]
        level = fitting[0] if fitting else len(edges_m) - 1
        own = ((cells.frame == boxes.frame[row]) & (cells.level == level)).nonzero()[:, 0]
        if not len(own):
            continue
        distance = (cells.location[own] - boxes.center[row]).norm(dim=1)
        near, which = distance.topk(min(nearest, len(own)), largest=False)
        reach = boxes.size[row].norm() / 2 + edges_m[level]
        found[own[which[near <= reach]]] = row
    return found


def detection_loss(
    cells: CellBoxes, boxes: TargetBoxes, answers: Int64[Tensor, " cells"]
) -> Float[Tensor, ""]:
    """Focal, distance-IoU and turn losses, each divided by the number of answering cells.

    Args:
        cells: predictions.
        boxes: annotated ones.
        answers: the result of `assigned`.
    """
    positive = answers != BACKGROUND
    rows = answers[positive]
    wanted = torch.zeros_like(cells.logits)
    wanted[positive, boxes.class_id[rows]] = 1.0
    total = focal_loss(cells.logits, wanted)
    if len(rows):
        size, yaw = boxes.size[rows], boxes.yaw[rows]
        offset = turned(cells.center[positive] - boxes.center[rows], -yaw)
        total = total + distance_iou_loss(offset, cells.size[positive], size).sum()
        total = total + TURN_WEIGHT * turn_loss(cells.turn[positive], size, yaw).sum()
    return total / max(len(rows), 1)


def focal_loss(
    logits: Float[Tensor, "cells classes"], wanted: Float[Tensor, "cells classes"]
) -> Float[Tensor, ""]:
    """-α (1 - p)^γ log p, summed over cells and classes; p of the right answer (equation 5)."""
    plain = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    right = torch.exp(-plain)
    alpha = wanted * ALPHA + (1 - wanted) * (1 - ALPHA)
    return (alpha * (1 - right) ** GAMMA * plain).sum()


def turned(
    vectors: Float[Tensor, "rows 3"], angle: Float[Tensor, " rows"]
) -> Float[Tensor, "rows 3"]:
    """Each vector turned about up by its angle (rad)."""
    cos, sin = angle.cos(), angle.sin()
    x, y, z = vectors.unbind(dim=1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y, z], dim=1)


def distance_iou_loss(
    offset: Float[Tensor, "rows 3"], size: Float[Tensor, "rows 3"], other: Float[Tensor, "rows 3"]
) -> Float[Tensor, " rows"]:
    """1 - IoU + d² / c² of boxes with the same axes (Zheng et al. 2020, equation 7).

    d is the distance of their middles, c the diagonal of the box around both.

    Args:
        offset: from the middle of the other box to that of the first, in their axes (m).
        size: sides of the first (m).
        other: sides of the other (m).
    """
    low = torch.maximum(offset - size / 2, -other / 2)
    high = torch.minimum(offset + size / 2, other / 2)
    shared = (high - low).clamp(min=0).prod(dim=1)
    union = size.prod(dim=1) + other.prod(dim=1) - shared
    around = torch.maximum(offset + size / 2, other / 2) - torch.minimum(
        offset - size / 2, -other / 2
    )
    return 1 - shared / union + offset.square().sum(dim=1) / around.square().sum(dim=1)


def turn_loss(
    turn: Float[Tensor, "rows 2"], size: Float[Tensor, "rows 3"], yaw: Float[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """Squared error of (sin 2 yaw, cos 2 yaw), times |log(length / width)|, at most 1.

    A square footprint has no direction, so its yaw does not count.
    """
    wanted = torch.stack([(2 * yaw).sin(), (2 * yaw).cos()], dim=1)
    weight = (size[:, 0] / size[:, 1]).log().abs().clamp(max=1.0)
    return weight * (turn - wanted).square().sum(dim=1)
