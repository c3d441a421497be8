"""The claim that the store's layout rests on: projecting commutes with upsampling."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from p2pkit.geometry.maps.sample_map import sample_map

STRIDE, CELLS_U, CELLS_V, CHANNELS, PROJECTED, PAIRS = 32, 20, 15, 64, 16, 500


@pytest.fixture
def scene():
    """Map, 1 x 1 weights, bias, and cells of random pixels, some beyond the last cell's centre."""
    random = np.random.default_rng(0)
    feature_map = torch.from_numpy(random.normal(size=(CELLS_V, CELLS_U, CHANNELS)))
    weight = torch.from_numpy(random.normal(size=(PROJECTED, CHANNELS))).requires_grad_()
    bias = torch.from_numpy(random.normal(size=PROJECTED)).requires_grad_()
    pixel = random.integers(0, (STRIDE * CELLS_U, STRIDE * CELLS_V), (PAIRS, 2))
    return feature_map, weight, bias, torch.from_numpy(pixel / STRIDE)


def sample(feature_map, cell_uv, padding="border"):
    size = torch.tensor([feature_map.shape[1] - 1, feature_map.shape[0] - 1])
    grid = (2 * cell_uv / size - 1)[None, None]
    channels_first = feature_map.permute(2, 0, 1)[None]
    return functional.grid_sample(channels_first, grid, padding_mode=padding, align_corners=True)[
        0, :, 0
    ].T


def both_ways(scene, padding="border"):
    feature_map, weight, bias, cell_uv = scene
    online = sample(functional.linear(feature_map, weight, bias), cell_uv, padding)
    cached = functional.linear(sample(feature_map, cell_uv, padding), weight, bias)
    return online, cached


def test_project_then_upsample_equals_sample_then_project(scene):
    online, cached = both_ways(scene)
    assert (online - cached).abs().max().item() < 1e-12


def test_gradients_of_the_projection_are_the_same(scene):
    _, weight, bias, _ = scene
    anchors = torch.randn(PAIRS, PROJECTED, dtype=torch.float64)
    gradients = []
    for features in both_ways(scene):
        logits = functional.normalize(anchors) @ functional.normalize(features).T / 0.04
        loss = functional.cross_entropy(logits, torch.arange(PAIRS))
        gradients.append(torch.autograd.grad(loss, (weight, bias)))
    for online, cached in zip(*gradients, strict=True):
        assert torch.allclose(online, cached, rtol=1e-10, atol=1e-12)


def test_zero_padding_at_the_border_would_break_it(scene):
    online, cached = both_ways(scene, padding="zeros")
    assert (online - cached).abs().max().item() > 1e-3


def test_the_kernel_is_the_same_sampler(scene):
    feature_map, weight, bias, cell_uv = scene
    sampled = sample_map(feature_map.numpy().astype(np.float32), cell_uv.numpy())
    cached = functional.linear(torch.from_numpy(sampled).double(), weight, bias)
    online, _ = both_ways(scene)
    assert (online - cached).abs().max().item() < 1e-4
