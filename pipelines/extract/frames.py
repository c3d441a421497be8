"""What an extraction will write, decided before it begins: frames, fields and shards."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

from p2pkit.datasets.frame import Frame, FrameSource, SourceOptions
from p2pkit.datasets.left_out import left_out_by
from p2pkit.datasets.registry import open_source
from p2pkit.errors import ConfigError, FrameError, SourceError
from p2pkit.geometry import KERNEL_VERSION
from p2pkit.layers.digests import DIGEST, INPUTS, has_inputs, input_digests, with_inputs
from p2pkit.layers.features import feature_fields
from p2pkit.layers.geometry import encode_geometry, geometry_fields
from p2pkit.layers.superpixels import FIELD as SUPERPIXEL
from p2pkit.pipelines.extract.settings import READING, ExtractConfig
from p2pkit.store.location import MANIFEST, local_folder
from p2pkit.store.manifest import (
    LEFT_OUT,
    FieldSpec,
    LayerSpec,
    Manifest,
    Plan,
    Sample,
    with_codecs,
)
from p2pkit.store.tar.writer import LONGEST_NAME, member_name
from p2pkit.store.writing import read_manifest


def open_frames(config: ExtractConfig) -> tuple[FrameSource, Sequence[str]]:
    """Check the settings and open the recording; gives it and the keys of its frames.

    Raises:
        ConfigError: a setting is impossible.
        SourceError: the recording cannot be read, or has no frames.
    """
    _check(config)
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
        ),
    )
    keys = source.keys()
    if not keys:
        raise SourceError(f"{config.dataset} at {config.root} has no frames; nothing to extract")
    return source, keys


def _check(config: ExtractConfig) -> None:
    local_folder(config.out, "what is extracted")
    if config.features is not None:
        _ = config.features.coding  # raises where `map` cannot be read
        _ = config.features.joint_bilateral  # and where `upsampling` cannot, or fits no layout
        _ = config.features.further_views


def _check_keys(keys: Iterable[str], fields: Iterable[FieldSpec]) -> None:
    """Raise SourceError where a key is too long to name the tar members of its sample."""
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


def _first_good_frame(source: FrameSource, keys: Sequence[str]) -> Frame:
    reasons: list[str] = []
    for key in keys:
        try:
            return source.load(key)
        except FrameError as error:
            reasons.append(str(error))
    raise SourceError(f"none of the {len(reasons)} frames can be read; the first: {reasons[0]}")


def plan_geometry(config: ExtractConfig, source: FrameSource, keys: Sequence[str]) -> Manifest:
    """The manifest of a new store, with the geometry layer alone.

    Fields whose codec is not asked for keep the one that a store at `out` already has.

    Raises:
        SourceError: no frame can be read, or a key is too long.
        ConfigError: a codec is asked for a field that no layer has, or a teacher or superpixels
            for frames without images.
        StoreError: there is no codec of that name, or it is not for the field's type.
    """
    first = _first_good_frame(source, keys)
    if not first.views:
        _check_no_images_needed(config)
    fields = geometry_fields(first)
    _check_codecs(config, fields)
    if config.format == "tar":
        _check_keys(keys, fields)
    stored: dict[str, str] = {}
    if (config.out / MANIFEST).is_file():
        stored = {spec.name: spec.codec for spec in read_manifest(config.out).layers[0].fields}
    plan = Plan(seed=config.seed, shard_size=config.shard_size, frames=len(keys))
    dataset = {
        **source.fingerprint(),
        "label_names": None if source.label_names is None else list(source.label_names),
        "ignore_label": source.ignore_label,
    }
    left_out = left_out_by(source)
    geometry = LayerSpec(
        name="geometry",
        fields=with_codecs(fields, stored | config.codecs),
        fingerprint={
            "dataset": dataset,
            "plan": asdict(plan),
            **config.geometry.fingerprint(),
            **_label_rule(config, fields),
            "kernel_version": KERNEL_VERSION,
        },
        details={
            "reading": {name: getattr(config, name) for name in READING},
            INPUTS: DIGEST,
            **({LEFT_OUT: [part._asdict() for part in left_out]} if left_out else {}),
        },
    )
    return Manifest(dataset=dataset, plan=plan, storage=config.format, layers=(geometry,))


def _label_rule(config: ExtractConfig, fields: Sequence[FieldSpec]) -> dict[str, str]:
    """How labels are thinned; nothing of stores without labels or with all points."""
    thinned = config.geometry.voxel_size > 0 or config.fuse > 0
    has_labels = any(spec.name == "label" for spec in fields)
    return {"labels": "commonest in voxel"} if thinned and has_labels else {}


def _check_no_images_needed(config: ExtractConfig) -> None:
    if config.features is not None:
        raise ConfigError(
            f"{config.dataset} has no images for the teacher {config.features.teacher.name}; its "
            "labelled points are there to evaluate on: extract them with --teacher none"
        )
    if config.superpixels is not None:
        raise ConfigError(f"{config.dataset} has no images to cut: leave out --superpixels")


def _check_codecs(config: ExtractConfig, fields: tuple[FieldSpec, ...]) -> None:
    features = config.features
    others: tuple[FieldSpec, ...] = () if config.superpixels is None else (SUPERPIXEL,)
    if features is not None:
        others += feature_fields(
            features.layout, "none", features.coding, views=features.view_names
        )
    names = [spec.name for spec in (*fields, *with_codecs(others, config.codecs))]
    if unknown := sorted(set(config.codecs) - set(names)):
        raise ConfigError(f"codec of field {unknown[0]!r}: the fields are {', '.join(names)}")


def geometry_sample(frame: Frame, config: ExtractConfig, layer: LayerSpec) -> Sample:
    """A frame's sample for the geometry layer, with digests of its inputs if the store has them.

    Raises:
        FrameError: no point is left, or the frame gives other fields than the layer has.
    """
    geometry = encode_geometry(frame, config.geometry)
    wanted = {spec.name for spec in layer.fields}
    if set(geometry.arrays) != wanted:
        raise FrameError(
            frame.key,
            f"it gives the fields {sorted(geometry.arrays)}, the recording's first readable frame "
            f"gives {sorted(wanted)}; labels or depth are there for some frames only",
        )
    return with_inputs(geometry, input_digests(frame) if has_inputs(layer) else None)


def loadable(source: FrameSource, keys: Iterable[str]) -> Iterator[Frame]:
    """The frames that can be read, each when it is asked for."""
    for key in keys:
        try:
            yield source.load(key)
        except FrameError:
            continue
