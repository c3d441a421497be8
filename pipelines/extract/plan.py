"""plan: estimate the cost of an extraction from a probe of a few frames, before it starts."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from p2pkit.errors import FrameError, SourceError
from p2pkit.layers.layer import Layer
from p2pkit.layers.map_coding import pca_basis
from p2pkit.pipelines.extract.settings import ExtractConfig, PlanConfig
from p2pkit.pipelines.extract.sizes import LAYER_SIZES, sample_bytes
from p2pkit.pipelines.extract.start import (
    layers_manifest,
    open_annotations,
    open_features,
    open_geometry,
    open_recording,
    stored_manifest,
    unedited,
)
from p2pkit.pipelines.extract.worker import Recording, Samples, Work, Worker
from p2pkit.store.manifest import GEOMETRY, LayerSpec, Manifest, Sample, plan_shards
from p2pkit.store.writing import StoreWriter, read_and_compare
from p2pkit.teachers import open_teacher


@dataclass(frozen=True)
class LayerPlan:
    """The size of one layer.

    Args:
        name: of the layer.
        bytes: of all its shards, without records.
        fields: bytes of each field, of the samples' `json`, and of the shards' `tables`.
        codecs: of each field.
        frames_done: frames whose shards of this layer are already in the store.
        map: the numbers that a feature layer stores; None for the geometry.
        explained_variance: share of the fitted cells' variance that `pca:K` keeps; None without.
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
        shards: their number.
        storage: tar or zarr.
        layers: the requested ones: geometry, then the teacher's, superpixels and boxes.
        bytes: of all layers.
        bytes_uncertainty: two standard errors of `bytes`, as a share; 0 where all frames were
            probed, None if only one was, which does not show the spread.
        teacher: its name, or `none`.
        teacher_passes: images that the teacher must see for the whole layer.
        teacher_passes_left: those whose shards are not in the store yet.
        seconds_per_frame: of all layers, measured on the probe, with the extraction's threads;
            reading, geometry, teacher, superpixels and codecs, not the disk.
        seconds_left: estimate for one worker on this machine; frames that lack only some layers are
            timed separately.
        probed: keys of the frames that were extracted whole.
        probed_geometry: number of frames probed for their geometry, including those in `probed`.
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
        lacking: frames of unfinished shards, by missing layers; if the geometry is missing, every
            layer is computed with it.
    """

    done: dict[str, int]
    lacking: dict[Lacking, int]


def work_left(
    out: Path, stored: Manifest | None, layers: Sequence[LayerSpec], shards: Sequence[Sequence[str]]
) -> WorkLeft:
    """What the store at `out` already has of these layers.

    Args:
        out: the store.
        stored: its manifest; None if there is none yet.
        layers: the requested ones, geometry first.
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
"""Called with the number of probed frames and the total."""


@dataclass(frozen=True)
class Probe:
    """Results of the probed frames.

    Args:
        chosen: keys of the frames that were extracted whole.
        many: keys of those whose geometry was, including the chosen ones.
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


def probe_frames(
    worker: Worker, chosen: list[str], many: list[str], left: WorkLeft, progress: Progress
) -> Probe:
    """Extract the chosen frames in memory, as `extract` would, and the geometry of the others.

    Raises:
        SourceError: no chosen frame is good.
    """
    others = [key for key in many if key not in set(chosen)]
    frames = len(chosen) + len(others)
    progress(0, frames)
    # Compilation of kernels and the network's first pass are not timed.
    list(encoded(worker, Work(chosen[:1], worker.names)))
    whole: list[Samples | FrameError] = []
    began = time.perf_counter()
    for result in encoded(worker, Work(chosen, worker.names)):
        whole.append(result)
        progress(len(whole), frames)
    seconds = (time.perf_counter() - began) / len(chosen)
    rest: list[Samples | FrameError] = []
    for result in encoded(worker, Work(others, [GEOMETRY])):
        rest.append(result)
        progress(len(chosen) + len(rest), frames)
    failed = {row.key: row.reason for row in (*whole, *rest) if isinstance(row, FrameError)}
    good = [row for row in whole if not isinstance(row, FrameError)]
    if not good:
        raise SourceError(
            f"none of the {len(chosen)} probed frames can be used; the first: {whole[0]}"
        )
    samples = tuple([row[name] for row in good] for name in worker.names)
    seconds_of = {
        lacking: seconds if lacking[0] == GEOMETRY else _timed(worker, samples[0], lacking)
        for lacking in left.lacking
    }
    samples[0].extend(row[GEOMETRY] for row in rest if not isinstance(row, FrameError))
    return Probe(chosen, many, samples, failed, seconds, seconds_of)


def encoded(worker: Worker, work: Work) -> Iterator[Samples | FrameError]:
    """The samples of frames, encoded as for writing."""

    def encode(found: Samples) -> None:
        for layer in worker.layers:
            if layer.spec.name in found:
                sample_bytes(layer.spec, found[layer.spec.name])

    return worker.samples(work, encode)


def _timed(worker: Worker, geometry: Sequence[Sample], lacking: Lacking) -> float:
    """Seconds of a frame whose shard has its geometry and lacks these layers."""
    rows = {sample.key: sample for sample in geometry}
    began = time.perf_counter()
    done = list(encoded(worker, Work(list(rows), lacking, geometry=rows)))
    return (time.perf_counter() - began) / len(done)


GEOMETRY_FACTOR = 8
"""This many times more frames are probed for their geometry: its size varies, and it is cheap."""


def run(config: PlanConfig, *, progress: Progress | None = None) -> ExtractionPlan:
    """Probe a few frames; nothing is written to the store.

    Raises:
        SourceError: the recording cannot be read, or no probed frame is good.
        FingerprintError: the store at `out` was made from other inputs; extract would fail, too.
    """
    extraction = config.extraction
    recording = open_recording(extraction)
    stored = stored_manifest(extraction.out)
    keys = recording.keys
    many = _spread(keys, GEOMETRY_FACTOR * config.frames, extraction.seed)
    chosen = _spread(many, config.frames, extraction.seed)
    layers = _layers(extraction, recording, stored, chosen)
    manifest = layers_manifest(extraction, layers)
    if stored is not None:
        read_and_compare(extraction.out, manifest)
    # Frames and maps used to plan the layers do not count as finished work.
    fresh = Recording(recording.source, keys)
    worker = Worker(fresh, layers, extraction.threads)
    shards = plan_shards(keys, manifest.plan)
    left = work_left(extraction.out, stored, manifest.layers, shards)
    probed = probe_frames(worker, chosen, many, left, progress or (lambda done, frames: None))
    return _plan(extraction, manifest, shards, left, probed)


def _layers(
    extraction: ExtractConfig, recording: Recording, stored: Manifest | None, chosen: list[str]
) -> list[Layer]:
    """The layers as the store has or would get them; nothing is written."""
    geometry = open_geometry(extraction, recording, stored)
    layers: list[Layer] = [geometry]
    manifest = layers_manifest(extraction, layers)
    if stored is not None:
        read_and_compare(extraction.out, manifest)
    if extraction.features is not None:
        teacher = open_teacher(extraction.features.teacher)
        frames = recording.readable(chosen)
        if extraction.features.coding.components is not None:
            # A few frames may have fewer cells than the basis has components.
            frames = unedited(recording, manifest, extraction.out, stored)
        features = open_features(extraction, teacher, geometry.spec, stored, frames)
        features.maps.clear()
        layers.append(features)
    return [*layers, *open_annotations(extraction, recording, geometry.spec, stored)]


def _spread(keys: Sequence[str], frames: int, seed: int) -> list[str]:
    """One key of each of `frames` equal runs of the recording."""
    random = np.random.default_rng(seed)
    ends = np.linspace(0, len(keys), min(frames, len(keys)) + 1).astype(int)
    return [keys[int(random.integers(first, end))] for first, end in pairwise(ends)]


def _plan(
    extraction: ExtractConfig,
    manifest: Manifest,
    shards: list[list[str]],
    left: WorkLeft,
    probe: Probe,
) -> ExtractionPlan:
    frames = sum(map(len, shards))
    good = len(probe.samples[0]) / len(probe.many)
    layers = tuple(
        replace(
            _layer_plan(layer, rows, shards, good, manifest.storage),
            frames_done=left.done[layer.name],
        )
        for layer, rows in zip(manifest.layers, probe.samples, strict=True)
    )
    passes, teacher, unseen = 0.0, "none", 0
    if extraction.features is not None:
        images = float(np.mean([len(sample.meta["grids"]) for sample in probe.samples[1]]))
        passes = good * images * extraction.features.passes_per_image
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
