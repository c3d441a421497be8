"""The manifest of a store: its dataset, its layers and their fields, and which frames go where."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import xxhash

from p2pkit.errors import DevelopmentStoreError, StoreError
from p2pkit.files import canonical_json, sha256_json
from p2pkit.store.codecs import CODECS
from p2pkit.store.npy import DTYPES, LARGEST_ARRAY, MOST_AXES, extent
from p2pkit.store.strict_json import FIELD_NAME, LAYER_NAME, check_key, count, exact_object, typed

FORMAT = "p2pkit-store"

FORMAT_VERSION = 1

LEFT_OUT = "left_out"
"""The entry of the geometry's details: parts of the recording that were not read."""
GEOMETRY = "geometry"

FEATURES = "features/"

SUPERPIXELS = "superpixels/"

BOXES = "boxes/"

JSON_FIELD = "json"

MOST_SHARDS = 1_000_000


@dataclass(frozen=True)
class FieldSpec:
    """One array that every sample of a layer has.

    Args:
        name: lower-case; names the tar member `<key>.<name>.npy`.
        dtype: numpy's name of a little-endian number type, such as `<f4` or `|u1`.
        axes: a word per axis, outermost first, such as ("pairs", "2").
        unit: of the values, `""` where they have none.
        codec: how the bytes are stored: a name in `codecs.CODECS`.
        description: one sentence for readers.
    """

    name: str
    dtype: str
    axes: tuple[str, ...]
    unit: str = ""
    codec: str = "none"
    description: str = ""

    def __post_init__(self) -> None:
        if not FIELD_NAME.fullmatch(self.name) or self.name == JSON_FIELD:
            raise StoreError(
                f"field name {self.name!r} is not allowed: lower-case letters, digits and `_`, "
                f"a letter first, and not {JSON_FIELD!r}"
            )
        if self.dtype not in DTYPES:
            raise StoreError(
                f"field {self.name}: dtype {self.dtype!r} is not allowed; give a little-endian "
                f"number type of at most 8 bytes by its full name: {', '.join(DTYPES)}"
            )
        if len(self.axes) > MOST_AXES:
            raise StoreError(
                f"field {self.name} has {len(self.axes)} axes; at most {MOST_AXES} are allowed"
            )
        if self.codec not in CODECS:
            raise StoreError(
                f"field {self.name}: no codec is called {self.codec!r}; choose one of "
                f"{', '.join(CODECS)}"
            )
        if CODECS[self.codec].integers_only and np.dtype(self.dtype).kind not in "iu":
            raise StoreError(
                f"field {self.name}: codec {self.codec} is for integers; dtype is {self.dtype}"
            )

    def check(self, array: np.ndarray, key: str) -> None:
        """Raise StoreError if `array` is not of this field's dtype and axes, or is too large."""
        if array.dtype != np.dtype(self.dtype) or array.ndim != len(self.axes):
            raise StoreError(
                f"sample {key}, field {self.name}: the array is {array.dtype.str} with shape "
                f"{array.shape}; the fields table says {self.dtype} with axes {self.axes}"
            )
        if extent(array.shape) * array.itemsize > LARGEST_ARRAY:
            raise StoreError(
                f"sample {key}, field {self.name}: the array has the shape {array.shape}; at most "
                f"{LARGEST_ARRAY} bytes are allowed"
            )


def with_codecs(fields: tuple[FieldSpec, ...], codecs: Mapping[str, str]) -> tuple[FieldSpec, ...]:
    """The same fields with other codecs, by field name; names of other fields are ignored.

    Raises:
        StoreError: the codec is unknown, or not for the field's type.
    """
    return tuple(replace(spec, codec=codecs.get(spec.name, spec.codec)) for spec in fields)


@dataclass(frozen=True)
class LayerSpec:
    """One set of shards: the geometry, or on its samples one teacher's features, superpixels or
    boxes.

    Args:
        name: `geometry`, `features/<teacher>-<fingerprint8>`, `superpixels/<method>-<...8>` or
            `boxes/annotated-<...8>`; the folder of the shards.
        fields: the fields table.
        fingerprint: JSON of all that determines the bytes of this layer.
        details: JSON that readers need, such as the feature grid; no part of the fingerprint.
        settings: JSON of the settings that it was extracted with, without paths; empty for a layer
            that was made from other stores.
    """

    name: str
    fields: tuple[FieldSpec, ...]
    fingerprint: dict[str, Any]
    details: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not LAYER_NAME.fullmatch(self.name):
            raise StoreError(
                f"layer name {self.name!r} is not allowed: it is {GEOMETRY!r}, or {FEATURES!r}, "
                f"{SUPERPIXELS!r} or {BOXES!r} and one word of letters, digits, `_`, `-` and `.`"
            )
        names = [spec.name for spec in self.fields]
        if len(set(names)) != len(names):
            raise StoreError(f"layer {self.name} names a field twice: {names}")

    @property
    def kind(self) -> str:
        """`geometry`, `features`, `superpixels` or `boxes`."""
        return self.name.partition("/")[0]

    @property
    def fingerprint_sha256(self) -> str:
        """Hex sha256 of the canonical JSON of `fingerprint`; each record of the layer has it."""
        return sha256_json(self.fingerprint)

    @property
    def columns(self) -> tuple[str, ...]:
        """Members of a sample in file order: the field names sorted, then `json`."""
        return (*sorted(spec.name for spec in self.fields), JSON_FIELD)

    def field(self, name: str) -> FieldSpec:
        """The field of this name; StoreError lists the right ones."""
        for spec in self.fields:
            if spec.name == name:
                return spec
        names = ", ".join(self.columns[:-1])
        raise StoreError(f"layer {self.name} has no field {name!r}; it has {names}")

    def choose(self, fields: Collection[str] | None) -> list[tuple[str, int]]:
        """(name, column) of the fields to read, all for None, and of the JSON, in file order.

        Raises:
            StoreError: the layer has no such field.
        """
        columns = [(name, column) for column, name in enumerate(self.columns)]
        if fields is None:
            return columns
        wanted = {JSON_FIELD, *(self.field(name).name for name in fields)}
        return [pair for pair in columns if pair[0] in wanted]

    def check(self, sample: "Sample") -> None:
        """Raise StoreError if the sample's arrays are not exactly those of the fields table."""
        if sample.arrays.keys() != {*self.columns[:-1]}:
            raise StoreError(
                f"sample {sample.key} has the fields {sorted(sample.arrays)}; layer {self.name} "
                f"needs exactly {sorted(self.columns[:-1])}"
            )
        for spec in self.fields:
            spec.check(sample.arrays[spec.name], sample.key)


@dataclass(frozen=True)
class Plan:
    """How the frame list is cut into shards, fixed before any work.

    Args:
        seed: of the permutation.
        shard_size: samples planned per shard; the last shard may have fewer.
        frames: length of the frame list.
    """

    seed: int
    shard_size: int
    frames: int

    def __post_init__(self) -> None:
        count(self.seed, "plan.seed")
        count(self.shard_size, "plan.shard_size", least=1)
        count(self.frames, "plan.frames")
        if self.shards > MOST_SHARDS:
            raise StoreError(
                f"the plan has {self.shards} shards; at most {MOST_SHARDS} are allowed: shard_size "
                f"is {self.shard_size}, choose a larger one"
            )

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.frames // self.shard_size)

    def planned(self, shard: int) -> int:
        """Frames planned for one shard; some may become failures."""
        return min(self.shard_size, self.frames - shard * self.shard_size)


@dataclass(frozen=True)
class Sample:
    """One frame of one layer.

    Args:
        key: the frame's key.
        arrays: one array per field of the layer's fields table.
        meta: JSON that goes with them (calibration, pose, sequence, ...).
    """

    key: str
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_key(self.key)


@dataclass(frozen=True)
class Manifest:
    """The content of `p2pkit.json`.

    Args:
        dataset: JSON of what was extracted: name, split, fingerprint of the frame list, ...
        plan: the cut into shards.
        storage: `tar` or `zarr`.
        layers: geometry first, then the others in the order they were added.
    """

    dataset: dict[str, Any]
    plan: Plan
    storage: str
    layers: tuple[LayerSpec, ...]

    def __post_init__(self) -> None:
        names = [layer.name for layer in self.layers]
        if names[:1] != [GEOMETRY] or len(set(names)) != len(names):
            raise StoreError(
                f"a store has one layer {GEOMETRY!r}, first, and each other layer once; got {names}"
            )

    @property
    def datasets(self) -> list[str]:
        """The names of what the store was made of; several after a merge."""
        return str(self.dataset.get("dataset")).split("+")

    def with_layer(self, layer: LayerSpec) -> "Manifest":
        """The same store with one more layer."""
        return replace(self, layers=(*self.layers, layer))

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `manifest_from_json` reads."""
        layers = [{**asdict(x), "fingerprint_sha256": x.fingerprint_sha256} for x in self.layers]
        value = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "dataset": self.dataset,
            "plan": asdict(self.plan),
            "storage": self.storage,
            "layers": layers,
        }
        return json.loads(canonical_json(value))


def manifest_from_json(value: Any, where: str) -> Manifest:
    """Read what `Manifest.to_json` made.

    Raises:
        DevelopmentStoreError: a version of p2pkit before its first release wrote it.
        StoreError: an entry is missing, unknown, of the wrong type or contradicts another; or the
            format is of another version. The message names it and `where`.
    """
    version = value.get("format_version") if isinstance(value, dict) else None
    if isinstance(value, dict) and value.get("format") == FORMAT and version != FORMAT_VERSION:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        raise StoreError(
            f"{where} has format version {version}; this p2pkit reads {FORMAT_VERSION}"
            + ("; a newer p2pkit wrote it: upgrade p2pkit to read it" if newer else "")
        )
    names = ("format", "format_version", "dataset", "plan", "storage", "layers")
    value = exact_object(value, names, where)
    if value["format"] != FORMAT:
        raise StoreError(f"{where}: format is {value['format']!r}; expected {FORMAT!r}")
    plan = exact_object(value["plan"], ("seed", "shard_size", "frames"), f"{where}: plan")
    layers = typed(value["layers"], list, f"{where}: layers")
    if any(isinstance(row, dict) and "settings" not in row for row in layers):
        raise DevelopmentStoreError(where)
    return Manifest(
        dataset=typed(value["dataset"], dict, f"{where}: dataset"),
        plan=Plan(**plan),
        storage=typed(value["storage"], str, f"{where}: storage"),
        layers=tuple(_layer(row, f"{where}: layers[{i}]") for i, row in enumerate(layers)),
    )


def _layer(value: Any, where: str) -> LayerSpec:
    names = ("name", "fields", "fingerprint", "details", "settings", "fingerprint_sha256")
    value = exact_object(value, names, where)
    fields = typed(value["fields"], list, f"{where}.fields")
    layer = LayerSpec(
        name=typed(value["name"], str, f"{where}.name"),
        fields=tuple(_field(row, f"{where}.fields[{i}]") for i, row in enumerate(fields)),
        fingerprint=typed(value["fingerprint"], dict, f"{where}.fingerprint"),
        details=typed(value["details"], dict, f"{where}.details"),
        settings=typed(value["settings"], dict, f"{where}.settings"),
    )
    if layer.fingerprint_sha256 != value["fingerprint_sha256"]:
        raise StoreError(
            f"{where}: fingerprint_sha256 is {value['fingerprint_sha256']!r}; "
            f"expected {layer.fingerprint_sha256}"
        )
    return layer


def _field(value: Any, where: str) -> FieldSpec:
    names = ("name", "dtype", "axes", "unit", "codec", "description")
    value = exact_object(value, names, where)
    axes = typed(value["axes"], list, f"{where}.axes")
    texts = {name: typed(value[name], str, f"{where}.{name}") for name in names if name != "axes"}
    return FieldSpec(**texts, axes=tuple(typed(axis, str, f"{where}.axes") for axis in axes))


def plan_shards(keys: Sequence[str], plan: Plan) -> list[list[str]]:
    """Permute the frame list by a seeded hash and cut it into runs of `plan.shard_size`.

    The order is that of xxh3-64 of `"<seed>:<key>"`, ties by key, so it does not depend on the
    order of `keys`, and reading shards one after the other is already as mixed as a global shuffle.

    Raises:
        StoreError: `keys` repeats a key or has another length than `plan.frames`.
    """
    if len(keys) != plan.frames:
        raise StoreError(f"the plan is for {plan.frames} frames; the frame list has {len(keys)}")
    if len(set(keys)) != len(keys):
        twice = sorted({key for key in keys if keys.count(key) > 1})[:3]
        raise StoreError(f"the frame list repeats keys, such as {twice}; each key names one sample")

    def position(key: str) -> tuple[int, str]:
        return xxhash.xxh3_64_intdigest(f"{plan.seed}:{key}".encode()), key

    order, size = sorted(keys, key=position), plan.shard_size
    return [order[first : first + size] for first in range(0, plan.frames, size)]
