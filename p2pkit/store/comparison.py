"""Whether a store was made from the requested inputs, and if not, what differs."""

from typing import Any

from p2pkit.errors import FingerprintError
from p2pkit.files import canonical_json
from p2pkit.store.location import Location
from p2pkit.store.manifest import GEOMETRY, Manifest
from p2pkit.store.strict_json import differences

Row = tuple[str, Any, Any]
LONGEST_VALUE = 60
MOST_LISTED = 8
FRAME_LIST = "dataset.frame_list"
CALIBRATION = "dataset.calibration"
WHICH_FRAMES = ("limit", "every")
"""Settings of the geometry that choose frames of a recording."""


def check_same_inputs(stored: Manifest, manifest: Manifest, root: Location) -> None:
    """Raise FingerprintError where the store at `root` was made from other inputs.

    Args:
        stored: the existing manifest.
        manifest: the requested one; a layer that only one of the two has is not a difference.
        root: for the message.
    """
    rows = _differences(stored, manifest)
    if not rows:
        return
    chosen = _other_frames_chosen(stored, manifest)
    if chosen:
        # Another choice of frames gives another list of them and of their calibrations.
        rows = chosen + [row for row in rows if row[0] not in (FRAME_LIST, CALIBRATION)]
    recording = [row for row in rows if row[0].startswith((FRAME_LIST, CALIBRATION))]
    others = [row for row in rows if row not in recording]
    lines = [*_recording_lines(recording), *map(_line, others)]
    more = [f"and {len(lines) - MOST_LISTED} more"] if len(lines) > MOST_LISTED else []
    found = "; ".join([*lines[:MOST_LISTED], *more])
    advice = (
        "Extract this recording into a new folder"
        if recording
        else "Use the same settings, or another folder"
    )
    raise FingerprintError(f"the store at {root} was made from other inputs: {found}. {advice}")


def _other_frames_chosen(stored: Manifest, manifest: Manifest) -> list[Row]:
    """Where the settings differ that choose frames of a recording, as far as stores have them."""
    have, want = (side.layers[0].settings for side in (stored, manifest))
    return [
        (name, have[name], want[name])
        for name in WHICH_FRAMES
        if name in have and name in want and have[name] != want[name]
    ]


def _differences(stored: Manifest, manifest: Manifest) -> list[Row]:
    """Where the manifests differ, each entry once: the geometry repeats dataset and plan."""
    have, want = stored.to_json(), manifest.to_json()
    rows = [
        row
        for name in ("dataset", "plan", "storage")
        for row in differences(have[name], want[name], name)
    ]
    have_layers = {layer["name"]: layer for layer in have["layers"]}
    for layer in want["layers"]:
        if (twin := have_layers.get(layer["name"])) is not None:
            found = differences(twin["fingerprint"], layer["fingerprint"], layer["name"])
            rows += [
                row for row in found if (row[0].removeprefix(f"{GEOMETRY}."), *row[1:]) not in rows
            ]
            old, new = ({row["name"]: row for row in side["fields"]} for side in (twin, layer))
            rows += differences(old, new, f"{layer['name']}.fields")
    return rows


def _recording_lines(rows: list[Row]) -> list[str]:
    """Digests and calibrations described first: they mean another recording, not other settings."""
    if not rows:
        return []
    found = ["it is another recording, or this one was changed since the store was begun"]
    if any(path.startswith(FRAME_LIST) for path, _, _ in rows):
        found.append(f"{FRAME_LIST}: files were added, removed, renamed or changed in size")
    return found + [_line(row) for row in rows if not row[0].startswith(FRAME_LIST)]


def _line(row: Row) -> str:
    path, old, new = row
    if isinstance(old, list) and isinstance(new, list) and len(old) != len(new):
        return f"{path} has {len(old)} entries in the store, {len(new)} now"
    return f"{path} is {_shortened(old)} in the store, {_shortened(new)} now"


def _shortened(value: Any) -> str:
    if value is None:
        return "not set"
    text = canonical_json(value) if isinstance(value, dict | list) else repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"
