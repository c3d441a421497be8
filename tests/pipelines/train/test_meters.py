"""The effective rank of wide embeddings, against all eigenvalues."""

import pytest
import torch

from p2pkit.pipelines.train.step import channel_spread, effective_rank


def rows(count: int, channels: int, rank: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randn(count, rank, generator=random) @ torch.eye(rank, channels)


def whole_rank(embeddings: torch.Tensor) -> float:
    """Of the covariance of all rows and channels."""
    centred = (embeddings - embeddings.mean(dim=0)).double()
    values = torch.linalg.eigvalsh(centred.T @ centred).clamp_min(0)
    return float(torch.exp(torch.special.entr(values / values.sum()).sum()))


@pytest.mark.parametrize(("count", "channels"), [(1000, 128), (50, 128), (500, 256), (100, 512)])
def test_the_smaller_product_has_the_same_eigenvalues(count: int, channels: int) -> None:
    embeddings = rows(count, channels, 40)
    assert effective_rank(embeddings) == pytest.approx(whole_rank(embeddings), rel=1e-3)


@pytest.mark.parametrize("rank", [1, 4, 30])
def test_rows_of_wide_embeddings_tell_a_collapse(rank: int) -> None:
    embeddings = rows(4000, 1024, rank)
    found = effective_rank(embeddings)
    assert found == pytest.approx(whole_rank(embeddings), rel=0.1)
    assert effective_rank(embeddings) == found


def test_no_rows_have_no_rank_and_no_spread() -> None:
    assert effective_rank(torch.zeros(0, 16)) == channel_spread(torch.zeros(0, 16)) == 0.0
