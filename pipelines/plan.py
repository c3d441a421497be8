"""plan: what an extraction will cost, from a probe of a few real frames, before it is begun."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from p2pkit.datasets.frame import Frame, FrameSource
from p2pkit.errors import ConfigError
from p2pkit.pipelines.extract_plan import (
    ExtractConfig,
    loadable,
    open_frames,
    plan_geometry,
)
from p2pkit.pipelines.feature_stage import (
    FeatureConfig,
    FeatureStage,
    feature_fingerprint,
    layer_name,
    plan_layer,
)
from p2pkit.pipelines.plan_left import WorkLeft, work_left
from p2pkit.pipelines.plan_probe import Probe, Progress, Worker, probe_frames
from p2pkit.pipelines.planned import ExtractionPlan, LayerPlan
from p2pkit.pipelines.superpixel_stage import (
    LayerStage,
    SuperpixelStage,
    planned_layer,
)
from p2pkit.shards.layout import MANIFEST
from p2pkit.shards.map_coding import FeatureCoder, pca_basis
from p2pkit.shards.model import LayerSpec, Manifest, Sample, with_codecs
from p2pkit.shards.plan import plan_shards
from p2pkit.shards.sizes import LAYER_SIZES, sample_bytes
from p2pkit.shards.writer import read_and_compare
from p2pkit.teachers import check_teacher_device, open_teacher

PROBED_FRAMES = 8
GEOMETRY_FACTOR = 8
"""So many times more frames are probed for their geometry: its size varies, and it is cheap."""


@dataclass(frozen=True)
class PlanConfig:
    """Settings of one plan.

    Args:
        extraction: what would be extracted; where a store is at its `out`, its shards count as
            done.
        frames: how many frames the teacher sees; eight times as many are probed for their
            geometry. The recording is cut into as many equal runs, and one frame of each is drawn
            by the extraction's seed.
    """

    extraction: ExtractConfig
    frames: int = PROBED_FRAMES

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ConfigError(f"frames is {self.frames}; at least one must be probed")


def run(config: PlanConfig, *, progress: Progress | None = None) -> ExtractionPlan:
    """Probe a few frames; nothing is written to the store.

    Raises:
        SourceError: the recording cannot be read, or no probed frame is good.
        FingerprintError: the store at `out` was made from other inputs; extract would stop too.
    """
    extraction = config.extraction
    if extraction.features is not None:
        check_teacher_device(extraction.features.teacher)
    source, keys = open_frames(extraction)
    manifest = plan_geometry(extraction, source, keys)
    stored = _stored(extraction, manifest)
    many = _spread(keys, GEOMETRY_FACTOR * config.frames, extraction.seed)
    chosen = _spread(many, config.frames, extraction.seed)
    stages: list[LayerStage] = []
    for stage, layer in _open_stages(extraction, source, manifest, stored, chosen):
        stages.append(stage)
        manifest = manifest.with_layer(layer)
    if stored is not None:
        read_and_compare(extraction.out, manifest)
    worker = Worker(extraction, source, tuple(stages), manifest)
    shards = plan_shards(keys, manifest.plan)
    left = work_left(extraction.out, stored, manifest.layers, shards)
    probed = probe_frames(worker, chosen, many, left, progress)
    return _plan(worker, shards, left, probed)


def _stored(extraction: ExtractConfig, manifest: Manifest) -> Manifest | None:
    if not (extraction.out / MANIFEST).is_file():
        return None
    return read_and_compare(extraction.out, manifest)


def _spread(keys: Sequence[str], frames: int, seed: int) -> list[str]:
    """One key of each of `frames` equal runs of the recording."""
    random = np.random.default_rng(seed)
    ends = np.linspace(0, len(keys), min(frames, len(keys)) + 1).astype(int)
    return [keys[int(random.integers(first, end))] for first, end in pairwise(ends)]


def _open_stages(
    extraction: ExtractConfig,
    source: FrameSource,
    manifest: Manifest,
    stored: Manifest | None,
    chosen: list[str],
) -> Iterator[tuple[LayerStage, LayerSpec]]:
    """What fills each layer beside the geometry, and that layer as the store has it or would."""
    if extraction.features is not None:
        frames = loadable(source, chosen)
        yield _open_teacher(extraction, extraction.features, frames, manifest, stored)
    if extraction.superpixels is not None:
        layer = planned_layer(extraction.superpixels, manifest, stored, extraction.codecs)
        yield SuperpixelStage(extraction.superpixels, layer.name), layer


def _open_teacher(
    extraction: ExtractConfig,
    config: FeatureConfig,
    frames: Iterator[Frame],
    manifest: Manifest,
    stored: Manifest | None,
) -> tuple[FeatureStage, LayerSpec]:
    """The teacher, and the layer that it has in the store or would get."""
    teacher = open_teacher(config.teacher)
    asked = feature_fingerprint(config, teacher, manifest)
    name = layer_name(teacher, asked)
    known = {layer.name: layer for layer in stored.layers} if stored is not None else {}
    layer = known.get(name)
    if layer is None:
        layer, _ = plan_layer(config, teacher, asked, frames)
    layer = replace(layer, fields=with_codecs(layer.fields, extraction.codecs))
    coder = FeatureCoder(config.coding.int8, pca_basis(layer))
    return FeatureStage(config, name, teacher, {}, coder), layer


def _plan(worker: Worker, shards: list[list[str]], left: WorkLeft, probe: Probe) -> ExtractionPlan:
    manifest, frames = worker.manifest, sum(map(len, shards))
    good = len(probe.samples[0]) / len(probe.many)
    layers = tuple(
        replace(
            _layer_plan(layer, rows, shards, good, manifest.storage),
            frames_done=left.done[layer.name],
        )
        for layer, rows in zip(manifest.layers, probe.samples, strict=True)
    )
    passes, teacher, unseen = 0.0, "none", 0
    if worker.extraction.features is not None:
        images = float(np.mean([len(sample.meta["grids"]) for sample in probe.samples[1]]))
        passes = good * images * worker.extraction.features.looks
        teacher = manifest.layers[1].details["teacher"]
        unseen = frames - layers[1].frames_done
    return ExtractionPlan(
        frames=frames,
        shards=len(shards),
        storage=manifest.storage,
        layers=layers,
        bytes=sum(layer.bytes for layer in layers),
        bytes_uncertainty=_uncertainty(manifest, probe.samples, frames),
        teacher=teacher,
        teacher_passes=round(frames * passes),
        teacher_passes_left=round(unseen * passes),
        seconds_per_frame=probe.seconds_per_frame,
        seconds_left=sum((n * probe.seconds_of[lack] for lack, n in left.lacking.items()), 0.0),
        probed=tuple(probe.chosen),
        probed_geometry=len(probe.many),
        failed=probe.failed,
    )


def _layer_plan(
    layer: LayerSpec, samples: list[Sample], shards: list[list[str]], good: float, storage: str
) -> LayerPlan:
    sizes = LAYER_SIZES[storage](layer, samples, shards)
    fields = {name: round(size * good) for name, size in sizes.items()}
    basis = pca_basis(layer)
    return LayerPlan(
        name=layer.name,
        bytes=sum(fields.values()),
        fields=fields,
        codecs={spec.name: spec.codec for spec in layer.fields},
        frames_done=0,
        map=layer.details.get("map"),
        explained_variance=sum(basis.explained_variance) if basis is not None else None,
    )


def _uncertainty(
    manifest: Manifest, samples: tuple[list[Sample], ...], frames: int
) -> float | None:
    """Two standard errors of the mean size, as a share, for draws without replacement."""
    mean = variance = 0.0
    for layer, rows in zip(manifest.layers, samples, strict=True):
        sizes = [sum(sample_bytes(layer, sample).values()) for sample in rows]
        mean += float(np.mean(sizes))
        if len(sizes) < frames:
            if len(sizes) < 2:
                return None
            variance += float(np.var(sizes, ddof=1)) * (1 - len(sizes) / frames) / len(sizes)
    return 2 * variance**0.5 / mean
