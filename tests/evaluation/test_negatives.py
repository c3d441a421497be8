from typing import get_args

import pytest
import torch
from torch.nn.functional import normalize

from p2pkit.errors import ConfigError
from p2pkit.evaluation.negatives import compare_negatives, negative_share
from p2pkit.losses import ContrastBatch, LossConfig
from p2pkit.settings.losses import Negatives

CELLS, VOXELS = [0, 0, 1, 1, 2, 3], [0, 1, 2, 2, 3, 4]


def batch(pairs: int = 6) -> ContrastBatch:
    generator = torch.Generator().manual_seed(0)

    def unit(channels: int) -> torch.Tensor:
        return normalize(torch.randn(pairs, channels, generator=generator).double(), dim=1)

    teacher = unit(4)
    if pairs > 5:
        teacher[5] = teacher[4]
    return ContrastBatch(
        point_embedding=unit(3),
        pixel_embedding=unit(3),
        cell_id=torch.tensor(CELLS[:pairs]),
        voxel_id=torch.tensor(VOXELS[:pairs]),
        teacher_feature=3 * teacher,
    )


def test_suspects_share_a_cell_or_a_voxel_or_look_alike_to_the_teacher() -> None:
    found = compare_negatives(batch(), LossConfig(similarity=0.999))
    suspected = {tuple(pair) for pair in found.suspected.nonzero().tolist()}
    assert suspected == {(0, 1), (1, 0), (2, 3), (3, 2), (4, 5), (5, 4)}
    assert found.same_cell[0, 1]
    assert not found.same_voxel[0, 1]
    assert found.same_voxel[2, 3]
    assert found.similar[4, 5]
    assert not found.same_cell[4, 5]


@pytest.mark.parametrize("negatives", get_args(Negatives))
def test_the_push_is_the_gradient_of_the_loss_by_the_similarity(negatives: str) -> None:
    config = LossConfig(temperature=0.3, negatives=negatives, similarity=0.9)
    found = compare_negatives(batch(), config)
    similarity = found.student.clone().requires_grad_()
    positive = torch.eye(6, dtype=torch.bool)
    logits = (similarity / config.temperature).masked_fill(~(found.kept | positive), -torch.inf)
    torch.nn.functional.cross_entropy(logits, torch.arange(6), reduction="sum").backward()
    assert similarity.grad is not None
    expected = (similarity.grad * config.temperature).masked_fill(positive, 0)
    torch.testing.assert_close(found.push, expected)


def test_what_the_loss_leaves_out_is_no_negative() -> None:
    config = LossConfig(negatives="mask-same-cell")
    found = compare_negatives(batch(), config)
    assert not found.kept[0, 1]
    assert found.push[0, 1] == 0
    assert found.kept.sum() == 6 * 5 - 4
    assert negative_share(found, found.same_cell).count == 0


def test_shares_are_those_of_a_count_by_hand() -> None:
    found = compare_negatives(batch(), LossConfig())
    label = torch.tensor([1, 1, 2, -1, 3, 3])
    share = negative_share(found, found.same_cell, label)
    assert share.count == pytest.approx(4 / 30)
    by_hand = sum(float(found.push[i, j]) for i, j in [(0, 1), (1, 0), (2, 3), (3, 2)])
    assert share.push == pytest.approx(by_hand / float(found.push.sum()))
    assert share.same_label == 1.0
    every = negative_share(found, found.kept, label)
    assert (every.count, every.push) == (1.0, pytest.approx(1.0))
    assert every.same_label == pytest.approx(4 / 20)
    assert negative_share(found, found.kept).same_label is None


def test_one_pair_has_no_negatives() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        compare_negatives(batch(1), LossConfig())
