import inspect
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import skimage
import skimage.data
from skimage.measure import label
from skimage.segmentation import slic

from p2pkit.errors import ConfigError
from p2pkit.geometry.maps.superpixels import superpixels
from p2pkit.settings.layers import SuperpixelConfig, parse_superpixels

PHOTO = skimage.data.coffee()[:200, 100:350]


@pytest.mark.parametrize("segments", [20, 150])
def test_numbers_have_no_gaps_and_regions_hang_together(segments: int) -> None:
    found = superpixels(PHOTO, SuperpixelConfig(segments))
    count = int(found.max()) + 1
    assert found.shape == PHOTO.shape[:2]
    assert np.array_equal(np.unique(found), np.arange(count))
    assert 0.5 * segments < count < 1.5 * segments
    assert int(label(found + 1, connectivity=2).max()) == count


def test_the_same_at_every_call_and_in_threads() -> None:
    config = SuperpixelConfig()
    expected = superpixels(PHOTO, config)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: superpixels(PHOTO, config), range(8)):
            assert np.array_equal(found, expected)


def test_they_follow_an_edge_that_compactness_would_cut() -> None:
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    image[:, 33:] = 255

    def mixed(compactness: float) -> int:
        """Pixels whose superpixel lies on both sides."""
        found = superpixels(image, SuperpixelConfig(12, compactness))
        both = np.intersect1d(found[:, :31], found[:, 36:])
        return int(np.isin(found, both).sum())

    assert mixed(6.0) == 0
    assert mixed(1e6) > 0


def test_every_setting_of_the_library_is_in_the_fingerprint() -> None:
    found = SuperpixelConfig(7, 2.5).fingerprint()
    assert found.pop("library") == f"scikit-image {skimage.__version__}"
    assert found.pop("method") == "slic"
    assert found["n_segments"] == 7
    assert found["compactness"] == 2.5
    assert {"image", *found} == set(inspect.signature(slic).parameters)


def test_texts_are_read_and_written() -> None:
    assert parse_superpixels("slic:150") == SuperpixelConfig()
    assert parse_superpixels("slic:80:2.5") == SuperpixelConfig(80, 2.5)
    for config in (SuperpixelConfig(), SuperpixelConfig(3, 0.25)):
        assert parse_superpixels(config.name) == config


@pytest.mark.parametrize(
    "text", ["", "slic", "slic:", "slic:a", "slic:1.5", "slic:1:2:3", "dino:5"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="such as slic:150 or slic:150:6"):
        parse_superpixels(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slic:0", "segments is 0; must be at least 1"),
        ("slic:9:0", "compactness is 0"),
        ("slic:9:inf", "is inf"),
    ],
)
def test_impossible_numbers_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_superpixels(text)
