"""The start of an extraction: settings checked, recording, teacher and layers opened.

Only `begin` writes, and only once everything has been checked.
"""

import contextlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from p2pkit.datasets.boxes import box_fingerprint_of, box_names_of
from p2pkit.datasets.frame import Frame, SourceOptions
from p2pkit.datasets.left_out import left_out_by
from p2pkit.datasets.registry import open_source
from p2pkit.errors import ConfigError, SourceError
from p2pkit.layers.boxes import FIELDS as BOX_FIELDS
from p2pkit.layers.boxes import BoxLayer, box_spec
from p2pkit.layers.digests import check_inputs, known_inputs
from p2pkit.layers.features import (
    FeatureLayer,
    FrameMaps,
    feature_fields,
    feature_fingerprint,
    frame_maps,
    layer_name,
    planned_features,
    probe_frames,
)
from p2pkit.layers.geometry import GeometryLayer, geometry_spec
from p2pkit.layers.layer import Layer
from p2pkit.layers.superpixels import FIELD as SUPERPIXEL
from p2pkit.layers.superpixels import SuperpixelLayer, superpixel_spec
from p2pkit.pipelines.extract.settings import ExtractConfig, check_settings, kept_settings
from p2pkit.pipelines.extract.worker import Recording
from p2pkit.store.claims import locked
from p2pkit.store.location import CLAIMS, MANIFEST, claim_path
from p2pkit.store.manifest import (
    LEFT_OUT,
    FieldSpec,
    LayerSpec,
    Manifest,
    Plan,
    plan_shards,
    with_codecs,
)
from p2pkit.store.reading import Store
from p2pkit.store.tar.writer import LONGEST_NAME, member_name
from p2pkit.store.writing import (
    StoreWriter,
    create_or_open,
    read_and_compare,
    read_manifest,
    refuse_foreign_folder,
    system_refusals_as_store_errors,
)
from p2pkit.stream.prefetch import ordered_map
from p2pkit.teachers import Teacher, check_teacher_device, open_teacher

POLL_SECONDS = 0.5


def open_recording(config: ExtractConfig) -> Recording:
    """Check the settings and open the recording.

    Raises:
        ConfigError: a setting is impossible, or the teacher's device is not available.
        SourceError: the recording cannot be read, or has no frames.
    """
    check_settings(config)
    if config.features is not None:
        check_teacher_device(config.features.teacher)
    source = open_source(
        config.dataset,
        SourceOptions(
            root=config.root,
            camera_file=config.camera,
            limit=config.limit,
            seed=config.seed,
            every=config.every,
            flying_margin=config.flying_margin,
            fuse=config.fuse,
            depth_range_m=(config.geometry.depth_min, config.geometry.depth_max),
            depth_units=config.depth_units,
            streams=config.streams,
        ),
    )
    keys = source.keys()
    if not keys:
        raise SourceError(f"{config.dataset} at {config.root} has no frames; nothing to extract")
    return Recording(source, keys)


def open_geometry(
    config: ExtractConfig, recording: Recording, stored: Manifest | None
) -> GeometryLayer:
    """The geometry layer as the store has or would get it.

    Fields without a requested codec keep the store's.

    Args:
        config: of the extraction.
        recording: already open.
        stored: manifest of the existing store; None if there is none.

    Raises:
        SourceError: no frame can be read, or a key is too long.
        ConfigError: a codec is requested for a field that no layer has, or a teacher or superpixels
            for frames without images.
        StoreError: the codec is unknown, or does not support the field's type.
    """
    first = _first_good_frame(recording)
    if not first.views:
        _check_no_images_needed(config)
    source = recording.source
    dataset = {
        **source.fingerprint(),
        "label_names": None if source.label_names is None else list(source.label_names),
        "ignore_label": source.ignore_label,
    }
    plan = Plan(seed=config.seed, shard_size=config.shard_size, frames=len(recording.keys))
    spec = geometry_spec(first, config.geometry, dataset=dataset, plan=plan)
    _check_codecs(config, spec.fields, has_boxes=box_names_of(source) is not None)
    if config.format == "tar":
        _check_keys(recording.keys, spec.fields)
    known = {} if stored is None else {row.name: row.codec for row in stored.layers[0].fields}
    fields = with_codecs(spec.fields, known | config.codecs)
    details = dict(spec.details)
    if left_out := left_out_by(source):
        details[LEFT_OUT] = [part._asdict() for part in left_out]
    settings = kept_settings(config)
    spec = replace(spec, fields=fields, details=details, settings=settings)
    return GeometryLayer(spec, config.geometry)


def layers_manifest(config: ExtractConfig, layers: Sequence[Layer]) -> Manifest:
    """The manifest of a store with these layers, geometry first."""
    specs = tuple(layer.spec for layer in layers)
    fingerprint = specs[0].fingerprint
    plan = Plan(**fingerprint["plan"])
    return Manifest(fingerprint["dataset"], plan, config.format, specs)


def open_superpixels(
    config: ExtractConfig, geometry: LayerSpec, stored: Manifest | None
) -> SuperpixelLayer | None:
    """The layer of superpixels as the store has or would get it; None if none is requested."""
    if config.superpixels is None:
        return None
    spec = superpixel_spec(config.superpixels, geometry)
    spec = _stored_spec(stored, spec.name) or spec
    fields = with_codecs(spec.fields, config.codecs)
    return SuperpixelLayer(replace(spec, fields=fields), config.superpixels)


def open_boxes(
    config: ExtractConfig, recording: Recording, geometry: LayerSpec, stored: Manifest | None
) -> BoxLayer | None:
    """The layer of boxes as the store has or would get it; None for recordings without boxes."""
    names = box_names_of(recording.source)
    if names is None:
        return None
    spec = box_spec(names, box_fingerprint_of(recording.source), geometry)
    spec = _stored_spec(stored, spec.name) or spec
    return BoxLayer(replace(spec, fields=with_codecs(spec.fields, config.codecs)))


def open_annotations(
    config: ExtractConfig, recording: Recording, geometry: LayerSpec, stored: Manifest | None
) -> list[Layer]:
    """The layers that need no teacher: superpixels if requested, and boxes if there are any."""
    superpixels = open_superpixels(config, geometry, stored)
    boxes = open_boxes(config, recording, geometry, stored)
    return [layer for layer in (superpixels, boxes) if layer is not None]


def open_features(
    config: ExtractConfig,
    teacher: Teacher,
    geometry: LayerSpec,
    stored: Manifest | None,
    frames: Iterator[Frame],
) -> FeatureLayer:
    """The teacher's layer as the store has it, or as planned from the first frames.

    Args:
        config: of the extraction, with features.
        teacher: already open.
        geometry: of the store.
        stored: manifest of the existing store; None if there is none.
        frames: the readable ones in the plan's order, a seeded permutation; those without images
            are skipped.
    """
    features = config.features
    assert features is not None
    name = layer_name(teacher, feature_fingerprint(features, teacher, geometry))
    if (spec := _stored_spec(stored, name)) is not None:
        layer = FeatureLayer(spec, features, teacher)
    else:
        probed = islice((frame for frame in frames if frame.views), probe_frames(features))

        def look(frame: Frame) -> tuple[Frame, FrameMaps]:
            return frame, frame_maps(teacher, frame, features.further_views)

        maps = ordered_map(look, probed, threads=config.threads, ahead=config.threads)
        layer = planned_features(features, teacher, geometry, maps)
    fields = with_codecs(layer.spec.fields, config.codecs)
    return replace(layer, spec=replace(layer.spec, fields=fields))


def begin(config: ExtractConfig) -> tuple[Recording, list[Layer], StoreWriter]:
    """Open recording, teacher and layers, and begin the store or add layers to it.

    A new feature layer is planned by one process while the others wait, so that all of them, on
    any machine, share its codec and basis. If anything fails, no file of a store
    is written.

    Raises:
        ConfigError: a setting is impossible, or the teacher's device is not available.
        SourceError: the recording cannot be read.
        TeacherError: the teacher is unknown, or its weights do not fit.
        FingerprintError: the store was made from other inputs; the message names them.
    """
    recording = open_recording(config)
    refuse_foreign_folder(config.out)
    stored = stored_manifest(config.out)
    geometry = open_geometry(config, recording, stored)
    manifest = layers_manifest(config, [geometry])
    if stored is not None:
        read_and_compare(config.out, manifest)
    layers: list[Layer] = [geometry, *open_annotations(config, recording, geometry.spec, stored)]
    if config.features is None:
        return recording, layers, create_or_open(config.out, layers_manifest(config, layers))
    teacher = open_teacher(config.features.teacher)
    with _planning(config.out):
        stored = stored_manifest(config.out)
        frames = unedited(recording, manifest, config.out, stored)
        layers.insert(1, open_features(config, teacher, geometry.spec, stored, frames))
        return recording, layers, create_or_open(config.out, layers_manifest(config, layers))


def check_recording(config: ExtractConfig) -> None:
    """Compare a recording with the store at `config.out` that was made of it.

    Frames, calibration and settings are compared; no teacher is opened.

    Raises:
        SourceError: the recording cannot be read.
        FingerprintError: the store was made from other inputs; the message names them.
    """
    config = replace(config, features=None)
    recording = open_recording(config)
    geometry = open_geometry(config, recording, stored_manifest(config.out))
    read_and_compare(config.out, layers_manifest(config, [geometry]))


def stored_manifest(out: Path) -> Manifest | None:
    """The manifest of the store at `out`; None if there is none."""
    return read_manifest(out) if (out / MANIFEST).is_file() else None


@contextlib.contextmanager
def _planning(out: Path) -> Generator[None, None, None]:
    """Hold the store's claim on planning; remove a folder created for it if nothing follows."""
    try:
        with contextlib.ExitStack() as holding:
            with system_refusals_as_store_errors(out):
                holding.enter_context(locked(claim_path(out, "plan"), poll_s=POLL_SECONDS))
            yield
    finally:
        if not (out / MANIFEST).exists():
            with contextlib.suppress(OSError):  # another process is working in it
                (out / CLAIMS).rmdir()
                out.rmdir()


def unedited(
    recording: Recording, manifest: Manifest, out: Path, stored: Manifest | None
) -> Iterator[Frame]:
    """The readable frames in the plan's order, each compared with its existing samples.

    So a layer of an edited recording is refused before it is in the manifest.

    Args:
        recording: the frames.
        manifest: with the plan.
        out: the store.
        stored: its manifest; None if there is none yet.

    Raises:
        SourceError: a frame differs from the one that its samples were made from.
    """
    for shard, keys in enumerate(plan_shards(recording.keys, manifest.plan)):
        known = {} if stored is None else known_inputs(Store(out, stored), shard)
        for frame in recording.readable(keys):
            check_inputs(frame, known.get(frame.key, ()))
            yield frame


def _stored_spec(stored: Manifest | None, name: str) -> LayerSpec | None:
    layers = () if stored is None else stored.layers
    return next((layer for layer in layers if layer.name == name), None)


def _first_good_frame(recording: Recording) -> Frame:
    for frame in recording.readable(recording.keys):
        return frame
    first = recording.look(recording.keys[0])
    raise SourceError(f"none of the {len(recording.keys)} frames can be read; the first: {first}")


def _check_keys(keys: Iterable[str], fields: Iterable[FieldSpec]) -> None:
    """Raise SourceError if a key is too long to name the tar members of its sample."""
    names = [spec.name for spec in fields]
    longest = max((member_name("", name) for name in names), key=len)
    most = LONGEST_NAME - len(longest)
    for key in keys:
        if len(key) > most:
            raise SourceError(
                f"frame {key} has a key of {len(key)} characters; at most {most} are allowed "
                f"(<key>{longest} names a member of a tar, of at most {LONGEST_NAME}): rename its "
                "file or folder"
            )


def _check_no_images_needed(config: ExtractConfig) -> None:
    if config.features is not None:
        raise ConfigError(
            f"{config.dataset} has no images for the teacher {config.features.teacher.name}; its "
            "labelled points are for evaluation: extract them with --teacher none"
        )
    if config.superpixels is not None:
        raise ConfigError(f"{config.dataset} has no images to cut; omit --superpixels")


def _check_codecs(config: ExtractConfig, fields: tuple[FieldSpec, ...], *, has_boxes: bool) -> None:
    features = config.features
    others: tuple[FieldSpec, ...] = () if config.superpixels is None else (SUPERPIXEL,)
    others += BOX_FIELDS if has_boxes else ()
    if features is not None:
        others += feature_fields(
            features.layout, "none", features.coding, views=features.view_names
        )
    names = [spec.name for spec in (*fields, *with_codecs(others, config.codecs))]
    if unknown := sorted(set(config.codecs) - set(names)):
        raise ConfigError(
            f"codec of unknown field {unknown[0]!r}; the fields are {', '.join(names)}"
        )
