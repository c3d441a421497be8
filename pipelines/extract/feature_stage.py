"""The teacher's side of `extract`: which layer is written, and each frame's sample for it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from p2pkit.datasets.frame import Frame
from p2pkit.files import sha256_json
from p2pkit.layers.features import FeatureConfig, Guide, encode_grid, encode_pixels, feature_fields
from p2pkit.layers.geometry import decode_geometry
from p2pkit.layers.map_coding import FeatureCoder, fit_basis, pca_basis
from p2pkit.layers.views import STORED_VIEWS, SeenImages, ViewMaps
from p2pkit.store.claims import locked
from p2pkit.store.codecs import choose_map_codec
from p2pkit.store.location import claim_path
from p2pkit.store.manifest import LayerSpec, Manifest, Sample, with_codecs
from p2pkit.store.writing import StoreWriter, create_or_open, read_manifest
from p2pkit.stream.prefetch import ordered_map
from p2pkit.teachers import Teacher, open_teacher
from p2pkit.teachers.views import View

PROBED_FRAMES = 8
"""Frames whose maps decide whether compression pays."""
BASIS_FRAMES = 64
"""Frames whose maps decide the basis of `pca:K`."""

POLL_SECONDS = 0.5


FrameMaps = list[list[np.ndarray]]
"""The teacher's maps of a frame: of each view, the image as it is first, one for each image."""


@dataclass(frozen=True)
class FeatureStage:
    """A teacher bound to the layer that it fills.

    Args:
        config: of the layer.
        layer: its name, `features/<teacher>-<first 8 of its fingerprint>`.
        teacher: the frozen 2D network.
        maps: maps computed while the layer was planned, by frame key; each is used once.
        coder: turns maps into the layer's arrays.
    """

    config: FeatureConfig
    layer: str
    teacher: Teacher
    maps: dict[str, FrameMaps]
    coder: FeatureCoder

    def encode(self, frame: Frame, geometry: Sample) -> Sample:
        """Run the teacher on the frame's views and build its sample."""
        views = self.config.further_views
        maps = self.maps.pop(frame.key, None) or frame_maps(self.teacher, frame, views)
        sizes = [(image.camera.width, image.camera.height) for image in frame.views]
        grids = [self.teacher.grid(size) for size in sizes]
        if self.config.layout == "grid":
            seen = [_seen(self.teacher, view, sizes) for view in views]
            more = [ViewMaps(*row) for row in zip(seen, maps[1:], strict=True)]
            return encode_grid(frame.key, maps[0], grids, self.coder, more=more)
        weights = self.config.joint_bilateral
        return encode_pixels(
            decode_geometry(geometry),
            maps[0],
            grids,
            pairs=self.config.pairs_per_frame,
            seed=self.config.seed,
            coder=self.coder,
            guide=Guide([view.image for view in frame.views], weights) if weights else None,
        )


def frame_maps(teacher: Teacher, frame: Frame, views: Sequence[View] = ()) -> FrameMaps:
    """The teacher's maps of a frame's images, and of further views; none depends on another."""
    return [
        [teacher.features([view.of(image.image)])[0] for image in frame.views]
        for view in (View(), *views)
    ]


def _seen(teacher: Teacher, view: View, sizes: Sequence[tuple[int, int]]) -> SeenImages:
    there = tuple(view.size(size) for size in sizes)
    return SeenImages(tuple(teacher.grid(size) for size in there), there, view.flip)


def open_feature_stage(
    config: FeatureConfig,
    store: Path,
    manifest: Manifest,
    frames: Callable[[], Iterator[Frame]],
    codecs: Mapping[str, str],
) -> tuple[FeatureStage, StoreWriter]:
    """Open the teacher and add its layer to the store if it is not there.

    A new layer is planned by one worker while the others wait, so that all of them, on whatever
    machines, share its codec and its basis.

    Args:
        config: of the layer.
        store: path of the store.
        manifest: with the geometry layer.
        frames: the readable frames in the plan's order, a seeded permutation; the first ones
            decide the codec and the basis of a new layer.
        codecs: asked for, by field.
    """
    teacher = open_teacher(config.teacher)
    asked = feature_fingerprint(config, teacher, manifest)
    name = layer_name(teacher, asked)
    maps: dict[str, FrameMaps] = {}
    with locked(claim_path(store, f"plan-{name}"), poll_s=POLL_SECONDS):
        layer = {layer.name: layer for layer in read_manifest(store).layers}.get(name)
        if layer is None:
            layer, maps = plan_layer(config, teacher, asked, frames())
        layer = replace(layer, fields=with_codecs(layer.fields, codecs))
        writer = create_or_open(store, manifest.with_layer(layer))
    coder = FeatureCoder(config.coding.int8, pca_basis(layer))
    return FeatureStage(config, name, teacher, maps, coder), writer


def feature_fingerprint(
    config: FeatureConfig, teacher: Teacher, manifest: Manifest
) -> dict[str, Any]:
    """All that determines a layer's bytes, but for the basis that its frames determine."""
    coding = config.coding
    fingerprint: dict[str, Any] = {
        "geometry": manifest.layers[0].fingerprint_sha256,
        "teacher": teacher.fingerprint(),
        "layout": config.layout,
        "dtype": "|u1" if coding.int8 else "<f2",
    }
    if config.layout == "pixels":
        fingerprint |= {"pairs_per_frame": config.pairs_per_frame, "seed": config.seed}
    if (weights := config.joint_bilateral) is not None:
        fingerprint |= {"upsampling": weights.name, "upsampling_weights": asdict(weights)}
    if config.stored_views:
        fingerprint[STORED_VIEWS] = ",".join(config.view_names)
    if coding.components is not None:
        fingerprint |= {"pca_components": coding.components, "pca_frames": BASIS_FRAMES}
    return fingerprint


def layer_name(teacher: Teacher, fingerprint: dict[str, Any]) -> str:
    """`features/<teacher>-<first 8 of the fingerprint without the basis>`."""
    return f"features/{_file_name(teacher.name)}-{sha256_json(fingerprint)[:8]}"


def plan_layer(
    config: FeatureConfig, teacher: Teacher, fingerprint: dict[str, Any], frames: Iterator[Frame]
) -> tuple[LayerSpec, dict[str, FrameMaps]]:
    """A new layer, its codec and basis decided by the first frames; and these frames' maps."""
    components, name = config.coding.components, layer_name(teacher, fingerprint)
    maps: dict[str, FrameMaps] = {}
    sizes: set[tuple[int, int]] = set()
    probed = list(islice(frames, PROBED_FRAMES if components is None else BASIS_FRAMES))
    look = partial(frame_maps, teacher, views=config.further_views)
    found = ordered_map(look, probed, threads=4, ahead=PROBED_FRAMES)
    for frame, views in zip(probed, found, strict=True):
        maps[frame.key] = views
        sizes |= {(view.camera.width, view.camera.height) for view in frame.views}
    details: dict[str, Any] = {
        "teacher": teacher.name,
        "channels": teacher.channels if components is None else components,
        "layout": config.layout,
        "map": config.coding.name,
        "grids": {f"{w}x{h}": teacher.grid((w, h)).to_json() for w, h in sorted(sizes)},
    }
    if (weights := config.joint_bilateral) is not None:
        details["upsampling"] = weights.name
    if config.stored_views:
        details[STORED_VIEWS] = fingerprint[STORED_VIEWS]
    coder = FeatureCoder(config.coding.int8)
    if components is not None:
        basis = fit_basis([found for views in maps.values() for found in views[0]], components)
        coder = replace(coder, basis=basis)
        details["pca"] = basis.to_json()
        fingerprint = {**fingerprint, "basis_sha256": basis.sha256}
    stored = (
        coder.arrays("map", [coder.project(views[0][0])], stacked=True)["map"]
        for views in maps.values()
    )
    layer = LayerSpec(
        name=name,
        fields=feature_fields(
            config.layout, choose_map_codec(stored), config.coding, views=config.view_names
        ),
        fingerprint=fingerprint,
        details=details,
    )
    return layer, maps


def _file_name(teacher: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "_-" else "-" for letter in teacher)
