"""World coordinates far from their origin, such as UTM: float32 cannot hold them finely enough."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float64

from p2pkit.errors import FrameError

FAR_M = 8192.0
"""Beyond it float32 has steps of 1 mm and more, and an origin is subtracted."""
COARSEST_STEP_M = 0.01
"""Coordinates with larger steps are refused: points would fall onto each other."""

Pose = Float64[np.ndarray, "4 4"]


@runtime_checkable
class InSequence(Protocol):
    """A listed frame, as a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def sequence(self) -> str:
        """The recording or scene that it is of."""
        ...


Item = TypeVar("Item", bound=InSequence)


def near_origin(poses: Iterable[Pose | None]) -> Float64[np.ndarray, "3"]:
    """The origin (m, whole metres) to subtract from a sequence's world coordinates.

    It is the place of the sequence's first pose where that is farther than `FAR_M` from the
    world's origin on any axis, else 0, which changes nothing.
    """
    first = next((pose for pose in poses if pose is not None), None)
    if first is None or not (np.abs(first[:3, 3]) > FAR_M).any():
        return np.zeros(3)
    return np.round(first[:3, 3])


def moved(pose: Pose | None, origin: Float64[np.ndarray, "3"]) -> Pose | None:
    """A pose in the world whose origin is at `origin` of the recording's."""
    if pose is None or not origin.any():
        return pose
    nearer = pose.copy()
    nearer[:3, 3] -= origin
    return nearer


def near_world(listed: Sequence[Item], pose: str) -> tuple[list[Item], dict[str, Any]]:
    """The frames with poses from a near origin for each sequence, and that for the fingerprint.

    Args:
        listed: dataclasses with a `sequence`.
        pose: their field that holds the pose in the recording's world, or None.
    """
    poses: dict[str, list[Pose | None]] = {}
    for frame in listed:
        poses.setdefault(frame.sequence, []).append(getattr(frame, pose))
    origins = {sequence: near_origin(found) for sequence, found in poses.items()}
    near = [
        replace(frame, **{pose: moved(getattr(frame, pose), origins[frame.sequence])})
        for frame in listed
    ]
    return near, origins_json(origins)


def origins_json(origins: dict[str, Float64[np.ndarray, "3"]]) -> dict[str, dict[str, list[float]]]:
    """For a source's fingerprint: the origin of each sequence that has one; empty without any."""
    far = {name: origin.tolist() for name, origin in origins.items() if origin.any()}
    return {"world_origin_m": far} if far else {}


def refuse_coarse(points: np.ndarray, key: str) -> None:
    """Raise FrameError where float32 `points` are so far out that their steps exceed 1 cm."""
    if points.dtype != np.float32 or not points.size:
        return
    farthest = np.maximum(points.max(), -points.min())  # NaN where a coordinate is
    if not np.isfinite(farthest):
        farthest = np.abs(points[np.isfinite(points)]).max(initial=0.0)
    step = float(np.spacing(np.float32(farthest)))
    if step > COARSEST_STEP_M:
        raise FrameError(
            key,
            f"float32 near {farthest:,.0f} m has steps of {step:g} m; subtract an origin from "
            "points and poses, or store the points as float64 where the format allows it",
        )
