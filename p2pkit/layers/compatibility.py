"""Which layers of different stores contain the same kind of data, and layers made from others."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from p2pkit.errors import FingerprintError
from p2pkit.files import canonical_json
from p2pkit.layers.digests import INPUTS
from p2pkit.store.location import Location
from p2pkit.store.manifest import GEOMETRY, LEFT_OUT, LayerSpec, Plan
from p2pkit.store.strict_json import differences

MADE_FROM = "made_from"
OF_ONE_RECORDING = frozenset({"blocker_reach_px", "dataset", "plan", "geometry", MADE_FROM})
"""Entries of a fingerprint that may differ within a family: they say which frames, not how."""
GRIDS = "grids"
HOW_READ = ("flying_margin", "fuse")
"""Settings of a geometry that change its points; its fingerprint has them with the recording."""


def family(layer: LayerSpec) -> dict[str, Any]:
    """The part of a fingerprint that says how data was made, whatever the recording."""
    return {name: x for name, x in layer.fingerprint.items() if name not in OF_ONE_RECORDING}


def check_one_family(layers: Sequence[LayerSpec], roots: Sequence[Location]) -> None:
    """Raise unless all layers were made in the same way and have the same fields.

    Codecs may differ: they change how values are stored, not the values.

    Raises:
        FingerprintError: the message names each entry that differs, with both values.
    """
    first = layers[0]
    for layer, root in zip(layers[1:], roots[1:], strict=True):
        rows = differences(family(first), family(layer), "fingerprint")
        rows += differences(_table(first), _table(layer), "fields")
        rows += differences(_plain_details(first), _plain_details(layer), "details")
        grids, others = first.details.get(GRIDS, {}), layer.details.get(GRIDS, {})
        shared = sorted({*grids} & {*others})
        rows += [row for n in shared for row in differences(grids[n], others[n], f"{GRIDS}.{n}")]
        if rows:
            shown = "; ".join(
                f"{path} is {a!r} in the first, {b!r} in the other" for path, a, b in rows
            )
            raise FingerprintError(
                f"{first.name} of {roots[0]} and {layer.name} of {root} were made in different "
                f"ways: {shown}"
            )


def joined_details(layers: Sequence[LayerSpec]) -> dict[str, Any]:
    """The details of layers of one family: equal but for the grids and the parts of recordings that
    were not read, which are gathered.
    """
    grids = {name: grid for layer in layers for name, grid in layer.details.get(GRIDS, {}).items()}
    left_out = [part for layer in layers for part in layer.details.get(LEFT_OUT, [])]
    return {
        **_made_details(layers[0]),
        **({GRIDS: grids} if grids else {}),
        **({LEFT_OUT: left_out} if left_out else {}),
    }


def made_geometry(
    layer: LayerSpec, *, dataset: dict[str, Any], plan: Plan, made_from: dict[str, Any]
) -> LayerSpec:
    """A geometry layer made of the samples of others, on other frames and another plan."""
    fingerprint = {**family(layer), "dataset": dataset, "plan": asdict(plan), MADE_FROM: made_from}
    return replace(layer, fingerprint=fingerprint, settings={})


def made_beside(layer: LayerSpec, geometry: LayerSpec, made_from: dict[str, Any]) -> LayerSpec:
    """A layer made of the samples of others, for a geometry layer made in this way."""
    fingerprint = {
        **family(layer),
        GEOMETRY: geometry.fingerprint_sha256,
        MADE_FROM: made_from,
    }
    made = replace(layer, fingerprint=fingerprint, settings={})
    stem = layer.name.rpartition("-")[0] or layer.name
    return replace(made, name=f"{stem}-{made.fingerprint_sha256[:8]}")


def family_key(layer: LayerSpec) -> str:
    """Text that is equal for layers of one family."""
    return canonical_json([family(layer), _table(layer)])


def _table(layer: LayerSpec) -> dict[str, dict[str, Any]]:
    return {spec.name: asdict(replace(spec, codec="none")) for spec in layer.fields}


def _plain_details(layer: LayerSpec) -> dict[str, Any]:
    """What must be equal; a PCA basis is identified by its sha256 in the fingerprint."""
    return {
        name: value for name, value in _made_details(layer).items() if name not in (GRIDS, "pca")
    }


def _made_details(layer: LayerSpec) -> dict[str, Any]:
    """The details without the digests' name, and how the recording was read, not which frames."""
    details = {
        name: value for name, value in layer.details.items() if name not in (INPUTS, LEFT_OUT)
    }
    reading = {name: layer.settings[name] for name in HOW_READ if name in layer.settings}
    return details | ({"reading": reading} if reading else {})
