"""SLidR's contrast of superpixels against its equation as loops, and what leaves it as it is."""

import math
from dataclasses import replace

import pytest
import torch
from test_ppnce import batch_of, embeddings
from torch import Tensor

from p2pkit.errors import ConfigError, TrainingError
from p2pkit.losses import ContrastBatch, LossConfig, build_loss
from p2pkit.losses.ppnce import ppnce
from p2pkit.losses.superpixel import superpixel_loss

CONFIG = LossConfig(name="superpixel", temperature=0.07)


def naive_means(rows: list[list[float]], ids: list[int], weight: list[float]) -> dict[int, list]:
    """Weighted mean of the rows of each superpixel that has any weight."""
    means: dict[int, list[float]] = {}
    for superpixel in set(ids):
        members = [i for i, found in enumerate(ids) if found == superpixel and weight[i] > 0]
        if members:
            total = sum(weight[i] for i in members)
            sums = [sum(weight[i] * rows[i][c] for i in members) for c in range(len(rows[0]))]
            means[superpixel] = [value / total for value in sums]
    return means


def naive(batch: ContrastBatch, temperature: float, weight: list[float]) -> float:
    """The equation, term by term, in plain numbers."""
    assert batch.superpixel_id is not None
    ids = batch.superpixel_id.tolist()
    points = naive_means(batch.point_embedding.tolist(), ids, weight)
    pixels = naive_means(batch.pixel_embedding.tolist(), ids, weight)

    def term(s: int, other: int) -> float:
        dot = sum(k * q for k, q in zip(points[s], pixels[other], strict=True))
        return math.exp(dot / temperature)

    losses = [-math.log(term(s, s) / sum(term(s, other) for other in pixels)) for s in points]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("temperature", [0.04, 0.07, 1.0])
def test_equals_the_equation(temperature: float) -> None:
    batch = batch_of(40)
    loss = build_loss(replace(CONFIG, temperature=temperature))(batch)
    assert float(loss) == pytest.approx(naive(batch, temperature, [1.0] * 40), rel=1e-12)


def test_means_are_not_brought_back_to_unit_length() -> None:
    cosine, sine = math.cos(1.2), math.sin(1.2)
    rows = torch.tensor([[cosine, sine], [cosine, -sine], [-1.0, 0.0], [-1.0, 0.0]]).double()
    ids = torch.tensor([4, 4, 9, 9])
    found = float(build_loss(CONFIG)(ContrastBatch(rows, rows, ids, ids, superpixel_id=ids)))
    first = math.log1p(math.exp((-cosine - cosine**2) / 0.07))
    second = math.log1p(math.exp((-cosine - 1.0) / 0.07))
    # of a float32 cosine and sine
    assert found == pytest.approx((first + second) / 2, rel=1e-6)


def test_weights_are_those_of_the_means() -> None:
    batch = batch_of(40)
    weight = torch.rand(40, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weight[3] = 0
    ids = batch.superpixel_id
    assert ids is not None
    weight[ids == ids[7]] = 0  # one superpixel has no say at all
    loss = build_loss(replace(CONFIG, confidence="weight"))(replace(batch, confidence=weight))
    assert float(loss) == pytest.approx(naive(batch, 0.07, weight.tolist()), rel=1e-12)


def test_equal_weights_change_nothing_and_no_weight_at_all_gives_no_gradient() -> None:
    batch, weighs = batch_of(), replace(CONFIG, confidence="weight")
    half = torch.full((23,), 0.5, dtype=torch.float64)
    plain = float(build_loss(CONFIG)(batch))
    assert float(build_loss(weighs)(replace(batch, confidence=half))) == pytest.approx(plain)
    points = batch.point_embedding.requires_grad_()
    nothing = build_loss(weighs)(replace(batch, confidence=0 * half))
    nothing.backward()
    assert nothing.item() == 0
    assert points.grad is not None
    assert not points.grad.any()


def test_superpixels_of_one_pair_each_are_ppnce() -> None:
    batch = replace(batch_of(), superpixel_id=torch.arange(23).flip(0))
    expected = ppnce(batch.point_embedding, batch.pixel_embedding, temperature=0.07)
    assert float(build_loss(CONFIG)(batch)) == pytest.approx(float(expected), rel=1e-12)


def test_order_of_pairs_and_names_of_superpixels_do_not_matter() -> None:
    batch = batch_of(40)
    ids = batch.superpixel_id
    assert ids is not None
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    moved = replace(
        batch,
        point_embedding=batch.point_embedding[order],
        pixel_embedding=batch.pixel_embedding[order],
        superpixel_id=-ids[order] + 17,
    )
    torch.testing.assert_close(build_loss(CONFIG)(moved), build_loss(CONFIG)(batch))


def test_a_rotation_of_the_embedding_space_does_not_matter() -> None:
    batch = batch_of()
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    turned = replace(
        batch,
        point_embedding=batch.point_embedding @ rotation,
        pixel_embedding=batch.pixel_embedding @ rotation,
    )
    torch.testing.assert_close(build_loss(CONFIG)(turned), build_loss(CONFIG)(batch))


@pytest.mark.parametrize("confidence", ["ignore", "weight"])
def test_gradients_are_right(confidence: str) -> None:
    points, pixels = (x.requires_grad_() for x in embeddings(9, 4))
    batch = replace(batch_of(9), confidence=torch.linspace(0, 1, 9, dtype=torch.float64))
    config = replace(CONFIG, temperature=0.3, confidence=confidence)

    def loss(points: Tensor, pixels: Tensor) -> Tensor:
        changed = replace(batch, point_embedding=points, pixel_embedding=pixels)
        return build_loss(config)(changed)

    assert torch.autograd.gradcheck(loss, (points, pixels))


def test_blocks_give_the_same_loss_and_gradient_and_keep_no_logits() -> None:
    saved: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    ids = torch.randint(0, 64, (200,), generator=torch.Generator().manual_seed(5))
    groups = len(ids.unique())
    results = []
    for logits in (groups**2, 8 * groups):
        points, pixels = (x.requires_grad_() for x in embeddings(200, 4))
        batch = ContrastBatch(points, pixels, ids, ids, superpixel_id=ids)
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = superpixel_loss(batch, CONFIG, logits_at_once=logits)
        loss.backward()
        results.append((loss.detach(), points.grad, pixels.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-11, atol=1e-14)
    assert max(saved) <= 200 * 4 < groups**2


def test_right_means_cost_less_than_wrong_ones() -> None:
    batch = batch_of()
    same = replace(batch, pixel_embedding=batch.point_embedding)
    wrong = replace(batch, pixel_embedding=-batch.point_embedding)
    assert float(build_loss(CONFIG)(same)) < float(build_loss(CONFIG)(wrong))


def test_what_it_needs_and_what_it_cannot_do_is_named() -> None:
    batch = batch_of()
    with pytest.raises(TrainingError, match="needs superpixels, and the batch has none"):
        build_loss(CONFIG)(replace(batch, superpixel_id=None))
    with pytest.raises(TrainingError, match="no confidence"):
        build_loss(replace(CONFIG, confidence="weight"))(batch)
    with pytest.raises(ConfigError, match="set negatives=paper"):
        LossConfig(name="superpixel", negatives="mask-same-cell")
    with pytest.raises(ConfigError, match="set across_ranks=false"):
        LossConfig(name="superpixel", across_ranks=True)
    empty, ids = torch.zeros(0, 4), torch.zeros(0).long()
    of_none = ContrastBatch(empty, empty, ids, ids, superpixel_id=ids)
    assert float(build_loss(CONFIG)(of_none)) == 0
