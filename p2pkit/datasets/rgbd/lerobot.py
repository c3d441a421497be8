"""`lerobot`: LeRobot datasets whose colour and depth are images in Parquet files.

LeRobot's dataset formats v2 and v3: `meta/info.json` lists the features, `data/**/*.parquet` holds
a row for each frame, images as the encoded bytes or as paths. Depth is a 16-bit image (PNG or TIFF)
or an array of 16-bit numbers. The format has no intrinsics: `camera.json` gives them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from p2pkit.datasets.files.images import decode_color, read_depth_png
from p2pkit.datasets.files.text import json_field, read_json
from p2pkit.datasets.frame import DepthImage, Frame, SourceOptions
from p2pkit.datasets.listing import chosen_frames, existing_root, frame_list_digest, known_frame
from p2pkit.datasets.rgbd.calibration import TEMPLATE, read_calibration
from p2pkit.datasets.rgbd.depth_scale import DepthProbe, probes_of
from p2pkit.datasets.rgbd.reading import RgbdListed, assemble, usable_depth
from p2pkit.datasets.streams import check_streams, one_stream
from p2pkit.errors import FrameError, MissingDependencyError, SourceError

INFO = "meta/info.json"
CAMERA = "camera.json"
EPISODE, FRAME = "episode_index", "frame_index"
NO_CAMERA = (
    "LeRobot datasets hold no intrinsics: write this file, or pass one with --camera FILE, in the "
    f'form of posed-rgbd with "pose": "none":\n{TEMPLATE}'
)


@dataclass(frozen=True, kw_only=True)
class _Row(RgbdListed):
    """A frame's place in a Parquet file."""

    file: Path
    group: int
    row: int

    def paths(self) -> tuple[Path, ...]:
        """The file."""
        return (self.file,)


class LeRobot:
    """A LeRobot dataset as a `FrameSource`; keys are `episode-000003_000012`.

    Raises:
        SourceError: colour or depth is missing, or video; several cameras fit; or the calibration
            is missing or wrong.
        MissingDependencyError: pyarrow is not installed.
    """

    name = "lerobot"
    label_names: Sequence[str] | None = None
    ignore_label: int | None = None

    def __init__(self, options: SourceOptions) -> None:
        root = existing_root(options, self.name)
        features = json_field(read_json(root / INFO, self.name), "features", root / INFO)
        if not isinstance(features, dict) or not all(
            isinstance(x, dict) for x in features.values()
        ):
            raise SourceError(f"{root / INFO}: expected an object for each of features")
        self._root = root
        self._depth_name, self._color_name = _chosen(features, options.streams, root)
        path = options.camera_file or root / CAMERA
        if not path.is_file():
            raise SourceError(f"{path} does not exist. {NO_CAMERA}")
        self._calibration = read_calibration(path).with_units(options.depth_units)
        self._frames = chosen_frames(_rows(root, (self._depth_name, self._color_name)), options)

    def depth_probes(self) -> Sequence[DepthProbe]:
        """Those of all frames; there are no poses."""
        return probes_of(self._frames.values(), self._depth_image)

    def keys(self) -> Sequence[str]:
        """All keys, in recording order."""
        return list(self._frames)

    def load(self, key: str) -> Frame:
        """Read one frame.

        Raises:
            FrameError: an image is missing, damaged or of another size, or no depth is valid.
        """
        listed, camera = known_frame(self._frames, key), self._calibration.color
        depth = self._depth_image(listed).values
        data = self._bytes(self._stored(listed, self._color_name), key)
        image = decode_color(data, key, (camera.width, camera.height))
        return assemble(listed, image, depth, self._calibration)

    def fingerprint(self) -> dict[str, Any]:
        """Frame list digest, the two features, and the calibration."""
        frames = self._frames.values()
        return {
            "dataset": self.name,
            "frames": len(frames),
            "frame_list": frame_list_digest((one.key, one.paths()) for one in frames),
            "features": [self._depth_name, self._color_name],
            "calibration": self._calibration.fingerprint(),
        }

    def _depth_image(self, listed: _Row) -> DepthImage:
        calibration, key = self._calibration, listed.key
        camera, stored = calibration.depth, self._stored(listed, self._depth_name)
        size = (camera.width, camera.height)
        if isinstance(stored.as_py(), dict):
            values = read_depth_png(self._bytes(stored, key), key, size)
        else:
            values = _array(stored, size, key)
        values = usable_depth(values, calibration, key)
        return DepthImage(values, camera, calibration.units_per_metre)

    def _stored(self, listed: _Row, feature: str) -> Any:
        """One cell of the table, as pyarrow's scalar."""
        parquet = _parquet()
        try:
            with parquet.ParquetFile(listed.file, memory_map=True) as file:
                table = file.read_row_group(listed.group, columns=[feature])
                stored = table[feature][listed.row]
        except (OSError, ValueError, KeyError) as error:
            raise FrameError(listed.key, f"{listed.file.name}: {error}") from error
        if not stored.is_valid:
            raise FrameError(listed.key, f"{listed.file.name} has nothing in {feature} there")
        return stored

    def _bytes(self, stored: Any, key: str) -> bytes:
        """An encoded image, from the table or from the file that it names."""
        value = stored.as_py() or {}
        if value.get("bytes"):
            return bytes(value["bytes"])
        path = self._root / str(value.get("path"))
        try:
            return path.read_bytes()
        except OSError as error:
            raise FrameError(key, f"{path.name} cannot be read: {error}") from error


def _parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependencyError(
            "LeRobot datasets need the package pyarrow: pip install 'p2pkit[lerobot]'"
        ) from error
    return parquet


def _array(stored: Any, size: tuple[int, int], key: str) -> np.ndarray:
    """Nested lists of 16-bit numbers."""
    values = stored.values
    while hasattr(values, "flatten") and values.type.num_fields:
        values = values.flatten()
    numbers = values.to_numpy(zero_copy_only=False)
    if numbers.dtype != np.uint16 or numbers.size != size[0] * size[1]:
        raise FrameError(
            key,
            f"expected {size[0]} x {size[1]} 16-bit depths, found {numbers.size} {numbers.dtype}",
        )
    return numbers.reshape(size[1], size[0])


def _rows(root: Path, features: Sequence[str]) -> list[_Row]:
    """All frames by episode and number.

    Raises:
        SourceError: there is no Parquet file, or one cannot be read or lacks a column.
    """
    parquet = _parquet()
    rows: list[_Row] = []
    files = sorted(root.glob("data/**/*.parquet"))
    for path in files:
        try:
            with parquet.ParquetFile(path, memory_map=True) as file:
                missing = {EPISODE, FRAME, *features} - {*file.schema_arrow.names}
                if missing:
                    raise SourceError(f"{path} has no column {', '.join(sorted(missing))}")
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group, columns=[EPISODE, FRAME])
                    numbers = [table[name].to_pylist() for name in (EPISODE, FRAME)]
                    if None in (*numbers[0], *numbers[1]):
                        raise SourceError(f"{path} has a row without {EPISODE} or {FRAME}")
                    places = enumerate(zip(*numbers, strict=True))
                    rows += [_row(path, group, place, *both) for place, both in places]
        except (OSError, ValueError) as error:
            raise SourceError(f"{path} cannot be read as Parquet: {error}") from error
    if not rows:
        raise SourceError(f"{root / 'data'} contains no frame in {len(files)} Parquet files")
    return sorted(rows, key=lambda one: one.key)


def _row(file: Path, group: int, row: int, episode: int, frame: int) -> _Row:
    sequence = f"episode-{episode:06d}"
    return _Row(key=f"{sequence}_{frame:06d}", sequence=sequence, file=file, group=group, row=row)


def _chosen(
    features: dict[str, dict[str, Any]], given: Sequence[str], root: Path
) -> tuple[str, str]:
    """The features of depth and of colour.

    Raises:
        SourceError: either is missing or video, or several fit.
    """
    cameras = {name: one for name, one in features.items() if _is_image(one)}
    check_streams(cameras, given, root.name)
    depths = [name for name, one in cameras.items() if _is_depth(name, one)]
    colors = [name for name in cameras if name not in depths]
    depth = one_stream(depths, given, what="depth images", where=root.name)
    beside = [name for name in colors if _camera(name) == _camera(depth)]
    fitting = beside if len(beside) == 1 else colors
    color = one_stream(fitting, given, what="colour images", where=root.name)
    for kind, name in (("depth", depth), ("colour", color)):
        if cameras[name].get("dtype") == "video":
            raise SourceError(
                f"{root.name}: its {kind}, {name}, is video, which is lossy; p2pkit reads images: "
                "record with --dataset.video=false"
            )
    return depth, color


def _is_image(feature: dict[str, Any]) -> bool:
    shape = feature.get("shape")
    is_map = isinstance(shape, list) and len(shape) >= 2
    return is_map and feature.get("dtype") in ("image", "video", "depth", "uint16")


def _is_depth(name: str, feature: dict[str, Any]) -> bool:
    info = feature.get("info")
    flags = (
        [info.get(key) for key in ("is_depth_map", "video.is_depth_map")]
        if isinstance(info, dict)
        else []
    )
    return "depth" in name or True in flags or feature.get("dtype") in ("depth", "uint16")


def _camera(name: str) -> str:
    """The camera that a feature is of: `top` of observation.images.top_depth."""
    words = re.split(r"[._/]", name)
    return ".".join(word for word in words if word not in ("depth", "rgb", "color", "image"))
