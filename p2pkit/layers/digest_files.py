"""The digests of a shard's inputs once more, apart from the shard: they outlive all of its layers.

    inputs/<shard>.json   {"format_version": 1, "inputs": {KEY: {PART: XXH3-64}}, "checksum": ...}

Optional: a store without them, or with damaged ones, is compared by its samples alone.
"""

from collections.abc import Mapping
from pathlib import Path

from p2pkit.errors import StoreError
from p2pkit.files import write_json
from p2pkit.layers.digests import INPUTS
from p2pkit.store.location import Location, inputs_path
from p2pkit.store.manifest import FORMAT_VERSION
from p2pkit.store.strict_json import LARGEST_JSON, read_bounded, read_sealed, sealed

Digests = dict[str, dict[str, str]]
"""Of each part of a frame, by key."""


def write_inputs(root: Path, shard: int, digests: Mapping[str, Mapping[str, str]]) -> None:
    """Keep the digests of a shard's samples; those of further frames that are there stay.

    Frames that a repair dropped stay so, to be compared when another one brings them back.

    Args:
        root: the store's folder.
        shard: its number.
        digests: of each part, by key.
    """
    rows = {**read_inputs(root, shard), **digests}
    write_json(inputs_path(root, shard), sealed({"format_version": FORMAT_VERSION, INPUTS: rows}))


def read_inputs(root: Location, shard: int) -> Digests:
    """The digests that were kept of a shard; none where the file is missing or damaged."""
    try:
        rows = read_sealed(inputs_path(root, shard)).get(INPUTS)
    except StoreError:
        return {}
    if not isinstance(rows, dict):
        return {}
    return {key: parts for key, parts in rows.items() if isinstance(parts, dict)}


def inputs_content(root: Location, shard: int) -> bytes | None:
    """The file as it is, for a copy of the store; None where there is none that can be read.

    Servers may refuse to say whether a file is missing, so a refusal means that too.
    """
    try:
        return read_bounded(inputs_path(root, shard), LARGEST_JSON)
    except (OSError, StoreError):
        return None
