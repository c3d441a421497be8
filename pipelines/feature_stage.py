"""The teacher's side of `extract`: which layer is written, and each frame's sample for it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from p2pkit.datasets.frame import Frame
from p2pkit.files import sha256_json
from p2pkit.shards.codecs import choose_map_codec
from p2pkit.shards.feature_layer import Layout, encode_grid, encode_pixels, feature_fields
from p2pkit.shards.geometry_layer import decode_geometry
from p2pkit.shards.model import LayerSpec, Manifest, Sample
from p2pkit.shards.writer import StoreWriter, create_or_open, read_manifest
from p2pkit.stream.prefetch import ordered_map
from p2pkit.teachers import Teacher, TeacherOptions, open_teacher

PROBED_FRAMES = 8
"""Frames whose maps decide whether compression pays."""


@dataclass(frozen=True)
class FeatureConfig:
    """What a feature layer holds.

    Args:
        teacher: the 2D network.
        layout: `grid` stores the teacher's map, `pixels` its upsampled value at sampled pairs.
        pairs_per_frame: pairs per frame that `pixels` stores; 0 stores all.
        seed: of the choice of pairs.
    """

    teacher: TeacherOptions = field(default_factory=TeacherOptions)
    layout: Layout = "grid"
    pairs_per_frame: int = 16384
    seed: int = 0


@dataclass(frozen=True)
class FeatureStage:
    """A teacher bound to the layer that it fills.

    Args:
        config: of the layer.
        layer: its name, `features/<teacher>-<first 8 of its fingerprint>`.
        teacher: the frozen 2D network.
        maps: maps computed while the codec was chosen, by frame key; each is used once.
    """

    config: FeatureConfig
    layer: str
    teacher: Teacher
    maps: dict[str, list[np.ndarray]]

    def encode(self, frame: Frame, geometry: Sample) -> Sample:
        """Run the teacher on the frame's views and build its sample."""
        maps = self.maps.pop(frame.key, None) or view_maps(self.teacher, frame)
        grids = [self.teacher.grid((view.camera.width, view.camera.height)) for view in frame.views]
        if self.config.layout == "grid":
            return encode_grid(frame.key, maps, grids)
        return encode_pixels(
            decode_geometry(geometry),
            maps,
            grids,
            pairs=self.config.pairs_per_frame,
            seed=self.config.seed,
        )


def view_maps(teacher: Teacher, frame: Frame) -> list[np.ndarray]:
    """The teacher's map of each view; no map depends on another image."""
    return [teacher.features([view.image])[0] for view in frame.views]


def open_feature_stage(
    config: FeatureConfig,
    store: Path,
    manifest: Manifest,
    frames: Callable[[], Iterator[Frame]],
) -> tuple[FeatureStage, StoreWriter]:
    """Open the teacher and add its layer to the store if it is not there.

    Args:
        config: of the layer.
        store: path of the store.
        manifest: with the geometry layer.
        frames: the readable frames of the first shard that has any; a few decide the codec of a
            new layer.
    """
    teacher = open_teacher(config.teacher)
    fingerprint: dict[str, Any] = {
        "geometry": manifest.layers[0].fingerprint_sha256,
        "teacher": teacher.fingerprint(),
        "layout": config.layout,
        "dtype": "<f2",
    }
    if config.layout == "pixels":
        fingerprint |= {"pairs_per_frame": config.pairs_per_frame, "seed": config.seed}
    name = f"features/{_file_name(teacher.name)}-{sha256_json(fingerprint)[:8]}"
    stage = FeatureStage(config=config, layer=name, teacher=teacher, maps={})
    known = {layer.name: layer for layer in read_manifest(store).layers}
    layer = known.get(name) or _new_layer(stage, fingerprint, frames())
    return stage, create_or_open(store, manifest.with_layer(layer))


def _new_layer(
    stage: FeatureStage, fingerprint: dict[str, Any], frames: Iterator[Frame]
) -> LayerSpec:
    sizes: set[tuple[int, int]] = set()
    probed = list(islice(frames, PROBED_FRAMES))
    maps = ordered_map(partial(view_maps, stage.teacher), probed, threads=4, ahead=PROBED_FRAMES)
    for frame, found in zip(probed, maps, strict=True):
        stage.maps[frame.key] = found
        sizes |= {(view.camera.width, view.camera.height) for view in frame.views}
    codec = choose_map_codec(found[0] for found in stage.maps.values())
    return LayerSpec(
        name=stage.layer,
        fields=feature_fields(stage.config.layout, codec),
        fingerprint=fingerprint,
        details={
            "teacher": stage.teacher.name,
            "channels": stage.teacher.channels,
            "layout": stage.config.layout,
            "grids": {f"{w}x{h}": stage.teacher.grid((w, h)).to_json() for w, h in sorted(sizes)},
        },
    )


def _file_name(teacher: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "_-" else "-" for letter in teacher)
