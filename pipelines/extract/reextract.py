"""Extracting single shards of a finished store again, to the same bytes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from p2pkit.datasets.frame import Frame, FrameSource
from p2pkit.errors import FingerprintError, FrameError, SourceError, StoreError, TeacherError
from p2pkit.geometry.superpixels import SuperpixelConfig, parse_superpixels
from p2pkit.layers.compatibility import MADE_FROM
from p2pkit.layers.digests import check_inputs
from p2pkit.layers.features import FeatureConfig
from p2pkit.layers.geometry import GeometryConfig
from p2pkit.pipelines.extract.diagnosis import known_inputs
from p2pkit.pipelines.extract.feature_stage import open_feature_stage
from p2pkit.pipelines.extract.frames import geometry_sample, open_frames, plan_geometry
from p2pkit.pipelines.extract.settings import READING, ExtractConfig
from p2pkit.pipelines.extract.superpixel_stage import LayerStage, SuperpixelStage, layer_sample
from p2pkit.store.location import local_folder
from p2pkit.store.manifest import GEOMETRY, LayerSpec, Manifest, Sample, plan_shards
from p2pkit.store.reading import Store, open_store
from p2pkit.store.strict_json import differences
from p2pkit.store.writing import StoreWriter, create_or_open, read_and_compare
from p2pkit.stream.prefetch import ordered_map
from p2pkit.teachers import TeacherOptions, open_teacher


@dataclass(frozen=True)
class SourceConfig:
    """Where the recording and the teacher's weights of a store are.

    Args:
        dataset: a name out of `p2pkit.datasets.SOURCES`; None takes the store's.
        root: the recording's folder; None for generated scenes.
        camera_file: calibration from elsewhere, if the store was made with one.
        weights: as for `extract`; random weights of the store's seed and `default` are tried too.
        teachers: names as for `extract`, of teachers out of files or folders: a store knows these
            by their last name only.
        device: where the teacher runs. Another one than the first time may give other bytes.
        threads: frames worked on at the same time.
    """

    dataset: str | None = None
    root: Path | None = None
    camera_file: Path | None = None
    weights: str | None = None
    teachers: tuple[str, ...] = ()
    device: str = "cpu"
    threads: int = 4


@dataclass(frozen=True)
class Reextraction:
    """A recording whose fingerprint is that of the store; made by `open_reextraction`."""

    config: SourceConfig
    extraction: ExtractConfig
    store: Store
    source: FrameSource
    manifest: Manifest
    planned: list[list[str]]

    @cached_property
    def writer(self) -> StoreWriter:
        """Opened when something is written, so that to look at a store leaves no trace in it."""
        return create_or_open(self.extraction.out, self.manifest)

    def write_geometry(self, shard: int) -> None:
        """Extract the geometry of one shard, failures included.

        Raises:
            SourceError: a frame is not the one that a sample of the shard was made from.
        """
        failures: list[dict[str, str]] = []
        layer = self.store.layer(GEOMETRY)
        stored = known_inputs(self.store, shard)

        def sample(key: str) -> Sample | FrameError:
            try:
                frame = self.source.load(key)
                check_inputs(frame, stored.get(key, ()))
                return geometry_sample(frame, self.extraction, layer)
            except FrameError as error:
                return error

        def samples() -> Iterator[Sample]:
            for result in self._mapped(sample, self.planned[shard]):
                if isinstance(result, FrameError):
                    row = {"key": result.key, "stage": "frame", "reason": result.reason}
                    failures.append(row)
                else:
                    yield result

        self.writer.write(GEOMETRY, shard, samples(), failures)

    def write_layer(self, stage: LayerStage, shard: int) -> None:
        """Extract one shard of a stage's layer beside the geometry that is there."""
        store = open_store(self.store.root)
        rows = {key: row for row, key in enumerate(store.keys(shard))}

        def sample(key: str) -> Sample:
            try:
                frame = self.source.load(key)
            except FrameError as error:
                raise SourceError(f"{error}; its geometry could be extracted") from None
            geometry = store.read(GEOMETRY, shard, rows[key])
            check_inputs(frame, [geometry.meta])
            return layer_sample(stage, frame, geometry)

        self.writer.write(stage.layer, shard, self._mapped(sample, rows))

    def open_stage(self, name: str) -> LayerStage:
        """The teacher, or the way to cut images, of a layer of the store.

        Raises:
            FingerprintError: no weights that were tried give the layer's fingerprint, or the
                superpixels would be others.
        """
        layer = self.store.layer(name)
        if layer.kind == "superpixels":
            return SuperpixelStage(_same_superpixels(layer, self.store), layer.name)
        config = _feature_config(layer, self._teacher_options(layer))

        def refuse() -> Iterator[Frame]:
            raise FingerprintError(
                f"{layer.name} of {self.store.root} was made with settings that this p2pkit would "
                f"not use again: its fingerprint is {layer.fingerprint}"
            )

        stage, _ = open_feature_stage(config, self.extraction.out, self.manifest, refuse, {})
        return stage

    def check_stage(self, name: str) -> None:
        """Raise FingerprintError unless what made a layer is at hand; nothing is written."""
        layer = self.store.layer(name)
        if layer.kind == "superpixels":
            _same_superpixels(layer, self.store)
        else:
            self._teacher_options(layer)

    def _teacher_options(self, layer: LayerSpec) -> TeacherOptions:
        """Options whose teacher has the layer's fingerprint, out of the few that may."""
        wanted = _teacher_fingerprint(layer)
        tried: list[str] = []
        for options in _candidates(wanted, self.config, self.manifest.plan.seed):
            try:
                found = open_teacher(options).fingerprint()
            except TeacherError as error:
                tried.append(f"{options.weights}: {error}")
                continue
            rows = differences(wanted, found, "teacher")
            if not rows:
                return options
            told = "; ".join(f"{path} is {a!r} in the store, {b!r} now" for path, a, b in rows)
            tried.append(f"{options.weights}: {told}")
        kind, colon, name = wanted["name"].partition(":")
        means = (
            f"where {name} lies with --teacher {kind}:PATH"
            if colon
            else "its weights with --weights"
        )
        raise FingerprintError(
            f"{layer.name} of {self.store.root} cannot be extracted again to the same bytes. Name "
            f"{means}. Tried: {' | '.join(dict.fromkeys(tried))}"
        )

    def _mapped(self, work: Any, keys: Iterable[str]) -> Iterator[Any]:
        threads = self.config.threads
        return ordered_map(work, keys, threads=threads, ahead=2 * threads)


def open_reextraction(store: Store, config: SourceConfig) -> Reextraction:
    """Open the recording and compare it with the store; nothing is written.

    Raises:
        SourceError: the recording cannot be read.
        FingerprintError: the store was made from another one; the message names what differs.
        StoreError: the store was made from other stores, not from a recording.
    """
    extraction = _extraction(store, config)
    source, keys = open_frames(extraction)
    manifest = plan_geometry(extraction, source, keys)
    read_and_compare(extraction.out, manifest)
    return Reextraction(
        config=config,
        extraction=extraction,
        store=store,
        source=source,
        manifest=manifest,
        planned=plan_shards(keys, store.manifest.plan),
    )


def _extraction(store: Store, config: SourceConfig) -> ExtractConfig:
    """The settings of the geometry, as the store's fingerprint has them."""
    layer, plan = store.layer(GEOMETRY), store.manifest.plan
    fingerprint = layer.fingerprint
    names = [field.name for field in fields(GeometryConfig)]
    if MADE_FROM in fingerprint:
        raise StoreError(
            f"{store.root} was not extracted from a recording but made from other stores: repair "
            "those, and make it again"
        )
    missing = sorted({*names} - fingerprint.keys())
    if missing or set(layer.details.get("reading", ())) != set(READING):
        raise FingerprintError(
            f"{store.root} was made by a p2pkit without the settings "
            f"{', '.join(missing) or 'of reading'}; this one would give other bytes"
        )
    return ExtractConfig(
        dataset=config.dataset or str(store.manifest.dataset.get("dataset")),
        root=config.root,
        out=local_folder(str(store.root), "what is extracted again"),
        geometry=GeometryConfig(**{name: fingerprint[name] for name in names}),
        storage="zarr" if store.manifest.storage == "zarr" else "tar",
        features=FeatureConfig() if store.feature_layers else None,
        camera_file=config.camera_file,
        shard_size=plan.shard_size,
        seed=plan.seed,
        **layer.details["reading"],
    )


def _same_superpixels(layer: LayerSpec, store: Store) -> SuperpixelConfig:
    """The settings of a layer of superpixels, if they would give the same ones here.

    Raises:
        FingerprintError: they would not; the message names what differs, such as scikit-image.
    """
    config = parse_superpixels(str(layer.details.get("superpixels")))
    rows = differences(layer.fingerprint.get("superpixels"), config.fingerprint(), "superpixels")
    if rows:
        told = "; ".join(f"{path} is {a!r} in the store, {b!r} now" for path, a, b in rows)
        raise FingerprintError(
            f"{layer.name} of {store.root} cannot be extracted again to the same bytes: {told}. "
            "Install what the store names, or drop the layer with `p2pkit shards drop-layer` and "
            "extract it anew"
        )
    return config


def _teacher_fingerprint(layer: LayerSpec) -> dict[str, Any]:
    wanted = layer.fingerprint.get("teacher")
    if not isinstance(wanted, dict) or not {"name", "layer", "input_size"} <= wanted.keys():
        raise StoreError(f"the fingerprint of {layer.name} names no teacher: {wanted!r}")
    return wanted


def _candidates(
    wanted: dict[str, Any], config: SourceConfig, seed: int
) -> Iterator[TeacherOptions]:
    """Teachers that may have a fingerprint; a dilated network is told by its stride alone."""
    size = wanted["input_size"]
    guesses = [*([config.weights] if config.weights else []), "random", "default"]
    name = _named(wanted["name"], config.teachers)
    for weights in dict.fromkeys(guesses):
        for stride in (None, wanted.get("nominal_stride")):
            yield TeacherOptions(
                name=name,
                layer=wanted["layer"],
                weights=weights,
                input_size=tuple(size) if size else None,
                output_stride=stride,
                device=config.device,
                seed=seed,
                views=wanted.get("views", ""),
            )


def _named(stored: str, teachers: tuple[str, ...]) -> str:
    """The first of `teachers` that a store would know as `stored`, or else `stored`."""

    def told(teacher: str) -> str:
        kind, colon, name = teacher.partition(":")
        return f"{kind}:{Path(name).name}" if colon else teacher

    return next((teacher for teacher in teachers if told(teacher) == stored), stored)


def _feature_config(layer: LayerSpec, teacher: TeacherOptions) -> FeatureConfig:
    """The settings of a layer, as its fingerprint, or else its details, have them."""
    known: dict[str, Any] = {**layer.details, **layer.fingerprint, "teacher": teacher}
    names = [field.name for field in fields(FeatureConfig)]
    return FeatureConfig(**{name: known[name] for name in names if name in known})
