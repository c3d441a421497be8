"""Which way is up in a store's points, and how they are turned to what a student knows as up."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from p2pkit.errors import ConfigError
from p2pkit.geometry.gravity import rotation_to_z_up
from p2pkit.pipelines.provenance import read_provenance
from p2pkit.pipelines.runs import read_config
from p2pkit.shards.model import GEOMETRY
from p2pkit.shards.store import Store
from p2pkit.stream.augment import AugmentConfig, Axis

CAMERA_UP: Axis = AugmentConfig().up_axis
Z_UP: Axis = (0.0, 0.0, 1.0)


def stored_up(store: Store) -> Axis:
    """-y of depth cameras; z of point frames: of LiDARs, fused frames and rooms."""
    fields = {spec.name for spec in store.layer(GEOMETRY).fields}
    return Z_UP if "points" in fields else CAMERA_UP


def students_up(runs: Sequence[Path], store: Store) -> Axis | None:
    """What was up in the runs' pretraining; None where a run was trained on this very store.

    A sparse network is not the same in other axes, so points of another recording are turned to
    those that its student has seen.

    Raises:
        ConfigError: the runs' up axes differ.
        TrainingError: a folder holds no run.
    """
    if any(read_provenance(run).use_of(store) is not None for run in runs):
        return None
    axes = {str(run): read_config(run).stream.sample.augment.up_axis for run in runs}
    if len(set(axes.values())) > 1:
        told = ", ".join(f"{run} {list(axis)}" for run, axis in axes.items())
        raise ConfigError(
            f"up was another axis for each of these runs ({told}); evaluate them one by one, or "
            "take the points as they are with --set axes=stored"
        )
    return next(iter(axes.values()))


def turn_between(one: Axis, other: Axis) -> Float64[np.ndarray, "3 3"] | None:
    """The rotation that takes the axis `one` to `other`; None where they are the same."""
    if np.allclose(one, other):
        return None
    return rotation_to_z_up(np.array(other)).T @ rotation_to_z_up(np.array(one))


def turned(
    points: Float32[np.ndarray, "points 3"], turn: Float64[np.ndarray, "3 3"] | None
) -> Float32[np.ndarray, "points 3"]:
    """The points (m) after the turn, or as they are."""
    return points if turn is None else (points @ turn.T).astype(np.float32)
