"""The common wrong calibrations by name: where each would put the points if it were the truth."""

from collections.abc import Callable
from itertools import permutations, product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from p2pkit.alignment.edges import Look, Place, Placed, place, project_with

SCALES = (1 / 4, 1 / 3, 640 / 1296, 1 / 2, 2 / 3, 3 / 4, 4 / 3, 3 / 2, 2.0, 1296 / 640, 3.0, 4.0)
"""Ratios of image sizes in use: halves, thirds, 640 to 960, 1280 to 960, ScanNet's 1296 to 640."""
FEET = 0.3048
UNIT_FACTORS = (1e-3, 0.01, 0.1, 0.2, 0.25, FEET, 0.5, 2.0, 1 / FEET, 4.0, 5.0, 10.0, 100.0, 1e3)
"""Wrong units: mm, cm, TUM's 5000 against 1000, feet, halves."""


class Hypothesis(NamedTuple):
    """A calibration that is tried against the declared one.

    Fields:
        fault: the kind of fault, one of `FAULTS`.
        detail: what to change, in words.
        place: where it puts the points.
    """

    fault: str
    detail: str
    place: Place


FAULTS = (
    "u and v are swapped",
    "the image is mirrored",
    "the image is upside down",
    "intrinsics are for another resolution",
    "colour is already registered to depth",
    "the extrinsic transform is inverted",
    "wrong axes",
    "wrong depth scale",
    "points and images differ in time",
)


def hypotheses(looks: list[Look]) -> list[Hypothesis]:
    """All alternatives that make sense for these looks; those that change nothing are left out."""
    found = [*_pixel_maps(), *_resolutions()]
    transforms = [look.camera_from_sensor for look in looks]
    if not all(np.allclose(one, np.eye(4)) for one in transforms):
        found.append(
            Hypothesis("the extrinsic transform is inverted", "invert it", _inverted_extrinsic)
        )
    found += _axes()
    if any(np.linalg.norm(one[:3, 3]) > 0.01 for one in transforms):
        found += [
            Hypothesis(
                "wrong depth scale",
                f"multiply the points by {factor:g}",
                lambda look, factor=factor: place(look, points_scale=factor),
            )
            for factor in UNIT_FACTORS
        ]
    if any(move is not None for look in looks for move in look.moves):
        found += _times()
    if looks[0].depth_camera is not None:
        found += _registrations()
    return found


def _pixel_maps() -> list[Hypothesis]:
    def mapped(change: Callable[[np.ndarray, Look], np.ndarray], turned: bool = False) -> Place:
        def where(look: Look) -> Placed:
            placed = place(look)
            return Placed(change(placed.pixel_uv, look), placed.in_front, turned)

        return where

    def mirrored(uv: np.ndarray, look: Look) -> np.ndarray:
        return np.stack([look.camera.width - 1 - uv[:, 0], uv[:, 1]], axis=1)

    def upside_down(uv: np.ndarray, look: Look) -> np.ndarray:
        return np.stack([uv[:, 0], look.camera.height - 1 - uv[:, 1]], axis=1)

    def swapped(uv: np.ndarray, look: Look) -> np.ndarray:
        return uv[:, ::-1]

    swap, upside = "u and v are swapped", "the image is upside down"
    return [
        Hypothesis(swap, "the image is transposed", mapped(swapped, True)),
        Hypothesis(swap, "the pairs' pixels are given as (v, u)", mapped(swapped)),
        Hypothesis("the image is mirrored", "mirror it left to right", mapped(mirrored)),
        Hypothesis(upside, "flip it top to bottom", mapped(upside_down)),
        Hypothesis(
            upside,
            "turn it by 180 degrees",
            mapped(lambda uv, look: mirrored(upside_down(uv, look), look)),
        ),
    ]


def _resolutions() -> list[Hypothesis]:
    def scaled(factor: float) -> Place:
        def where(look: Look) -> Placed:
            placed = place(look)
            return Placed(factor * (placed.pixel_uv + 0.5) - 0.5, placed.in_front)

        return where

    fault = "intrinsics are for another resolution"
    return [Hypothesis(fault, f"multiply them by {s:.3g}", scaled(s)) for s in SCALES]


def _registrations() -> list[Hypothesis]:
    def registered(look: Look) -> Placed:
        assert look.depth_camera is not None
        return project_with(look.edges.points, np.eye(4), look.depth_camera)

    detail = "give both images one camera"
    return [Hypothesis("colour is already registered to depth", detail, registered)]


def _inverted_extrinsic(look: Look) -> Placed:
    inverse = np.linalg.inv(look.camera_from_sensor)
    return project_with(look.edges.points, inverse, look.camera)


def _axes() -> list[Hypothesis]:
    found: list[Hypothesis] = []
    for turn in axis_rotations():
        found += [
            Hypothesis(
                "wrong axes",
                f"the camera's axes are {axis_names(turn)}",
                lambda look, turn=turn: place(look, camera_side=turn),
            ),
            Hypothesis(
                "wrong axes",
                f"the sensor's axes are {axis_names(turn)}",
                lambda look, turn=turn: place(look, sensor_side=turn),
            ),
        ]
    return found


def axis_rotations() -> list[Float64[np.ndarray, "4 4"]]:
    """The 23 rotations that permute and flip axes, without the identity."""
    found: list[np.ndarray] = []
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        turn = np.eye(4)
        turn[:3, :3] = np.eye(3)[list(order)] * np.array(signs)[:, None]
        if np.linalg.det(turn) > 0 and not np.array_equal(turn, np.eye(4)):
            found.append(turn)
    return found


def axis_names(turn: Float64[np.ndarray, "4 4"]) -> str:
    """Such as (x, -y, -z): which declared axes the true ones are; that one is OpenGL's camera."""
    names: list[str] = []
    for row in turn[:3, :3]:
        axis = int(np.abs(row).argmax())
        names.append(("-" if row[axis] < 0 else "") + "xyz"[axis])
    return f"({', '.join(names)})" + (" as in OpenGL" if names == ["x", "-y", "-z"] else "")


def _times() -> list[Hypothesis]:
    def moved(which: int) -> Place:
        def where(look: Look) -> Placed:
            move = look.moves[which]
            if move is None:
                return Placed(*place(look)[:2])._replace(
                    in_front=np.zeros(len(look.edges.points), bool)
                )
            return place(look, sensor_side=move)

        return where

    fault = "points and images differ in time"
    return [
        Hypothesis(fault, "the images are one frame too early", moved(0)),
        Hypothesis(fault, "the images are one frame too late", moved(1)),
    ]
