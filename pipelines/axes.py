"""How a store's points are turned to what a student knows as up."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from p2pkit.errors import ConfigError
from p2pkit.geometry.gravity import rotation_to_z_up
from p2pkit.pipelines.provenance import read_provenance
from p2pkit.pipelines.runs import read_config_for_use
from p2pkit.shards.store import Store
from p2pkit.stream.augment import Axis
from p2pkit.stream.up_axis import CAMERA_UP, stored_up


def students_up(runs: Sequence[Path], store: Store) -> Axis | None:
    """What was up in the runs' pretraining; None where a run was trained on this very store.

    A sparse network is not the same in other axes, so points of another recording are turned to
    those that its student has seen. A mixture may have shown it several: the store's own is taken
    where it is one of them.

    Raises:
        ConfigError: the runs have no up axis in common.
        TrainingError: a folder holds no run.
    """
    if any(read_provenance(run).use_of(store) is not None for run in runs):
        return None
    axes = {str(run): _run_ups(run) for run in runs}
    common = [up for up in next(iter(axes.values())) if all(up in ups for ups in axes.values())]
    if not common:
        told = ", ".join(f"{run} {[list(up) for up in ups]}" for run, ups in axes.items())
        raise ConfigError(
            f"up was another axis for each of these runs ({told}); evaluate them one by one, or "
            "take the points as they are with --set axes=stored"
        )
    return nearest_up(common, store)


def nearest_up(known: Sequence[Axis], store: Store) -> Axis:
    """The store's own up axis where a student knows it, else the first that it knows."""
    own = stored_up(store)
    return own if own in known else known[0]


def trained_ups(named: Axis | None, stored: Iterable[Axis]) -> list[Axis]:
    """What was up in a training: the axis that its settings name, else those of its stores."""
    return [named] if named is not None else list(dict.fromkeys(stored))


def _run_ups(run: Path) -> list[Axis]:
    uses = read_provenance(run).stores
    named = read_config_for_use(run).stream.sample.augment.up_axis
    return trained_ups(named, (use.up_axis or CAMERA_UP for use in uses))


def turn_between(one: Axis, other: Axis) -> Float64[np.ndarray, "3 3"] | None:
    """The rotation that takes the axis `one` to `other`; None where they are the same."""
    if np.allclose(one, other):
        return None
    return rotation_to_z_up(np.array(other)).T @ rotation_to_z_up(np.array(one))


def turn_to(up_axis: Axis | None, store: Store) -> Float64[np.ndarray, "3 3"] | None:
    """The rotation of a store's points that makes `up_axis` up; None where none is due."""
    return None if up_axis is None else turn_between(stored_up(store), up_axis)


def turned(
    points: Float32[np.ndarray, "points 3"], turn: Float64[np.ndarray, "3 3"] | None
) -> Float32[np.ndarray, "points 3"]:
    """The points (m) after the turn, or as they are."""
    return points if turn is None else (points @ turn.T).astype(np.float32)
