import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch.nn.functional import normalize

from p2pkit.errors import ConfigError, TrainingError
from p2pkit.losses import LOSSES, ContrastBatch, LossConfig, build_loss, ppnce
from p2pkit.losses.ppnce import ignored_rows
from p2pkit.settings.losses import Negatives


def embeddings(pairs: int = 23, channels: int = 8, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    two = torch.randn(2, pairs, channels, dtype=torch.float64, generator=generator)
    return normalize(two[0], dim=1), normalize(two[1], dim=1)


def batch_of(pairs: int = 23, cells: int = 6, voxels: int = 9) -> ContrastBatch:
    generator = torch.Generator().manual_seed(1)
    cell, voxel = (torch.randint(0, n, (pairs,), generator=generator) for n in (cells, voxels))
    teacher = torch.randn(pairs, 3, dtype=torch.float64, generator=generator)
    return ContrastBatch(
        *embeddings(pairs),
        cell_id=cell * 10**12,
        voxel_id=voxel - 4,
        teacher_feature=teacher,
        superpixel_id=(cell + 2) * 10**12,
    )


def naive(points, pixels, temperature, ignored=lambda i, j: False) -> float:
    """The equation, term by term."""
    total = 0.0
    for i in range(len(points)):
        terms = {
            j: math.exp(float(points[i] @ pixels[j]) / temperature)
            for j in range(len(pixels))
            if i == j or not ignored(i, j)
        }
        total -= math.log(terms[i] / sum(terms.values()))
    return total / len(points)


@pytest.mark.parametrize("temperature", [0.04, 0.07, 1.0])
def test_equals_the_equation(temperature):
    points, pixels = embeddings()
    loss = ppnce(points, pixels, temperature=temperature)
    assert float(loss) == pytest.approx(naive(points, pixels, temperature), rel=1e-12)


@pytest.mark.parametrize("negatives", get_args(Negatives))
def test_masked_losses_equal_the_equation_without_those_terms(negatives):
    batch = batch_of()

    def ignored(i: int, j: int) -> bool:
        same_cell = bool(batch.cell_id[i] == batch.cell_id[j])
        same_voxel = bool(batch.voxel_id[i] == batch.voxel_id[j])
        return {
            "paper": False,
            "mask-same-cell": same_cell,
            "mask-same-voxel": same_voxel,
            "mask-same-cell-or-voxel": same_cell or same_voxel,
            "mask-similar": float(normalize(teacher, dim=1)[i] @ normalize(teacher, dim=1)[j])
            > 0.5,
        }[negatives]

    teacher = batch.teacher_feature
    config = LossConfig(temperature=0.1, negatives=negatives, similarity=0.5)

    loss = build_loss(config)(batch)
    expected = naive(batch.point_embedding, batch.pixel_embedding, 0.1, ignored)
    assert float(loss) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("negatives", ["paper", "mask-same-cell"])
def test_weighted_losses_equal_the_equation(negatives):
    points, pixels = embeddings()
    weight = torch.rand(23, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weight[5] = 0
    batch = replace(batch_of(), confidence=weight)
    total = 0.0
    for i in range(23):
        kept = [
            j
            for j in range(23)
            if i == j or negatives == "paper" or batch.cell_id[i] != batch.cell_id[j]
        ]
        terms = {j: math.exp(float(points[i] @ pixels[j]) / 0.1) for j in kept}
        total -= float(weight[i]) * math.log(terms[i] / sum(terms.values()))
    config = LossConfig(temperature=0.1, negatives=negatives, confidence="weight")
    assert float(build_loss(config)(batch)) == pytest.approx(total / float(weight.sum()), rel=1e-12)
    same = [ppnce(points, pixels, weight=weight, logits_at_once=n) for n in (23, 60, 10**6)]
    assert [float(loss) for loss in same] == pytest.approx([float(same[0])] * 3, rel=1e-12)


def test_equal_weights_change_nothing_and_no_weight_at_all_gives_no_gradient():
    points, pixels = embeddings()
    half = torch.full((23,), 0.5, dtype=torch.float64)
    assert float(ppnce(points, pixels, weight=half)) == pytest.approx(float(ppnce(points, pixels)))
    points.requires_grad_()
    nothing = ppnce(points, pixels, weight=0 * half)
    nothing.backward()
    assert nothing.item() == 0
    assert not points.grad.any()


def test_weights_that_are_asked_for_must_be_there():
    with pytest.raises(TrainingError, match="no confidence"):
        build_loss(LossConfig(confidence="weight"))(batch_of())
    with pytest.raises(ConfigError, match="ignore, weight"):
        LossConfig(confidence="often")


def test_the_positive_stays_whatever_the_mask_says():
    points, pixels = embeddings()
    everything = torch.ones(23, 23, dtype=torch.bool)
    assert float(ppnce(points, pixels, ignore=everything)) == pytest.approx(0, abs=1e-12)


def test_points_are_the_anchors():
    points, pixels = embeddings()
    forward, backward = ppnce(points, pixels), ppnce(pixels, points)
    assert abs(float(forward - backward)) > 1e-3


@pytest.mark.parametrize("masked", [False, True])
def test_gradient_is_right(masked):
    points, pixels = (x.requires_grad_() for x in embeddings(7, 4))
    ignore = torch.eye(7, dtype=torch.bool).roll(2, 0) if masked else None

    def loss(points, pixels):
        return ppnce(points, pixels, temperature=0.3, ignore=ignore)

    assert torch.autograd.gradcheck(loss, (points, pixels))


@pytest.mark.parametrize("rows", [1, 5, 22])
def test_blocks_of_anchors_give_the_same_loss_and_gradient(rows):
    ignore = torch.rand(23, 23, generator=torch.Generator().manual_seed(2)) < 0.3
    results = []
    for logits in (23 * 23, 23 * rows):
        points, pixels = (x.requires_grad_() for x in embeddings())
        loss = ppnce(points, pixels, ignore=ignore, logits_at_once=logits)
        loss.backward()
        results.append((loss.detach(), points.grad, pixels.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-11, atol=1e-14)


def test_blocks_keep_no_logits_for_the_backward_pass():
    saved = []

    def keep(tensor):
        saved.append(tensor.numel())
        return tensor

    points, pixels = (x.requires_grad_() for x in embeddings(64, 4))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ppnce(points, pixels, logits_at_once=64 * 8)
    assert max(saved, default=0) < 64 * 8


def test_order_of_the_pairs_does_not_matter():
    points, pixels = embeddings()
    order = torch.randperm(23, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(ppnce(points[order], pixels[order]), ppnce(points, pixels))


def test_a_rotation_of_the_embedding_space_does_not_matter():
    points, pixels = embeddings()
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    torch.testing.assert_close(ppnce(points @ rotation, pixels @ rotation), ppnce(points, pixels))


def test_embeddings_that_say_nothing_cost_ln_n():
    same = normalize(torch.ones(50, 8), dim=1)
    assert float(ppnce(same, same)) == pytest.approx(math.log(50), rel=1e-6)


def test_perfect_embeddings_cost_nothing_and_wrong_ones_much():
    axes = torch.eye(16)
    assert float(ppnce(axes, axes)) < 1e-6
    assert float(ppnce(axes, axes.roll(1, 0))) == pytest.approx(25, rel=1e-3)


def test_float32_does_not_overflow_at_small_temperatures():
    points, pixels = (x.float().requires_grad_() for x in embeddings())
    loss = ppnce(points, pixels, temperature=1e-3)
    loss.backward()
    assert loss.isfinite()
    assert points.grad.isfinite().all()


def test_no_pairs_cost_nothing_and_stay_in_the_graph():
    points, pixels = torch.zeros(0, 4, requires_grad=True), torch.ones(3, 4, requires_grad=True)
    loss = ppnce(points, pixels)
    loss.backward()
    assert float(loss.detach()) == 0
    assert points.grad.shape == (0, 4)
    assert torch.equal(pixels.grad, torch.zeros(3, 4))


def test_one_pair_costs_nothing():
    points, pixels = embeddings(1)
    assert float(ppnce(points, pixels)) == 0


def test_mask_rows_are_rows_of_the_whole_mask():
    batch = batch_of()
    ignored = ignored_rows(batch, LossConfig(negatives="mask-same-cell-or-voxel"))
    whole, part = ignored(slice(0, 23)), ignored(slice(4, 9))
    assert torch.equal(part, whole[4:9])
    assert torch.equal(whole, whole.T)


def test_wrong_settings_are_named():
    with pytest.raises(ConfigError, match="choose one of ppnce"):
        build_loss(LossConfig(name="infonce"))
    with pytest.raises(ConfigError, match="temperature is 0"):
        LossConfig(temperature=0.0)
    with pytest.raises(ConfigError, match="temperature is nan"):
        LossConfig(temperature=math.nan)
    with pytest.raises(ConfigError, match="soft_temperature is inf; must be finite"):
        LossConfig(soft_temperature=math.inf)
    with pytest.raises(ConfigError, match="choose one of paper, mask-same-cell"):
        LossConfig(negatives="hard")


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_a_differentiable_scalar_of_the_batch(name):
    batch = batch_of()
    batch.point_embedding.requires_grad_()
    batch.pixel_embedding.requires_grad_()
    loss = build_loss(LossConfig(name=name))(batch)
    loss.backward()
    assert loss.shape == ()
    assert batch.point_embedding.grad.abs().max() > 0
    assert batch.pixel_embedding.grad.abs().max() > 0
