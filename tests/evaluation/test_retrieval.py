import pytest
import torch
from torch.nn.functional import normalize

from p2pkit.errors import ConfigError
from p2pkit.evaluation.retrieval import TIE_WIDTH, cell_chance, retrieval_top1


def embeddings(pairs: int = 40, noise: float = 1.0):
    generator = torch.Generator().manual_seed(0)
    pixels = normalize(torch.randn(pairs, 5, generator=generator), dim=1)
    points = normalize(pixels + noise * torch.randn(pairs, 5, generator=generator), dim=1)
    return points, pixels


def naive(points, pixels, group) -> float:
    score = 0.0
    for i in range(len(points)):
        similarity = [float(points[i] @ pixel) for pixel in pixels]
        best = [j for j, s in enumerate(similarity) if s >= max(similarity) - TIE_WIDTH]
        score += sum(group[j] == group[i] for j in best) / len(best)
    return score / len(points)


@pytest.mark.parametrize("duplicates", [1, 4])
def test_equals_the_definition(duplicates):
    points, pixels = (x.repeat(duplicates, 1) for x in embeddings())
    score = retrieval_top1(points, pixels)
    assert 0 < score < 1
    assert score == pytest.approx(naive(points, pixels, list(range(len(points)))), abs=1e-9)


def test_cells_equal_the_definition_and_are_easier():
    points, pixels = embeddings()
    cells = torch.arange(40) // 4 * 10**13
    by_cell = retrieval_top1(points, pixels, cell_id=cells)
    assert by_cell == pytest.approx(naive(points, pixels, cells.tolist()), abs=1e-9)
    assert by_cell > retrieval_top1(points, pixels)


def test_perfect_embeddings_score_one_and_shifted_ones_nothing():
    axes = torch.eye(12)
    assert retrieval_top1(axes, axes) == 1
    assert retrieval_top1(axes, axes.roll(1, 0)) == 0


@pytest.mark.parametrize("pairs", [1, 7, 1023])
def test_embeddings_that_say_nothing_score_chance(pairs):
    same = normalize(torch.full((pairs, 37), 0.3), dim=1)
    assert retrieval_top1(same, same) == pytest.approx(1 / pairs)


def test_two_equal_pixels_share_the_score():
    pixels = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert retrieval_top1(pixels, pixels) == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert retrieval_top1(pixels, pixels, cell_id=torch.tensor([4, 4, 9])) == 1


def test_blocks_of_rows_change_nothing(monkeypatch):
    points, pixels = embeddings()
    whole = retrieval_top1(points, pixels)
    monkeypatch.setattr("p2pkit.evaluation.retrieval.SIMILARITIES_AT_ONCE", 40 * 7)
    assert retrieval_top1(points, pixels) == pytest.approx(whole, abs=1e-12)


def test_nothing_to_retrieve_is_an_error():
    with pytest.raises(ConfigError, match="at least one pair"):
        retrieval_top1(torch.zeros(0, 3), torch.zeros(0, 3))


def test_the_chance_of_a_cell_is_what_random_picks_reach():
    cell_id = torch.tensor([0, 0, 0, 1, 1, 5, 9, 9])
    expected = sum(float((cell_id == own).double().mean()) for own in cell_id) / len(cell_id)
    assert cell_chance(cell_id) == pytest.approx(expected, rel=1e-12)
    assert cell_chance(torch.arange(7)) == pytest.approx(1 / 7)
