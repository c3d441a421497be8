"""What to change where a check names a fault: the setting by name, else what the reader must do."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from p2pkit.alignment.verdicts import Verdict
from p2pkit.datasets.rgbd.depth_scale import LIKELY_MEDIAN_M

OPENGL = "as in OpenGL"
INVERSE_OF = {
    "world_from_depth": "depth_from_world",
    "depth_from_world": "world_from_depth",
    "world_from_color": "color_from_world",
    "color_from_world": "world_from_color",
}
"""What `pose` of a camera.json has to be where the poses are inverted."""


class Declared(NamedTuple):
    """What a recording says of itself.

    Fields:
        units_per_metre: of its depth images; None where it has none, or keeps only points of them.
        median_depth_m: by these units; None where it has none.
        camera_json: of a posed-rgbd recording; empty for others, and where several differ.
        is_store: a store was checked, which cannot be mended itself.
        takes_units: `--depth-units` replaces its units.
    """

    units_per_metre: float | None
    median_depth_m: float | None
    camera_json: dict[str, Any]
    is_store: bool
    takes_units: bool = False


def mends(verdicts: Sequence[Verdict], declared: Declared) -> list[str]:
    """One sentence for each named fault that a change of a setting or of the reader mends."""
    found: list[str] = []
    for verdict in verdicts:
        better = verdict.figures.get("better")
        if verdict.outcome == "fail" and verdict.fault and better:
            found.append(_mend(verdict.fault, better[0]["detail"], declared))
    again = "extract into a new store" if declared.is_store else "check again"
    return [f"{one}; then {again}" for one in dict.fromkeys(found) if one]


def _mend(fault: str, detail: str, declared: Declared) -> str:
    """Empty where the fault's detail already says what to do."""
    match fault:
        case "wrong depth scale":
            return _units(float(detail.rpartition(" by ")[2]), declared)
        case "wrong axes of the poses" if OPENGL in detail:
            return _pose_axes(declared)
        case "the poses are inverted" if OPENGL not in detail:
            return _inverted_poses(declared)
        case "wrong axes" if OPENGL in detail:
            side = "left" if detail.startswith("the camera") else "right"
            what = "color_from_depth in camera.json" if declared.camera_json else _TRANSFORM
            return f"multiply {what} by diag(1, -1, -1, 1) on the {side}"
        case "u and v are swapped" if "transposed" in detail:
            return (
                "transpose the colour images: the reader has to give image[v, u], rows first "
                "(image.swapaxes(0, 1) in numpy)"
            )
        case "u and v are swapped":
            return "give each pair's pixel as (u, v), the column first"
        case _:
            return ""


_TRANSFORM = "the reader's camera_from_sensor"


def _units(factor: float, declared: Declared) -> str:
    if declared.units_per_metre is None and declared.takes_units:
        return f"give --depth-units, {1 / factor:.6g} times the units per metre of the recording"
    if declared.units_per_metre is None:
        return f"multiply the points by {factor:g} in the reader"
    median, (low, high) = declared.median_depth_m, LIKELY_MEDIAN_M
    if median is not None and low < median < high and not low < median * factor < high:
        return (
            f"divide the translations of the poses by {factor:g}: the depth, {median:.2g} m in the "
            "median, is plausible as it is"
        )
    return f"give --depth-units {declared.units_per_metre / factor:.6g}"


def _pose_axes(declared: Declared) -> str:
    if not declared.camera_json:
        return "multiply the reader's world_from_sensor by diag(1, -1, -1, 1) on the right"
    is_opengl = declared.camera_json.get("pose_axes") == "opengl"
    return f'write "pose_axes": "{"opencv" if is_opengl else "opengl"}" in camera.json'


def _inverted_poses(declared: Declared) -> str:
    pose = INVERSE_OF.get(declared.camera_json.get("pose", ""))
    return f'write "pose": "{pose}" in camera.json' if pose else "invert the reader's poses"
