"""A ROS bag, through the package `rosbags`: ROS 2 (sqlite3 or MCAP) or ROS 1.

A message is found by the time at which it was recorded, and belongs to the time in its header.
"""

import struct
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.listing import check_distinct, existing_root
from p2pkit.errors import MissingDependencyError, SourceError

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
POINTS = "sensor_msgs/msg/PointCloud2"
TRANSFORMS = ("tf2_msgs/msg/TFMessage", "tf/msg/tfMessage")
SUFFIXES = (".mcap", ".db3", ".bag")
METADATA = "metadata.yaml"
UNFINISHED = (
    "A ROS 1 recording that was interrupted ends in .bag.active and has no index: run `rosbag "
    "reindex NAME.bag.active`, then rename it to NAME.bag"
)
NS = 1e9


class Moment(NamedTuple):
    """A message's place in a topic.

    Fields:
        stamp_ns: the time in its header; the recorder's where that is 0.
        logged_ns: the recorder's time.
    """

    stamp_ns: int
    logged_ns: int


class RosBag:
    """One bag, open for reading from several threads.

    Args:
        path: a folder with `metadata.yaml`, or one file.

    Raises:
        SourceError: it cannot be read.
        MissingDependencyError: `rosbags` is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            from rosbags.highlevel import AnyReader
            from rosbags.typesys import Stores, get_typestore
        except ImportError as error:
            raise MissingDependencyError(
                "ROS bags need the package rosbags: pip install 'p2pkit[bags]'"
            ) from error
        self.path, self.name = path, bag_name(path)
        try:
            self._reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
            self._reader.open()
        except Exception as error:
            # rosbags lets errors of its storages through: sqlite's, struct's, and those of parsers.
            raise SourceError(f"{path} cannot be read as a ROS bag: {error}") from error
        weakref.finalize(self, self._reader.close)
        self._lock = Lock()
        self._first: dict[str, Any] = {}

    def topics(self, *types: str) -> list[str]:
        """The topics of these types that have messages, sorted."""
        found = {
            connection.topic
            for connection in self._reader.connections
            if connection.msgtype in types and connection.msgcount
        }
        return sorted(found)

    def type_of(self, topic: str) -> str:
        """The message type of a topic."""
        return str(self._connections(topic)[0].msgtype)

    def first(self, topic: str) -> Any:
        """The first message of a topic.

        Raises:
            SourceError: it cannot be read.
        """
        if topic not in self._first:
            found = self._messages(topic, limit=1)
            if not found:
                raise SourceError(f"{self.path.name}: the messages of {topic} are missing")
            self._first[topic] = found[0]
        return self._first[topic]

    def messages(self, topic: str) -> list[Any]:
        """All messages of a topic, for small ones.

        Raises:
            SourceError: one cannot be read.
        """
        return self._messages(topic)

    def moments(self, topic: str) -> list[Moment]:
        """When each message of a topic was taken, in this order.

        Raises:
            SourceError: one cannot be read.
        """
        found: list[Moment] = []
        with self._lock:
            for _, logged_ns, data in self._stored(topic):
                found.append(Moment(self._stamp_ns(data) or logged_ns, logged_ns))
        return sorted(found)

    def read(self, topic: str, moment: Moment) -> Any:
        """The message of a topic at a moment.

        Raises:
            SourceError: it cannot be read.
        """
        start = moment.logged_ns
        with self._lock:
            found = [*self._stored(topic, start, start + 1)]
        for connection, _, data in found:
            if (self._stamp_ns(data) or start) == moment.stamp_ns:
                return self._decoded(data, connection.msgtype)
        raise SourceError(f"{self.path.name}: {topic} has no message at {moment.stamp_ns} ns")

    def _connections(self, topic: str) -> list[Any]:
        return [one for one in self._reader.connections if one.topic == topic]

    def _messages(self, topic: str, limit: int | None = None) -> list[Any]:
        found: list[Any] = []
        with self._lock:
            for connection, _, data in self._stored(topic):
                found.append(self._decoded(data, connection.msgtype))
                if len(found) == limit:
                    break
        return found

    def _stored(self, topic: str, *between_ns: int) -> Iterator[tuple[Any, int, bytes]]:
        """Connection, recorder's time and bytes of each message, as far as the bag can be read."""
        try:
            yield from self._reader.messages(self._connections(topic), *between_ns)
        except Exception as error:
            # As on opening, and those of decompressing: LZ4's, bz2's and Zstandard's.
            raise SourceError(
                f"{self.path.name}: the messages of {topic} cannot be read: {error}"
            ) from error

    def _decoded(self, data: bytes, kind: str) -> Any:
        try:
            return self._reader.deserialize(data, kind)
        except Exception as error:
            # Truncated messages raise struct's, numpy's and the typestore's errors alike.
            raise SourceError(f"{self.path.name}: a {kind} cannot be read: {error}") from error

    def _stamp_ns(self, data: bytes) -> int:
        """Of the header that these messages begin with, without decoding the rest.

        ROS 2 puts four bytes in front, the second of which says whether numbers are little-endian;
        ROS 1 the header's sequence number.
        """
        try:
            order = "<" if not self._reader.is2 or data[1] & 1 else ">"
            seconds, nanoseconds = struct.unpack_from(f"{order}iI", data, 4)
        except (IndexError, struct.error) as error:
            raise SourceError(
                f"{self.path.name}: a message of {len(data)} bytes is too short for a header"
            ) from error
        return int(seconds) * 1_000_000_000 + int(nanoseconds)


def is_bag_file(path: Path) -> bool:
    """Whether the path is of a file of one bag, by its name."""
    return path.suffix in SUFFIXES and path.is_file()


def bag_root(options: SourceOptions, dataset: str) -> Path:
    """The folder or the file of a bag in `options.root`.

    Raises:
        SourceError: as `existing_root`.
    """
    root = options.root
    return root if root is not None and is_bag_file(root) else existing_root(options, dataset)


def find_bags(root: Path) -> list[Path]:
    """The bags that `root` is, or that it and the folders in it hold; sorted.

    A file beside `metadata.yaml` stands for its folder.

    Raises:
        SourceError: there is none.
    """
    if root.is_file():
        return [root.parent if (root.parent / METADATA).is_file() else root]
    if (root / METADATA).is_file():
        return [root]
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    bags = [folder for folder in folders if (folder / METADATA).is_file()]
    for folder in (root, *(folder for folder in folders if folder not in bags)):
        files = (path for path in folder.iterdir() if not path.name.startswith("."))
        bags += sorted(filter(is_bag_file, files))
    if not bags:
        raise SourceError(f"{root} contains no ROS bag: expected {', '.join(SUFFIXES)} files")
    check_distinct({path: bag_name(path) for path in bags})
    return bags


def bag_name(path: Path) -> str:
    """Of a folder, whose dots are part of it, or of a file."""
    return path.name if path.is_dir() else path.stem


def bag_sizes(bags: Sequence[RosBag]) -> dict[str, int]:
    """The bytes of each bag, for fingerprints."""
    return {
        bag.name: sum(
            path.stat().st_size
            for path in (bag.path.rglob("*") if bag.path.is_dir() else [bag.path])
            if path.is_file()
        )
        for bag in bags
    }
