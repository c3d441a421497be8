"""Variants of the contrast and losses without negatives, against their equations as loops."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from test_ppnce import batch_of, embeddings, naive
from torch import Tensor
from torch.nn.functional import normalize

from p2pkit.errors import ConfigError, TrainingError
from p2pkit.losses import ContrastBatch, LossConfig, build_loss


def others(count: int = 5, seed: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, 8, dtype=torch.float64, generator=generator)
    return normalize(rows, dim=1)


def naive_soft(
    batch: ContrastBatch,
    temperature: float,
    soft: float,
    ignored: Callable[[int, int], bool] = lambda i, j: False,
) -> float:
    assert batch.teacher_feature is not None
    points, pixels = batch.point_embedding, batch.all_pixels()
    teacher = normalize(batch.teacher_feature, dim=1)
    total, pairs = 0.0, len(points)
    for i in range(pairs):
        logits = {
            j: math.exp(float(points[i] @ pixels[j]) / temperature)
            for j in range(len(pixels))
            if not ignored(i, j)
        }
        likeness = {j: math.exp(float(teacher[i] @ teacher[j]) / soft) for j in logits if j < pairs}
        for j, alike in likeness.items():
            share = logits[j] / sum(logits.values())
            total -= alike / sum(likeness.values()) * math.log(share)
    return total / pairs


def test_pixels_of_other_processes_are_negatives() -> None:
    batch = replace(batch_of(), other_pixels=others())
    loss = build_loss(LossConfig(temperature=0.1, negatives="mask-same-cell"))(batch)

    def ignored(i: int, j: int) -> bool:
        return j < 23 and bool(batch.cell_id[i] == batch.cell_id[j])

    expected = naive(batch.point_embedding, batch.all_pixels(), 0.1, ignored)
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_pixels_of_other_processes_are_masked_and_share_targets_as_own_ones() -> None:
    """The first rows of a batch, the others from another process, cost what they cost in it."""
    whole = batch_of()
    assert whole.teacher_feature is not None
    own = {
        name: value[:9] for name, value in vars(whole).items() if isinstance(value, torch.Tensor)
    }
    split = replace(
        whole,
        **own,
        other_pixels=whole.pixel_embedding[9:],
        other_points=whole.point_embedding[9:],
        other_teacher=whole.teacher_feature[9:],
    )
    known = normalize(whole.teacher_feature, dim=1)
    similarity = float((known @ known.T).quantile(0.7))
    soft = LossConfig(name="ppnce-soft", temperature=0.1, soft_temperature=0.3)
    for config in (soft, replace(soft, negatives="mask-similar", similarity=similarity)):
        weighed = replace(config, confidence="weight")
        only = torch.cat([torch.ones(9), torch.zeros(14)]).to(whole.point_embedding.dtype)
        expected = build_loss(weighed)(replace(whole, confidence=only))
        assert float(build_loss(config)(split)) == pytest.approx(float(expected), rel=1e-12)


def test_symmetric_is_the_mean_of_both_directions() -> None:
    batch = replace(batch_of(), other_pixels=others(5), other_points=others(5, 8))
    loss = build_loss(LossConfig(name="ppnce-symmetric", temperature=0.1))(batch)
    there = naive(batch.point_embedding, batch.all_pixels(), 0.1)
    back = naive(batch.pixel_embedding, batch.all_points(), 0.1)
    assert float(loss) == pytest.approx((there + back) / 2, rel=1e-12)


@pytest.mark.parametrize("soft", [0.02, 0.3])
def test_soft_targets_equal_the_equation(soft: float) -> None:
    batch = replace(batch_of(), other_pixels=others())
    config = LossConfig(name="ppnce-soft", temperature=0.1, soft_temperature=soft)
    assert float(build_loss(config)(batch)) == pytest.approx(
        naive_soft(batch, 0.1, soft), rel=1e-10
    )


def test_hard_soft_targets_are_ppnce() -> None:
    soft, hard = (
        build_loss(LossConfig(name=name, temperature=0.1, soft_temperature=1e-4))(batch_of())
        for name in ("ppnce-soft", "ppnce")
    )
    assert float(soft) == pytest.approx(float(hard), rel=1e-9)


def test_regressions_equal_their_equations() -> None:
    batch = batch_of()
    points, pixels = batch.point_embedding, batch.pixel_embedding
    cosine = sum(1 - float(p @ q) for p, q in zip(points, pixels, strict=True)) / 23
    distance = sum(float((p - q).norm()) for p, q in zip(points, pixels, strict=True)) / 23
    assert float(build_loss(LossConfig(name="cosine"))(batch)) == pytest.approx(cosine)
    assert float(build_loss(LossConfig(name="l2"))(batch)) == pytest.approx(distance)


def test_l2_of_equal_embeddings_has_a_finite_gradient() -> None:
    same = embeddings()[0].requires_grad_()
    batch = replace(batch_of(), point_embedding=same, pixel_embedding=same.detach())
    build_loss(LossConfig(name="l2"))(batch).backward()
    assert same.grad is not None
    assert same.grad.isfinite().all()


@pytest.mark.parametrize("name", ["cosine", "l2", "ppnce-symmetric", "ppnce-soft"])
def test_weights_of_nothing_leave_a_pair_out(name: str) -> None:
    batch, kept = batch_of(), torch.arange(23) != 4
    weight = kept.double()
    config = LossConfig(name=name, temperature=0.1, confidence="weight")
    weighed = float(build_loss(config)(replace(batch, confidence=weight)))
    losses = [float(build_loss(replace(config, confidence="ignore"))(batch)), weighed]
    if name in ("cosine", "l2"):
        rows = {
            field: getattr(batch, field)[kept]
            for field in ("point_embedding", "pixel_embedding", "cell_id", "voxel_id")
        }
        assert weighed == pytest.approx(
            float(build_loss(LossConfig(name=name))(ContrastBatch(**rows)))
        )
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("name", ["ppnce-symmetric", "ppnce-soft", "cosine", "l2"])
def test_gradients_are_right(name: str) -> None:
    points, pixels = (x.requires_grad_() for x in embeddings(6, 4))
    batch = batch_of(6)
    config = LossConfig(name=name, temperature=0.3, soft_temperature=0.3)

    def loss(points: Tensor, pixels: Tensor) -> Tensor:
        changed = replace(batch, point_embedding=points, pixel_embedding=pixels)
        return build_loss(config)(changed)

    assert torch.autograd.gradcheck(loss, (points, pixels))


def test_what_the_settings_need_must_be_in_the_batch() -> None:
    bare = replace(batch_of(), teacher_feature=None)
    for config in (LossConfig(name="ppnce-soft"), LossConfig(negatives="mask-similar")):
        with pytest.raises(TrainingError, match="the batch has none"):
            build_loss(config)(bare)
    with pytest.raises(ConfigError, match="soft_temperature is 0"):
        LossConfig(soft_temperature=0.0)
    with pytest.raises(ConfigError, match=r"similarity is 1\.5"):
        LossConfig(similarity=1.5)


@pytest.mark.parametrize("name", ["ppnce", "ppnce-symmetric", "ppnce-soft", "cosine", "l2"])
def test_a_batch_of_no_pairs_costs_nothing(name: str) -> None:
    empty, ids = torch.zeros(0, 4, requires_grad=True), torch.zeros(0).long()
    batch = ContrastBatch(empty, empty, ids, ids, teacher_feature=torch.zeros(0, 6))
    loss = build_loss(LossConfig(name=name))(batch)
    loss.backward()
    assert float(loss.detach()) == 0


@pytest.mark.parametrize("name", ["cosine", "l2"])
def test_losses_without_negatives_refuse_settings_of_negatives(name: str) -> None:
    with pytest.raises(ConfigError, match="set negatives=paper"):
        LossConfig(name=name, negatives="mask-same-cell")
    with pytest.raises(ConfigError, match="set across_ranks=false"):
        LossConfig(name=name, across_ranks=True)


def test_masked_pixels_are_in_neither_softmax_of_soft_targets() -> None:
    batch = replace(batch_of(), other_pixels=others())
    config = LossConfig(
        name="ppnce-soft", temperature=0.1, soft_temperature=0.3, negatives="mask-same-cell"
    )
    points = batch.point_embedding.clone().requires_grad_()
    loss = build_loss(config)(replace(batch, point_embedding=points))

    def ignored(i: int, j: int) -> bool:
        return i != j and j < 23 and bool(batch.cell_id[i] == batch.cell_id[j])

    assert any(ignored(i, j) for i in range(23) for j in range(23))
    assert float(loss.detach()) == pytest.approx(naive_soft(batch, 0.1, 0.3, ignored), rel=1e-10)
    loss.backward()
    assert points.grad is not None
    assert points.grad.isfinite().all()
