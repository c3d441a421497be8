import pytest
import torch
from torch.nn import functional

from p2pkit.heads import FixedPixels, PixelProjection, PointProjection
from p2pkit.losses import ppnce


def upsample_and_pick(maps, size, rows, columns):
    """Bilinear upsampling with the border clamped, then the values at some pixels."""
    full = functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    return full[0, :, rows, columns].T


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_projecting_sampled_features_equals_sampling_the_projected_map(dtype, limit):
    torch.manual_seed(0)
    head = PixelProjection(40, 16).to(dtype)
    maps = torch.randn(1, 40, 5, 7, dtype=dtype)
    rows, columns = torch.randint(0, 40, (200,)), torch.randint(0, 56, (200,))
    weight = head.linear.weight[:, :, None, None]
    paper = upsample_and_pick(
        functional.conv2d(maps, weight, head.linear.bias), (40, 56), rows, columns
    )
    cached = head.linear(upsample_and_pick(maps, (40, 56), rows, columns))
    assert (paper - cached).abs().max() < limit
    embedding = head(upsample_and_pick(maps, (40, 56), rows, columns))
    torch.testing.assert_close(embedding, functional.normalize(paper, dim=1))


def test_both_orders_give_the_same_gradient():
    torch.manual_seed(0)
    head = PixelProjection(12, 6).double()
    maps = torch.randn(1, 12, 4, 4, dtype=torch.float64)
    rows, columns = torch.randint(0, 32, (2, 90))
    target = torch.randn(90, 6, dtype=torch.float64)
    gradients = []
    for project_first in (True, False):
        head.zero_grad()
        if project_first:
            weight = head.linear.weight[:, :, None, None]
            projected = functional.conv2d(maps, weight, head.linear.bias)
            sampled = upsample_and_pick(projected, (32, 32), rows, columns)
            embedding = functional.normalize(sampled, dim=1)
        else:
            embedding = head(upsample_and_pick(maps, (32, 32), rows, columns))
        (embedding * target).sum().backward()
        gradients.append(head.linear.weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("head", [PointProjection(9), PixelProjection(9)])
def test_embeddings_have_unit_length_and_the_papers_width(head):
    embedding = head(torch.randn(30, 9))
    assert embedding.shape == (30, 128)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(30))


def test_a_zero_projection_stays_zero_with_a_finite_gradient():
    head = PointProjection(4, 3)
    torch.nn.init.zeros_(head.linear.bias)
    features = torch.zeros(2, 4, requires_grad=True)
    embedding = head(features)
    embedding.sum().backward()
    assert torch.equal(embedding, torch.zeros(2, 3))
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_embeddings_and_loss_stay_in_float32_under_autocast(half):
    torch.manual_seed(0)
    points, pixels = PointProjection(24, 16), PixelProjection(40, 16)
    with torch.autocast("cpu", dtype=half):
        embedded = points(torch.randn(50, 24)), pixels(torch.randn(50, 40))
        fixed = FixedPixels()(torch.randn(50, 16).to(half))
    for rows in (*embedded, fixed):
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(50), rtol=0, atol=1e-5)
    assert ppnce(*embedded).dtype == torch.float32


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_a_projection_to_zero_is_no_nan_under_autocast(half):
    head = PointProjection(24, 16)
    torch.nn.init.zeros_(head.linear.bias)
    with torch.autocast("cpu", dtype=half):
        embedding = head(torch.zeros(3, 24))
    assert torch.equal(embedding.detach(), torch.zeros(3, 16))
