import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from p2pkit.errors import ConfigError
from p2pkit.evaluation.linear_probe import ProbeConfig, fit_linear_probe


def blobs(points: int = 1500, channels: int = 6, classes: int = 4, seed: int = 0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, points)
    centres = generator.normal(size=(classes, channels))
    features = centres[labels] + generator.normal(size=(points, channels))
    return features.astype(np.float32), labels


def test_agrees_with_an_independent_solver():
    features, labels = blobs()
    probe = fit_linear_probe(features, labels, classes=4, config=ProbeConfig(l2=1e-2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = LogisticRegression(C=1 / (1e-2 * len(labels)), tol=1e-8, max_iter=2000)
        reference.fit((features - probe.mean) / probe.scale, labels)
    np.testing.assert_allclose(probe.weight, reference.coef_.T, atol=2e-3)
    expected = reference.predict((features - probe.mean) / probe.scale)
    assert (probe.predict(features) == expected).mean() > 0.998


def test_separable_classes_are_separated_and_unseen_points_too():
    features, labels = blobs(points=4000, channels=40)
    probe = fit_linear_probe(features[:2000], labels[:2000], classes=4)
    assert (probe.predict(features[2000:]) == labels[2000:]).mean() > 0.98


def test_features_without_information_score_the_largest_class():
    generator = np.random.default_rng(0)
    labels = (generator.random(4000) < 0.2).astype(np.uint8)
    features = generator.normal(size=(4000, 3)).astype(np.float32)
    predicted = fit_linear_probe(features, labels, classes=2).predict(features)
    assert (predicted == 0).mean() > 0.99


def test_balance_lifts_the_rare_class():
    generator = np.random.default_rng(0)
    labels = (generator.random(4000) < 0.05).astype(np.uint8)
    features = (generator.normal(size=(4000, 2)) + labels[:, None]).astype(np.float32)
    recall = [
        (fit_linear_probe(features, labels, classes=2, config=config).predict(features) == 1)[
            labels == 1
        ].mean()
        for config in (ProbeConfig(), ProbeConfig(balanced=True))
    ]
    assert recall[1] > recall[0] + 0.3


def test_units_of_the_channels_do_not_matter():
    features, labels = blobs()
    scaled = (features * [1e-3, 1, 1e3, 10, 5, 2] + 40).astype(np.float32)
    straight = fit_linear_probe(features, labels, classes=4).predict(features)
    rescaled = fit_linear_probe(scaled, labels, classes=4).predict(scaled)
    assert (straight == rescaled).mean() > 0.995


def test_the_same_input_gives_the_same_probe_to_the_bit():
    features, labels = blobs()
    config = ProbeConfig(max_points=700, seed=3)
    first, second = (fit_linear_probe(features, labels, classes=4, config=config) for _ in "ab")
    assert np.array_equal(first.weight, second.weight)
    other = fit_linear_probe(features, labels, classes=4, config=ProbeConfig(max_points=700))
    assert not np.array_equal(first.weight, other.weight)


def test_constant_channels_and_absent_classes_do_no_harm():
    features, labels = blobs()
    features[:, 2] = 1e6
    probe = fit_linear_probe(features, labels, classes=9)
    assert np.isfinite(probe.weight).all()
    assert probe.predict(features).max() < 4


def test_prediction_in_parts_equals_prediction_at_once(monkeypatch):
    features, labels = blobs()
    probe = fit_linear_probe(features, labels, classes=4)
    whole = probe.predict(features)
    monkeypatch.setattr("p2pkit.evaluation.linear_probe.POINTS_AT_ONCE", 301)
    assert np.array_equal(probe.predict(features), whole)
    assert probe.predict(features[:0]).shape == (0,)


def test_unusable_input_is_named():
    features, labels = blobs(20)
    with pytest.raises(ConfigError, match="at least one labelled point"):
        fit_linear_probe(features[:0], labels[:0], classes=4)
    with pytest.raises(ConfigError, match=r"expected 0\.\.1"):
        fit_linear_probe(features, labels, classes=2)
    features[3, 1] = np.nan
    with pytest.raises(ConfigError, match="NaN"):
        fit_linear_probe(features, labels, classes=4)


@pytest.mark.parametrize("balanced", [False, True])
def test_the_fit_is_a_minimum_of_the_documented_loss(balanced: bool) -> None:
    features, labels = blobs(600)
    labels[labels == 3] = 0
    config = ProbeConfig(balanced=balanced, l2=1e-2)
    probe = fit_linear_probe(features, labels, classes=4, config=config)
    weight, bias = (torch.tensor(x, requires_grad=True) for x in (probe.weight, probe.bias))
    target = torch.from_numpy(labels.astype(np.int64))
    counts = torch.bincount(target, minlength=4)
    importance = torch.where(counts > 0, 1 / counts.clamp(min=1), 0.0) if balanced else None
    inputs = torch.from_numpy((features - probe.mean) / probe.scale)
    logits = inputs @ weight + bias
    loss = torch.nn.functional.cross_entropy(logits, target, weight=importance)
    (loss + config.l2 / 2 * weight.square().sum()).backward()
    assert weight.grad is not None
    assert weight.grad.abs().max() < 2e-3
