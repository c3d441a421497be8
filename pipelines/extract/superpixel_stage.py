"""The superpixels' side of `extract`: which layer is written, and each frame's sample for it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from p2pkit.datasets.frame import Frame
from p2pkit.geometry.superpixels import SuperpixelConfig, superpixels
from p2pkit.layers.digests import INPUTS, with_inputs
from p2pkit.layers.geometry import decode_geometry
from p2pkit.layers.superpixels import encode_superpixels, superpixel_layer
from p2pkit.pipelines.extract.feature_stage import FeatureStage
from p2pkit.store.manifest import LayerSpec, Manifest, Sample, with_codecs
from p2pkit.store.writing import StoreWriter, create_or_open, read_manifest


@dataclass(frozen=True)
class SuperpixelStage:
    """A way to cut images, bound to the layer that it fills.

    Args:
        config: of the superpixels.
        layer: its name, `superpixels/<method>-<first 8 of its fingerprint>`.
    """

    config: SuperpixelConfig
    layer: str

    def encode(self, frame: Frame, geometry: Sample) -> Sample:
        """Cut the frame's views and look up each pair's superpixel."""
        images = [superpixels(view.image, self.config) for view in frame.views]
        return encode_superpixels(decode_geometry(geometry), images)


LayerStage = FeatureStage | SuperpixelStage
"""What fills a layer beside the geometry: it has the layer's name, and encodes frames for it."""


def layer_sample(stage: LayerStage, frame: Frame, geometry: Sample) -> Sample:
    """A frame's sample for a stage's layer, with the geometry's digests of inputs if it has them.

    So a geometry shard that is lost can be compared with the layers that are left.
    """
    return with_inputs(stage.encode(frame, geometry), geometry.meta.get(INPUTS))


def open_superpixel_stage(
    config: SuperpixelConfig, store: Path, manifest: Manifest, codecs: Mapping[str, str]
) -> tuple[SuperpixelStage, StoreWriter]:
    """Add the layer of these superpixels to the store if it is not there.

    Args:
        config: of the superpixels.
        store: path of the store, whose manifest is written.
        manifest: with the geometry layer.
        codecs: asked for, by field; a layer that is there keeps its own otherwise.
    """
    layer = planned_layer(config, manifest, read_manifest(store), codecs)
    writer = create_or_open(store, manifest.with_layer(layer))
    return SuperpixelStage(config, layer.name), writer


def planned_layer(
    config: SuperpixelConfig,
    manifest: Manifest,
    stored: Manifest | None,
    codecs: Mapping[str, str],
) -> LayerSpec:
    """The layer as `stored` has it, or would get it, with the codecs that are asked for."""
    layer = superpixel_layer(config, manifest.layers[0])
    known = {} if stored is None else {found.name: found for found in stored.layers}
    fields = known.get(layer.name, layer).fields
    return replace(layer, fields=with_codecs(fields, codecs))
