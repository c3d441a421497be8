import numpy as np
import pytest

from p2pkit.errors import ConfigError, StoreError
from p2pkit.geometry.maps.superpixels import SuperpixelConfig
from p2pkit.layers.geometry import PointCloud
from p2pkit.layers.superpixels import encode_superpixels, pair_superpixels, superpixel_spec
from p2pkit.store.manifest import FieldSpec, LayerSpec, Sample

SIZES = ((7, 5), (4, 6))
"""Width and height of each view."""


def cloud_of(pairs: int = 40) -> PointCloud:
    random = np.random.default_rng(0)
    view = random.integers(0, 2, pairs).astype(np.uint8)
    # pixels are centred at integers, so a projection lies up to half a pixel outside
    uv = random.uniform(-0.5, np.array(SIZES)[view] - 0.5).astype(np.float32)
    return PointCloud(
        key="frame-0",
        sequence="",
        points=np.zeros((pairs, 3), np.float32),
        colors=np.zeros((pairs, 3), np.uint8),
        labels=None,
        pair_point=np.arange(pairs),
        pair_view=view,
        pixels=uv,
        image_sizes=SIZES,
    )


def images_of(counts: tuple[int, int] = (5, 3)) -> list[np.ndarray]:
    images = [np.arange(w * h).reshape(h, w) % n for (w, h), n in zip(SIZES, counts, strict=True)]
    images[0][-1, -1] = counts[0] - 1
    images[1][-1, -1] = counts[1] - 1
    return images


def test_each_pair_has_the_superpixel_of_its_nearest_pixel_unique_over_the_views() -> None:
    cloud, images = cloud_of(), images_of()
    sample = encode_superpixels(cloud, images)
    assert sample.meta == {"superpixels": [5, 3]}
    found = sample.arrays["superpixel"]
    assert found.dtype == np.uint16
    for row, (view, (u, v)) in enumerate(zip(cloud.pair_view, cloud.pair_uv, strict=True)):
        last_column, last_line = (size - 1 for size in SIZES[view])
        column = min(max(round(float(u)), 0), last_column)
        line = min(max(round(float(v)), 0), last_line)
        assert found[row] == images[view][line, column] + (5 if view == 1 else 0)
    rows = np.array([3, 39, 0])
    assert np.array_equal(pair_superpixels(sample, cloud, rows), found[rows].astype(np.int64))


def test_more_than_sixteen_bits_are_refused_and_all_sixteen_are_used() -> None:
    cloud = cloud_of()
    images = images_of((65533, 3))
    assert encode_superpixels(cloud, images).meta == {"superpixels": [65533, 3]}
    with pytest.raises(ConfigError, match="65537 superpixels together; expected at most 65536"):
        encode_superpixels(cloud, images_of((65534, 3)))


def test_superpixels_of_another_geometry_are_refused() -> None:
    sample = Sample("frame-0", {"superpixel": np.zeros(39, np.uint16)}, {"superpixels": [1, 1]})
    with pytest.raises(StoreError, match="for 39 pairs, but the geometry has 40"):
        pair_superpixels(sample, cloud_of(), np.arange(3))


def test_the_layer_is_named_by_all_that_decides_its_bytes() -> None:
    geometry = LayerSpec("geometry", (FieldSpec("points", "<f4", ("points", "3")),), {"a": 1})
    other = LayerSpec("geometry", geometry.fields, {"a": 2})
    layers = [
        superpixel_spec(SuperpixelConfig(), geometry),
        superpixel_spec(SuperpixelConfig(), other),
        superpixel_spec(SuperpixelConfig(151), geometry),
        superpixel_spec(SuperpixelConfig(150, 7.0), geometry),
    ]
    assert len({layer.name for layer in layers}) == len(layers)
    for layer in layers:
        assert layer.kind == "superpixels"
        assert layer.name == f"superpixels/slic-{layer.fingerprint_sha256[:8]}"
    assert layers[2].details == {"superpixels": "slic:151:6"}
