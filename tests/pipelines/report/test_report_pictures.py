import numpy as np
import pytest

from p2pkit.pipelines.report.pictures import (
    COMPONENTS,
    PALETTE,
    cut_out,
    depth_colors,
    draw_points,
    draw_ring,
    label_colors,
    mark_pixels,
    principal_basis,
    principal_colors,
)

RED, BLUE = np.array([255, 0, 0], np.uint8), np.array([0, 0, 255], np.uint8)


def test_near_points_cover_far_ones_and_what_is_outside_is_left_out() -> None:
    colors = np.stack([RED, BLUE, RED])
    uv = np.array([[8.2, 4.4], [7.8, 3.6], [-0.6, 4.0]])
    image = draw_points(colors, uv, np.array([1.0, 2.0, 1.0]), (20, 10))
    assert image.shape == (10, 20, 4)
    assert image[4, 8].tolist() == [255, 0, 0, 255]
    assert image[4, 0, 3] == 0


def test_small_holes_are_filled_and_large_ones_stay_open() -> None:
    image = draw_points(RED[None], np.array([[10.0, 5.0]]), np.ones(1), (21, 11))
    assert image[5, 12].tolist() == [255, 0, 0, 255]
    assert image[5, 13, 3] == 0


def test_one_basis_serves_all_frames() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(400, 8)).astype(np.float32) * (1 + np.arange(8, dtype="f4"))
    parts = [features[:150], features[150:]]
    split = principal_colors([(len(part), part.__getitem__) for part in parts])
    whole = principal_colors([(len(features), features.__getitem__)])
    assert [len(part) for part in split] == [150, 250]
    np.testing.assert_allclose(np.concatenate(split), whole[0], atol=1)


def test_a_viewer_s_layer_has_the_colours_and_the_angles_of_its_features() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(500, 20)) * np.r_[9, 7, 5, 3, np.full(16, 0.01)]
    reader = len(features), features.astype(np.float32).__getitem__
    basis = principal_basis([reader])
    projected = basis.project(*reader)
    layer = basis.layer(projected)
    assert layer.vectors.shape == (500, COMPONENTS)
    low, high = np.array(layer.low), np.array(layer.high)
    share = np.clip((layer.vectors[:, :3] - low) / (high - low), 0, 1)
    np.testing.assert_allclose(255 * share, basis.colors(projected), atol=4)
    centred = features - features.mean(axis=0)
    for left, right in ((0, 1), (2, 3), (4, 5)):
        expected = cosine(centred[left], centred[right])
        assert cosine(*layer.vectors[[left, right]].astype(float)) == pytest.approx(
            expected, abs=0.03
        )


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


def test_the_strongest_component_is_red() -> None:
    features = np.zeros((100, 5), np.float32)
    features[:, 2] = np.linspace(0, 9, 100)
    features[:, 4] = np.tile([0, 1, 1, 0], 25)
    (colors,) = principal_colors([(100, features.__getitem__)])
    assert np.all(np.diff(colors[:, 0].astype(int)) >= 0)
    assert len(np.unique(colors[::4, 1])) == len(np.unique(colors[1::4, 1])) == 1


def test_depth_runs_from_dark_to_bright() -> None:
    colors = depth_colors(np.linspace(1, 3, 9), 1.0, 3.0).astype(int)
    assert np.all(np.diff(colors @ (0.3, 0.6, 0.1)) > 0)
    assert (depth_colors(np.array([0.5]), 1.0, 3.0) == colors[0]).all()


def test_labels_beyond_the_palette_repeat() -> None:
    labels = np.array([0, 3, len(PALETTE) + 3], np.uint8)
    colors = label_colors(labels)
    assert (colors[1] == colors[2]).all()
    assert (colors[0] != colors[1]).any()


def test_marks_inside_are_drawn_on_a_copy() -> None:
    image = np.zeros((10, 20, 4), np.uint8)
    marked = mark_pixels(image, np.array([[5.0, 4.0], [40.0, 4.0]]))
    assert marked[4, 5].tolist() == [255, 255, 255, 255]
    assert marked[4, 6].tolist() == [20, 20, 20, 255]
    assert not image.any()


def test_a_ring_goes_round_its_centre_on_a_copy() -> None:
    picture = np.zeros((60, 160, 4), np.uint8)
    marked = draw_ring(picture, np.array([80.0, 30.0]), (250, 200, 90))
    colored = np.argwhere((marked[..., :3] == (250, 200, 90)).all(axis=2))
    np.testing.assert_allclose(colored.mean(axis=0), [30, 80], atol=0.6)
    assert marked[30, 80, 3] == 0
    assert not picture.any()
    named = draw_ring(picture, np.array([80.0, 30.0]), (250, 200, 90), text="A")
    beside = (named != marked).any(axis=2).nonzero()[1]
    assert beside.min() > 84


def test_a_cut_out_is_centred_and_open_beyond_the_border() -> None:
    picture = np.full((20, 30, 4), 255, np.uint8)
    picture[3, 28] = (1, 2, 3, 255)
    crop = cut_out(picture, np.array([28.2, 2.9]), 8)
    assert crop.shape == (8, 8, 4)
    assert crop[4, 4].tolist() == [1, 2, 3, 255]
    assert crop[:, :6, 3][1:].all()
    assert not crop[:, 6:, 3].any()
    assert not crop[0, :, 3].any()
