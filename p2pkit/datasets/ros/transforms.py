"""tf: which coordinate frame was where, when."""

from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from p2pkit.datasets.ros.bag import NS, TRANSFORMS, RosBag
from p2pkit.errors import GeometryError, SourceError
from p2pkit.geometry.transforms import invert_rigid, transform_from_quaternion

Transform = Float64[np.ndarray, "4 4"]
LONGEST_GAP_S = 1.0
"""Between two transforms; over longer gaps the place in between is not known."""
LONGEST_HOLD_S = 0.1
"""Before the first and after the last transform."""
SAME = 1e-6
"""Largest difference of repeated transforms (m, and radians or so)."""


class TransformTree:
    """The transforms of a bag's TFMessage topics.

    Those of `tf_static` hold at all times, and so do those that are repeated without a change.

    Raises:
        SourceError: one is not rigid.
    """

    def __init__(self, bag: RosBag) -> None:
        self._parent: dict[str, str] = {}
        self._static: dict[str, Transform] = {}
        self._where = f"{bag.path.name}: tf"
        rows: dict[str, dict[int, list[float]]] = {}
        for topic in bag.topics(*TRANSFORMS):
            for message in bag.messages(topic):
                for one in message.transforms:
                    child = _name(one.child_frame_id)
                    self._parent[child] = _name(one.header.frame_id)
                    row = _row(one.transform)
                    if topic.endswith("tf_static"):
                        self._static[child] = self._matrix(np.array(row), child)
                    else:
                        stamp = one.header.stamp
                        time = stamp.sec * 1_000_000_000 + stamp.nanosec
                        rows.setdefault(child, {})[time] = row
        self._times: dict[str, Int64[np.ndarray, " transforms"]] = {}
        self._rows: dict[str, Float64[np.ndarray, "transforms 7"]] = {}
        for child, found in rows.items():
            times = sorted(found)
            places = np.array([found[time] for time in times])
            if len(times) > 1 and _is_constant(places):
                self._static[child] = self._matrix(places[0], child)
                continue
            self._times[child] = np.array(times, dtype=np.int64)
            self._rows[child] = places

    def world_from(self, frame: str, time_ns: int) -> Transform | None:
        """From a frame to the root of its tree; None if nothing moves or a place is not known."""
        chain = self._chain(_name(frame))
        if not any(child in self._times for child in chain):
            return None
        product = np.eye(4)
        for child in chain:
            here = self._at(child, time_ns)
            if here is None:
                return None
            product = here @ product
        return product

    def between(self, target: str, target_ns: int, source: str, source_ns: int) -> Transform | None:
        """From a frame at one time to another frame at another, over the world if that is known.

        Without a world, by transforms that do not change; None if these do not connect the frames.
        """
        places = self.world_from(target, target_ns), self.world_from(source, source_ns)
        chains = self._chain(_name(target)), self._chain(_name(source))
        roots = [self._root(_name(frame)) for frame in (target, source)]
        if places[0] is not None and places[1] is not None and roots[0] == roots[1]:
            return invert_rigid(places[0]) @ places[1]
        fixed = [self._fixed(chain) for chain in chains]
        ends = [
            self._parent[chain[count - 1]] if count else _name(frame)
            for (_, count), chain, frame in zip(fixed, chains, (target, source), strict=True)
        ]
        if ends[0] != ends[1]:
            return None
        return invert_rigid(fixed[0][0]) @ fixed[1][0]

    def _root(self, frame: str) -> str:
        chain = self._chain(frame)
        return self._parent[chain[-1]] if chain else frame

    def _fixed(self, chain: list[str]) -> tuple[Transform, int]:
        """Up to the first frame that moves, and how many steps that is."""
        product = np.eye(4)
        for count, child in enumerate(chain):
            if child not in self._static:
                return product, count
            product = self._static[child] @ product
        return product, len(chain)

    def _chain(self, frame: str) -> list[str]:
        """The frame and those above it that have a parent.

        Raises:
            SourceError: they go in a circle.
        """
        chain: list[str] = []
        while frame in self._parent:
            if frame in chain:
                raise SourceError(f"{self._where} goes in a circle at {frame}")
            chain.append(frame)
            frame = self._parent[frame]
        return chain

    def _at(self, child: str, time_ns: int) -> Transform | None:
        if child in self._static:
            return self._static[child]
        times, rows = self._times[child], self._rows[child]
        after = int(np.searchsorted(times, time_ns))
        if after in (0, len(times)):
            end = min(after, len(times) - 1)
            is_near = abs(int(times[end]) - time_ns) <= LONGEST_HOLD_S * NS
            return self._matrix(rows[end], child) if is_near else None
        before = after - 1
        gap = int(times[after] - times[before])
        if gap > LONGEST_GAP_S * NS and times[after] != time_ns:
            return None
        share = (time_ns - int(times[before])) / gap
        start, end = rows[before].copy(), rows[after].copy()
        if start[3:] @ end[3:] < 0:
            end[3:] *= -1
        return self._matrix(start + share * (end - start), child)

    def _matrix(self, row: Float64[np.ndarray, " 7"], child: str) -> Transform:
        """Of a translation and a quaternion that may be of any length."""
        (x, y, z), turn = row[:3].tolist(), row[3:]
        try:
            unit = (turn / np.linalg.norm(turn)).tolist() if turn.any() else turn.tolist()
            return transform_from_quaternion(unit, (x, y, z), f"{self._where} of {child}")
        except GeometryError as error:
            raise SourceError(str(error)) from error


def _is_constant(places: Float64[np.ndarray, "transforms 7"]) -> bool:
    """One transform that is repeated, as drivers do with those of their own frames.

    Quaternions may differ in sign and length.
    """
    turns = places[:, 3:] / np.maximum(np.linalg.norm(places[:, 3:], axis=1, keepdims=True), 1e-12)
    same_turn = 1 - np.abs(turns @ turns[0]) < SAME**2
    return bool(same_turn.all() and (np.abs(places[:, :3] - places[0, :3]) < SAME).all())


def _name(frame: str) -> str:
    """ROS 1 bags may write frames with a slash in front."""
    return str(frame).removeprefix("/")


def _row(transform: Any) -> list[float]:
    """Translation and quaternion: x y z, then w x y z."""
    place, turn = transform.translation, transform.rotation
    return [place.x, place.y, place.z, turn.w, turn.x, turn.y, turn.z]
