"""plan: what an extraction will cost, from a probe of a few real frames, before it is begun."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from p2pkit.datasets.frame import Frame, FrameSource
from p2pkit.errors import ConfigError, FrameError, SourceError
from p2pkit.layers.digests import check_inputs
from p2pkit.layers.features import FeatureConfig
from p2pkit.layers.map_coding import FeatureCoder, pca_basis
from p2pkit.pipelines.extract.feature_stage import (
    FeatureStage,
    feature_fingerprint,
    layer_name,
    plan_layer,
)
from p2pkit.pipelines.extract.frames import geometry_sample, loadable, open_frames, plan_geometry
from p2pkit.pipelines.extract.settings import ExtractConfig
from p2pkit.pipelines.extract.superpixel_stage import (
    LayerStage,
    SuperpixelStage,
    layer_sample,
    planned_layer,
)
from p2pkit.store.location import MANIFEST
from p2pkit.store.manifest import GEOMETRY, LayerSpec, Manifest, Sample, plan_shards, with_codecs
from p2pkit.store.sizes import LAYER_SIZES, sample_bytes
from p2pkit.store.writing import StoreWriter, read_and_compare
from p2pkit.stream.prefetch import ordered_map
from p2pkit.teachers import check_teacher_device, open_teacher


@dataclass(frozen=True)
class LayerPlan:
    """What a layer will take.

    Args:
        name: of the layer.
        bytes: of all its shards, without records.
        fields: bytes of each field, of the samples' `json`, and of the shards' `tables`.
        codecs: of each field.
        frames_done: frames whose shards of this layer are in the store already.
        map: the numbers that a feature layer stores; None of the geometry.
        explained_variance: share of the probe's variance that `pca:K` keeps; None without.
    """

    name: str
    bytes: int
    fields: dict[str, int]
    codecs: dict[str, str]
    frames_done: int
    map: str | None = None
    explained_variance: float | None = None


@dataclass(frozen=True)
class ExtractionPlan:
    """What an extraction will cost.

    Args:
        frames: of the recording.
        shards: that they are cut into.
        storage: tar or zarr.
        layers: geometry, then the teacher's and the superpixels', those that are asked for.
        bytes: of all layers.
        bytes_uncertainty: two standard errors of `bytes`, as a share; 0 where all frames were
            probed, None where one frame tells nothing of the spread.
        teacher: its name, or `none`.
        teacher_passes: images that the teacher must see for the whole layer.
        teacher_passes_left: those whose shards are not in the store yet.
        seconds_per_frame: of all layers, measured on the probe, with the extraction's threads;
            reading, geometry, teacher, superpixels and codecs, not the disk.
        seconds_left: estimate for one worker on this machine; frames that lack some layers only are
            timed by themselves.
        probed: keys of the frames that the teacher saw.
        probed_geometry: how many frames were probed for their geometry, those included.
        failed: probed frames that cannot be used, with the reason; the same share of all frames is
            expected to fail.
    """

    frames: int
    shards: int
    storage: str
    layers: tuple[LayerPlan, ...]
    bytes: int
    bytes_uncertainty: float | None
    teacher: str
    teacher_passes: int
    teacher_passes_left: int
    seconds_per_frame: float
    seconds_left: float
    probed: tuple[str, ...]
    probed_geometry: int
    failed: dict[str, str]


Lacking = tuple[str, ...]
"""Names of layers, as the manifest has them in order."""


@dataclass(frozen=True)
class WorkLeft:
    """Frames of the recording by the state of their shards.

    Args:
        done: frames of finished shards, by layer.
        lacking: frames of unfinished shards, by what these lack; where that is the geometry, every
            layer is worked out with it.
    """

    done: dict[str, int]
    lacking: dict[Lacking, int]


def work_left(
    out: Path, stored: Manifest | None, layers: Sequence[LayerSpec], shards: Sequence[Sequence[str]]
) -> WorkLeft:
    """What the store at `out` has of these layers.

    Args:
        out: the store.
        stored: its manifest; None where there is none yet.
        layers: that are asked for, geometry first.
        shards: the keys of each planned shard.
    """
    names = tuple(layer.name for layer in layers)
    known = {layer.name for layer in stored.layers} if stored is not None else set[str]()
    writer = StoreWriter(out, stored) if stored is not None else None
    done: Counter[str] = Counter(dict.fromkeys(names, 0))
    lacking: Counter[Lacking] = Counter()
    for shard, keys in enumerate(shards):
        there = {n for n in names if writer and n in known and writer.is_done(n, shard)}
        done.update(dict.fromkeys(there, len(keys)))
        lack = names if GEOMETRY not in there else tuple(n for n in names if n not in there)
        if lack:
            lacking[lack] += len(keys)
    return WorkLeft(dict(done), dict(lacking))


Progress = Callable[[int, int], None]
"""Told how many of how many frames are probed."""


@dataclass(frozen=True)
class Worker:
    """What extracts single frames in memory.

    Args:
        extraction: how.
        source: the recording.
        stages: what fills the layers beside the geometry.
        manifest: of the store as it would be, with those layers.
    """

    extraction: ExtractConfig
    source: FrameSource
    stages: tuple[LayerStage, ...]
    manifest: Manifest

    def geometry(self, key: str) -> tuple[Frame, Sample] | FrameError:
        """The frame and its geometry sample, encoded once as writing would."""
        layer = self.manifest.layers[0]
        try:
            frame = self.source.load(key)
            sample = geometry_sample(frame, self.extraction, layer)
        except FrameError as error:
            return error
        sample_bytes(layer, sample)
        return frame, sample

    def whole(self, key: str) -> tuple[Sample, ...] | FrameError:
        """The samples of all layers, geometry first, encoded once as writing would."""
        found = self.geometry(key)
        if isinstance(found, FrameError):
            return found
        others = tuple(layer_sample(stage, *found) for stage in self.stages)
        for layer, sample in zip(self.manifest.layers[1:], others, strict=True):
            sample_bytes(layer, sample)
        return found[1], *others

    def further(self, geometry: Sample, lacking: Lacking) -> None:
        """As `extract` adds layers to the geometry of a frame that is there."""
        frame = self.source.load(geometry.key)
        check_inputs(frame, [geometry.meta])
        for stage, layer in zip(self.stages, self.manifest.layers[1:], strict=True):
            if layer.name in lacking:
                sample_bytes(layer, layer_sample(stage, frame, geometry))


@dataclass(frozen=True)
class Probe:
    """What the probed frames gave.

    Args:
        chosen: keys of the frames that were extracted whole.
        many: keys of those whose geometry was, the chosen ones among them.
        samples: of each layer, geometry first.
        failed: the reason of each bad frame.
        seconds_per_frame: with all layers.
        seconds_of: the same by what a frame's shard lacks.
    """

    chosen: list[str]
    many: list[str]
    samples: tuple[list[Sample], ...]
    failed: dict[str, str]
    seconds_per_frame: float
    seconds_of: dict[Lacking, float]


def _untold(_done: int, _frames: int) -> None:
    pass


def probe_frames(
    worker: Worker,
    chosen: list[str],
    many: list[str],
    left: WorkLeft,
    progress: Progress | None = None,
) -> Probe:
    """Extract the chosen frames in memory, as `extract` would, and the geometry of the others.

    Raises:
        SourceError: no chosen frame is good.
    """
    progress = progress or _untold
    threads = worker.extraction.threads
    others = [key for key in many if key not in set(chosen)]
    frames = len(chosen) + len(others)
    progress(0, frames)
    worker.whole(chosen[0])  # compiled kernels and the network's first pass are slower: not timed
    began = time.perf_counter()
    whole: list[tuple[Sample, ...] | FrameError] = []
    for row in ordered_map(worker.whole, chosen, threads=threads, ahead=2 * threads):
        whole.append(row)
        progress(len(whole), frames)
    seconds = (time.perf_counter() - began) / len(chosen)
    rest: list[tuple[Frame, Sample] | FrameError] = []
    for found in ordered_map(worker.geometry, others, threads=threads, ahead=2 * threads):
        rest.append(found)
        progress(len(chosen) + len(rest), frames)
    good = [row for row in whole if not isinstance(row, FrameError)]
    failed = {row.key: row.reason for row in (*whole, *rest) if isinstance(row, FrameError)}
    if not good:
        raise SourceError(
            f"none of the {len(chosen)} probed frames can be used; the first: {whole[0]}"
        )
    samples = tuple(map(list, zip(*good, strict=True)))
    seconds_of = {
        lacking: seconds if lacking[0] == GEOMETRY else _timed(worker, samples[0], lacking)
        for lacking in left.lacking
    }
    samples[0].extend(row[1] for row in rest if isinstance(row, tuple))
    return Probe(chosen, many, samples, failed, seconds, seconds_of)


def _timed(worker: Worker, geometry: Sequence[Sample], lacking: Lacking) -> float:
    """Seconds of a frame whose shard has its geometry and lacks these layers."""
    threads = worker.extraction.threads
    began = time.perf_counter()
    work = partial(worker.further, lacking=lacking)
    done = list(ordered_map(work, geometry, threads=threads, ahead=2 * threads))
    return (time.perf_counter() - began) / len(done)


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
