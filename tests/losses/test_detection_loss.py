"""Which cells answer for a box, and losses against slow or known values."""

import numpy as np
import pytest
import torch
from torch import Tensor

from p2pkit.geometry.boxes import Upright, box_iou
from p2pkit.heads.detection import BOX_NUMBERS, PRIOR, CellBoxes, DetectionHead
from p2pkit.losses.detection import (
    ALPHA,
    BACKGROUND,
    GAMMA,
    TargetBoxes,
    assigned,
    detection_loss,
    distance_iou_loss,
    focal_loss,
    turn_loss,
    turned,
)
from p2pkit.networks.cells import Cells

EDGES = (0.4, 0.2)


def cells_at(location: Tensor, level: int, frame: int = 0, classes: int = 2) -> CellBoxes:
    count = len(location)
    return CellBoxes(
        frame=torch.full((count,), frame),
        level=torch.full((count,), level),
        location=location,
        logits=torch.zeros(count, classes),
        center=location,
        size=torch.ones(count, 3),
        turn=torch.zeros(count, 2),
    )


def joined(*parts: CellBoxes) -> CellBoxes:
    return CellBoxes(*(torch.cat([getattr(p, name) for p in parts]) for name in vars(parts[0])))


def boxes_of(*rows: tuple[int, tuple[float, float, float], tuple[float, float, float], int]):
    """Of frame, middle, sides and class."""
    frame, center, size, class_id = zip(*rows, strict=True)
    return TargetBoxes(
        torch.tensor(frame),
        torch.tensor(center),
        torch.tensor(size),
        torch.zeros(len(rows)),
        torch.tensor(class_id),
    )


def grid(spacing: float) -> Tensor:
    steps = torch.arange(-3, 4) * spacing
    return torch.cartesian_prod(steps, steps, steps)


def answers_of(cells: CellBoxes, boxes: TargetBoxes, nearest: int = 6) -> Tensor:
    return assigned(cells, boxes, edges_m=EDGES, nearest=nearest, coarse=2.0)


def test_the_nearest_cells_of_the_boxs_level_and_frame_answer() -> None:
    cells = joined(
        cells_at(grid(0.4), 0),
        cells_at(grid(0.2), 1),
        cells_at(grid(0.2), 1, frame=1),
    )
    small = boxes_of((0, (0.2, 0.0, 0.01), (0.3, 0.3, 0.3), 1))
    answers = answers_of(cells, small, nearest=2)
    rows = (answers == 0).nonzero()[:, 0]
    assert cells.level[rows].tolist() == [1, 1]
    assert cells.frame[rows].tolist() == [0, 0]
    distances = (cells.location[rows] - small.center).norm(dim=1)
    assert sorted(distances.tolist()) == pytest.approx([0.01, 0.19], abs=1e-6)
    large = boxes_of((1, (0.0, 0, 0), (1.0, 1.0, 1.0), 1), (0, (0, 0, 0), (1.0, 0.9, 0.8), 0))
    answers = answers_of(cells, large)
    assert cells.level[answers == 1].tolist() == [0] * 6
    # Frame 1 has no cell of the coarse level.
    assert not (answers == 0).any()


def test_cells_far_from_a_box_do_not_answer_and_the_smaller_of_two_boxes_wins() -> None:
    cells = cells_at(grid(0.2), 1)
    away = boxes_of((0, (5.0, 0.0, 0.0), (0.3, 0.3, 0.3), 0))
    assert (answers_of(cells, away) == BACKGROUND).all()
    both = boxes_of((0, (0.0, 0, 0), (0.2, 0.2, 0.2), 0), (0, (0, 0, 0.05), (0.4, 0.4, 0.4), 1))
    answers = answers_of(cells, both, nearest=1)
    middle = int(cells.location.norm(dim=1).argmin())
    assert answers[middle] == 0
    swapped = boxes_of((0, (0, 0, 0.05), (0.4, 0.4, 0.4), 1), (0, (0, 0, 0), (0.2, 0.2, 0.2), 0))
    assert answers_of(cells, swapped, nearest=1)[middle] == 1


def test_focal_loss_is_its_equation() -> None:
    logits = torch.tensor([[0.3, -2.0]], dtype=torch.float64)
    p = torch.sigmoid(logits[0]).tolist()
    expected = -ALPHA * (1 - p[0]) ** GAMMA * np.log(p[0])
    expected -= (1 - ALPHA) * p[1] ** GAMMA * np.log(1 - p[1])
    wanted = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert float(focal_loss(logits, wanted)) == pytest.approx(expected)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, wanted), (logits,))


def test_distance_iou_agrees_with_the_overlap_of_boxes() -> None:
    random = np.random.default_rng(0)
    offset, size, other = random.uniform(0.2, 1.5, (3, 5, 3))
    found = distance_iou_loss(*(torch.from_numpy(x) for x in (offset - 0.8, size, other)))
    nothing = np.zeros(5)
    ours, theirs = Upright(offset - 0.8, size, nothing), Upright(np.zeros((5, 3)), other, nothing)
    iou = np.diagonal(box_iou(ours, theirs))
    low = np.minimum(offset - 0.8 - size / 2, -other / 2)
    high = np.maximum(offset - 0.8 + size / 2, other / 2)
    far = ((offset - 0.8) ** 2).sum(axis=1) / ((high - low) ** 2).sum(axis=1)
    np.testing.assert_allclose(found.numpy(), 1 - iou + far)
    same = torch.ones(1, 3)
    assert float(distance_iou_loss(torch.zeros(1, 3), same, same)) == 0


def test_a_yaw_counts_where_the_footprint_is_long_and_not_its_sense() -> None:
    yaw = torch.tensor([0.4, 0.4 + np.pi, 0.4])
    turn = torch.stack([(2 * yaw).sin(), (2 * yaw).cos()], dim=1)
    size = torch.tensor([[3.0, 1.0, 1.0]] * 2 + [[1.0, 1.0, 1.0]])
    torch.testing.assert_close(turn_loss(turn, size, yaw), torch.zeros(3), atol=1e-10, rtol=0)
    wrong = turn_loss(-turn, size, yaw)
    assert wrong.tolist() == pytest.approx([4.0, 4.0, 0.0], abs=1e-5)
    cells = cells_at(torch.zeros(3, 3), 0)
    cells = CellBoxes(**{**vars(cells), "turn": turn})
    torch.testing.assert_close((cells.yaw - yaw).sin(), torch.zeros(3), atol=1e-6, rtol=0)


def test_the_right_prediction_has_almost_no_loss_and_a_batch_without_boxes_has_one() -> None:
    yaw = torch.tensor([0.3])
    boxes = boxes_of((0, (1.0, 2.0, 3.0), (2.0, 1.0, 0.5), 1))
    boxes = TargetBoxes(boxes.frame, boxes.center, boxes.size, yaw, boxes.class_id)
    cells = CellBoxes(
        frame=torch.zeros(2, dtype=torch.long),
        level=torch.zeros(2, dtype=torch.long),
        location=torch.zeros(2, 3),
        logits=torch.tensor([[-20.0, 20.0], [-20.0, -20.0]]),
        center=boxes.center.expand(2, 3),
        size=boxes.size.expand(2, 3),
        turn=torch.tensor([[np.sin(0.6), np.cos(0.6)]] * 2, dtype=torch.float32),
    )
    answers = torch.tensor([0, BACKGROUND])
    assert float(detection_loss(cells, boxes, answers)) == pytest.approx(0, abs=1e-6)
    moved = CellBoxes(
        **{**vars(cells), "center": cells.center + turned(torch.tensor([[0.5, 0.0, 0.0]]), yaw)}
    )
    # 0.5 m along its length: IoU 0.6, and the box around both is 2.5 x 1 x 0.5 m.
    expected = 1 - 0.6 + 0.25 / (2.5**2 + 1 + 0.25)
    assert float(detection_loss(moved, boxes, answers)) == pytest.approx(expected, abs=1e-5)
    none = TargetBoxes(*(getattr(boxes, name)[:0] for name in vars(boxes)))
    nothing = torch.full((2,), BACKGROUND)
    assert float(detection_loss(cells, none, nothing)) > 1


def test_the_head_places_boxes_at_its_cells() -> None:
    torch.manual_seed(0)
    head = DetectionHead((8, 4), classes=3, width=16)
    places = torch.tensor([[0, 8, -8, 0], [1, 0, 0, 16]])
    levels = [Cells(places, torch.randn(2, 8), 8), Cells(places // 2, torch.randn(2, 4), 4)]
    torch.nn.init.zeros_(head.regress.weight)
    up_is_minus_y = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    found = head(levels, 0.1, up_is_minus_y)
    assert found.logits.shape == (4, 3)
    assert head.regress.out_features == BOX_NUMBERS
    assert found.frame.tolist() == [0, 1, 0, 0]
    assert found.level.tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(found.location[0], [1.2, 0.4, 0.4], atol=1e-6)
    torch.testing.assert_close(found.center, found.location)
    torch.testing.assert_close(found.size, torch.ones(4, 3))
    assert float(found.logits.detach().sigmoid().mean()) == pytest.approx(PRIOR, rel=0.3)
