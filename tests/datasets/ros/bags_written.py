"""ROS bags written by `rosbags`: ROS 2 as sqlite3 and MCAP, and ROS 1."""

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image as Picture
from rosbags.interfaces import Nodetype
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore
from scipy.spatial.transform import Rotation

from p2pkit.datasets.frame import Frame
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.transforms import invert_rigid

Form = Literal["mcap", "db3", "bag"]
Sent = tuple[str, int, Any]
"""Topic, time (ns) at which it is recorded, and message."""
START_NS = 1_700_000_000_000_000_000
STEP_NS = 100_000_000
_TF1 = "tf2_msgs/msg/TFMessage"


def typestore(form: Form) -> Typestore:
    """The messages of ROS 2 Humble or ROS 1 Noetic, which has tf in a package of its own."""
    store = get_typestore(Stores.ROS1_NOETIC if form == "bag" else Stores.ROS2_HUMBLE)
    if _TF1 not in store.types:
        element = (Nodetype.NAME, "geometry_msgs/msg/TransformStamped")
        sequence = (Nodetype.SEQUENCE, (element, 0))
        store.register({_TF1: ([], [("transforms", sequence)])})
    return store


class Messages:
    """Builds messages of one ROS version."""

    def __init__(self, form: Form) -> None:
        self.form, self.store = form, typestore(form)

    def make(self, kind: str, *values: Any, **fields: Any) -> Any:
        return self.store.types[kind](*values, **fields)

    def header(self, time_ns: int, frame: str) -> Any:
        stamp = self.make("builtin_interfaces/msg/Time", *divmod(time_ns, 1_000_000_000))
        number = {"seq": 0} if self.form == "bag" else {}
        return self.make("std_msgs/msg/Header", stamp=stamp, frame_id=frame, **number)

    def image(
        self, time_ns: int, frame: str, pixels: np.ndarray, encoding: str, *, padding: int = 0
    ) -> Any:
        """An image whose rows end in so many unused bytes."""
        rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
        data = np.pad(rows, ((0, 0), (0, padding)))
        return self.make(
            "sensor_msgs/msg/Image",
            header=self.header(time_ns, frame),
            height=len(pixels),
            width=pixels.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=data.shape[1],
            data=data.reshape(-1),
        )

    def compressed(self, time_ns: int, frame: str, data: bytes, text: str) -> Any:
        content = np.frombuffer(data, np.uint8)
        header = self.header(time_ns, frame)
        return self.make(
            "sensor_msgs/msg/CompressedImage", header=header, format=text, data=content
        )

    def info(
        self,
        time_ns: int,
        frame: str,
        camera: Camera,
        *,
        model: str = "plumb_bob",
        lens: Iterable[float] = (0.0,) * 5,
        shift: float = 0.0,
    ) -> Any:
        matrix = camera.matrix()
        projection = np.hstack([matrix, [[shift], [0], [0]]])
        numbers = {"d": np.array([*lens]), "k": matrix, "r": np.eye(3), "p": projection}
        capital = self.form == "bag"
        arrays = {
            name.upper() if capital else name: value.reshape(-1) for name, value in numbers.items()
        }
        region = self.make("sensor_msgs/msg/RegionOfInterest", 0, 0, 0, 0, False)
        return self.make(
            "sensor_msgs/msg/CameraInfo",
            header=self.header(time_ns, frame),
            height=camera.height,
            width=camera.width,
            distortion_model=model,
            binning_x=0,
            binning_y=0,
            roi=region,
            **arrays,
        )

    def transform(self, time_ns: int, parent: str, child: str, pose: np.ndarray) -> Any:
        place = self.make("geometry_msgs/msg/Vector3", *pose[:3, 3].tolist())
        turn = Rotation.from_matrix(pose[:3, :3]).as_quat().tolist()
        moved = self.make(
            "geometry_msgs/msg/Transform",
            place,
            self.make("geometry_msgs/msg/Quaternion", *turn),
        )
        stamped = self.make(
            "geometry_msgs/msg/TransformStamped", self.header(time_ns, parent), child, moved
        )
        return self.make(_TF1, [stamped])

    def cloud(
        self, time_ns: int, frame: str, columns: dict[str, np.ndarray], *, padding: int = 0
    ) -> Any:
        """A cloud with these fields, and so many unused bytes behind each point."""
        numbers = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}
        dtype = np.dtype([(name, value.dtype) for name, value in columns.items()])
        records = np.zeros(len(next(iter(columns.values()))), dtype)
        for name, value in columns.items():
            records[name] = value
        rows = records.view(np.uint8).reshape(len(records), -1)
        data = np.pad(rows, ((0, 0), (0, padding)))
        fields = [
            self.make(
                "sensor_msgs/msg/PointField",
                name,
                dtype.fields[name][1] if dtype.fields else 0,
                numbers[dtype[name].str[1:]],
                1,
            )
            for name in columns
        ]
        return self.make(
            "sensor_msgs/msg/PointCloud2",
            header=self.header(time_ns, frame),
            height=1,
            width=len(records),
            fields=fields,
            is_bigendian=False,
            point_step=data.shape[1],
            row_step=data.size,
            data=data.reshape(-1),
            is_dense=True,
        )


def write_bag(path: Path, form: Form, sent: Iterable[Sent], *, lz4: bool = False) -> Path:
    """Write messages to a bag: a folder with metadata.yaml, or a ROS 1 file, maybe with LZ4."""
    store = typestore(form)
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "bag":
        path = path.with_suffix(".bag")
        writer1 = Writer1(path)
        if lz4:
            writer1.set_compression(Writer1.CompressionFormat.LZ4)
        with writer1:
            known: dict[str, Any] = {}
            for topic, time_ns, message in sent:
                kind = message.__msgtype__
                if topic not in known:
                    known[topic] = writer1.add_connection(topic, kind, typestore=store)
                data = store.serialize_ros1(message, kind)
                writer1.write(known[topic], time_ns, data)
        return path
    plugin = StoragePlugin.MCAP if form == "mcap" else StoragePlugin.SQLITE3
    with Writer2(path, version=9, storage_plugin=plugin) as writer:
        added: dict[str, Any] = {}
        for topic, time_ns, message in sent:
            kind = message.__msgtype__
            if topic not in added:
                added[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(added[topic], time_ns, store.serialize_cdr(message, kind))
    return path


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Picture.fromarray(pixels).save(stream, format="png", compress_level=1)
    return stream.getvalue()


OPTICAL = "camera_color_optical_frame"
BASE_FROM_CAMERA = np.array(
    [[0.0, 0.0, 1.0, 0.1], [-1.0, 0.0, 0.0, 0.02], [0.0, -1.0, 0.0, 0.3], [0.0, 0.0, 0.0, 1.0]]
)


def rgbd_messages(
    form: Form,
    frames: list[Frame],
    *,
    color_delay_ns: int = 5_000_000,
    change: Callable[[Messages, int, Frame], list[Sent]] | None = None,
) -> list[Sent]:
    """A RealSense with aligned depth on a robot that tf follows; each message logged 30 ms late.

    Args:
        form: decides the version of ROS.
        frames: with poses, 0.1 s apart.
        color_delay_ns: of the colour images.
        change: gives further messages of each frame.
    """
    make = Messages(form)
    static = make.transform(START_NS, "base_link", OPTICAL, BASE_FROM_CAMERA)
    sent: list[Sent] = [("/tf_static", START_NS, static)]
    for number, frame in enumerate(frames):
        time = START_NS + number * STEP_NS
        logged, camera = time + 30_000_000, frame.views[0].camera
        assert frame.depth is not None
        assert frame.world_from_sensor is not None
        base = frame.world_from_sensor @ invert_rigid(BASE_FROM_CAMERA)
        depth, color = frame.depth.values, frame.views[0].image
        folder, aligned = "/camera/color", "/camera/aligned_depth_to_color"
        sent += [
            ("/tf", logged, make.transform(time, "odom", "base_link", base)),
            (f"{aligned}/camera_info", logged, make.info(time, OPTICAL, camera)),
            (f"{aligned}/image_raw", logged, make.image(time, OPTICAL, depth, "16UC1", padding=6)),
            (f"{folder}/camera_info", logged, make.info(time, OPTICAL, camera)),
            (
                f"{folder}/image_raw",
                logged,
                make.image(time + color_delay_ns, OPTICAL, color, "rgb8"),
            ),
        ]
        sent += change(make, time, frame) if change is not None else []
    return sent
