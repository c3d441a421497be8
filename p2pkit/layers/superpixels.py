"""A layer of superpixels: for each pair of the geometry the superpixel that its pixel lies in."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from p2pkit.datasets.frame import Frame
from p2pkit.errors import ConfigError, StoreError
from p2pkit.files import sha256_json
from p2pkit.geometry.maps.superpixels import superpixels
from p2pkit.geometry.project import nearest_pixels
from p2pkit.layers.geometry import PointCloud, decode_geometry
from p2pkit.settings.layers import METHOD, SuperpixelConfig
from p2pkit.store.manifest import GEOMETRY, SUPERPIXELS, FieldSpec, LayerSpec, Sample

FIELD = FieldSpec(
    "superpixel", "<u2", ("pairs",), "", "zstd", "superpixel of the pair's pixel, unique over views"
)
MOST = np.iinfo(np.uint16).max + 1
"""Most superpixels of one sample: its numbers have 16 bits."""


@dataclass(frozen=True, eq=False)
class SuperpixelLayer:
    """A way to cut images, bound to the layer that it fills.

    Args:
        spec: see `superpixel_spec`.
        config: of the superpixels.
    """

    spec: LayerSpec
    config: SuperpixelConfig

    def encode(self, frame: Frame, done: Mapping[str, Sample]) -> Sample:
        """Cut the frame's views and look up each pair's superpixel."""
        images = [superpixels(view.image, self.config) for view in frame.views]
        return encode_superpixels(decode_geometry(done[GEOMETRY]), images)


def superpixel_spec(config: SuperpixelConfig, geometry: LayerSpec) -> LayerSpec:
    """The layer that `config` makes for a geometry layer: `superpixels/slic-<fingerprint8>`."""
    fingerprint: dict[str, Any] = {
        "geometry": geometry.fingerprint_sha256,
        "superpixels": config.fingerprint(),
        "dtype": FIELD.dtype,
    }
    return LayerSpec(
        name=f"{SUPERPIXELS}{METHOD}-{sha256_json(fingerprint)[:8]}",
        fields=(FIELD,),
        fingerprint=fingerprint,
        details={"superpixels": config.name},
        settings=asdict(config),
    )


def encode_superpixels(cloud: PointCloud, images: Sequence[Int64[np.ndarray, "_ _"]]) -> Sample:
    """A sample of the superpixel nearest to each pair's pixel.

    Args:
        cloud: the frame's geometry.
        images: of each view, [height, width]: the superpixel of each pixel, from 0 without gaps.

    Raises:
        ConfigError: the views have more superpixels than 16 bits can number.
    """
    counts = [int(image.max()) + 1 for image in images]
    if sum(counts) > MOST:
        raise ConfigError(
            f"frame {cloud.key}: its {len(counts)} views have {sum(counts)} superpixels together; "
            f"expected at most {MOST}: choose fewer segments with --superpixels"
        )
    ids = np.zeros(len(cloud.pair_point), dtype=np.uint16)
    first = 0
    for view, (image, count) in enumerate(zip(images, counts, strict=True)):
        mine = cloud.pair_view == view
        height, width = image.shape
        u, v = nearest_pixels(cloud.pair_uv[mine], width, height)
        ids[mine] = first + image[v, u]
        first += count
    return Sample(key=cloud.key, arrays={FIELD.name: ids}, meta={"superpixels": counts})


def pair_superpixels(
    sample: Sample, cloud: PointCloud, rows: Int64[np.ndarray, " pairs"]
) -> Int64[np.ndarray, " pairs"]:
    """Id of the superpixel of each of the chosen pairs, unique over the frame's views.

    Raises:
        StoreError: the layer has another number of pairs than the geometry.
    """
    stored = sample.arrays[FIELD.name]
    if len(stored) != len(cloud.pair_point):
        raise StoreError(
            f"frame {cloud.key}: it has superpixels for {len(stored)} pairs, but the geometry has "
            f"{len(cloud.pair_point)}; extract the superpixels again"
        )
    return stored[rows].astype(np.int64)
