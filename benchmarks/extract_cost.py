"""What a frame of an extraction costs beside its teacher, part by part, over decoding its images.

CPU time of one thread, from the recording's files to the shard's bytes on disk (`--teacher none`).
Each turn decodes the images of all frames with Pillow and then extracts the frames, so that both
see the same load; medians over the turns. Parts are measured in turns of their own: each is the
time of some functions without that of others in the table that they call.

Example: python benchmarks/extract_cost.py --frames 32 --turns 5
"""

import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
from PIL import Image

from p2pkit.datasets.files.images import decode_color
from p2pkit.datasets.files.plain_png import SIGNATURE, decode_plain_grey16
from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.pipelines.extract.job import Job, open_job, take
from p2pkit.pipelines.extract.settings import ExtractConfig
from p2pkit.pipelines.extract.worker import Recording
from p2pkit.settings.layers import GeometryConfig

DATA = Path(os.environ.get("P2PKIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
SWEEPS = GeometryConfig(voxel_size=0.05, near_limit=1.0)

READ, GEOMETRY, ENCODE, WRITE = "read and decode", "geometry", "encode", "write"
PARTS = (
    (READ, "images", "datasets.files.images._decode"),
    (READ, "sweep", "datasets.lidar.pandaset._read_sweep"),
    (READ, "sweep", "datasets.lidar.rig.read_records"),
    (READ, "flying pixels", "datasets.clean_depth.drop_flying_pixels"),
    (READ, "invalid depth", "datasets.rgbd.reading.usable_depth"),
    (READ, "invalid depth", "datasets.rgbd.posed_rgbd.usable_depth"),
    (READ, "rest", "pipelines.extract.worker.Recording.load"),
    (GEOMETRY, "z-buffer", "geometry.depth_pairs.kernels.fill_nearest"),
    (GEOMETRY, "depth edges", "geometry.depth_pairs.edge_doubts"),
    (GEOMETRY, "voxels, occlusion, colours", "layers.geometry.pair_depth"),
    (GEOMETRY, "projection", "layers.geometry.project_visible"),
    (GEOMETRY, "line spacing", "layers.geometry.line_spacing_px"),
    (GEOMETRY, "z-buffer", "geometry.confidence._z_buffer"),
    (GEOMETRY, "depth edges", "geometry.confidence.edge_doubts"),
    (GEOMETRY, "occlusion and confidence", "layers.geometry.visibility"),
    (GEOMETRY, "valid pixels", "layers.geometry.rows_with_image"),
    (GEOMETRY, "voxels", "layers.geometry.voxel_deduplicate"),
    (GEOMETRY, "labels", "layers.geometry.majority_labels"),
    (GEOMETRY, "colours", "layers.geometry.colors_at"),
    (GEOMETRY, "digests of the inputs", "layers.geometry.input_digests"),
    (GEOMETRY, "rest", "layers.geometry.GeometryLayer.encode"),
    (GEOMETRY, "boxes", "layers.boxes.encode_boxes"),
    (ENCODE, "codecs", "store.tar.writer.encode"),
    (WRITE, "checksums and disk", "store.writing.StoreWriter.write"),
)
"""Stage, part, and a function of p2pkit that it consists of, by the name it is called by."""


@dataclass(frozen=True)
class Measured:
    """One recording.

    Args:
        dataset, folder: its format, and where it lies under the data folder.
        images: patterns of the files that hold a frame's images, with {} for the key's last part.
        geometry: which points are kept.
    """

    dataset: str
    folder: str
    images: tuple[str, ...]
    geometry: GeometryConfig = field(default_factory=GeometryConfig)

    def files(self, key: str) -> list[Path]:
        """Those of one frame."""
        name = key.rpartition("_")[2]
        patterns = [pattern.format(name) for pattern in self.images]
        return [path for pattern in patterns for path in (DATA / self.folder).glob(pattern)]


POSED = ("{}.color.jpg", "{}.depth.png")
RECORDINGS = {
    "7-Scenes RedKitchen": Measured("posed-rgbd", "7scenes_redkitchen", POSED),
    "TUM cabinet": Measured("posed-rgbd", "tum_fr3_cabinet", POSED),
    "NYUv2, half size": Measured("nyuv2", "nyuv2_half", ("rgb/{}.jpg", "depth/{}.png")),
    "PandaSet 002": Measured("pandaset", "pandaset", ("**/camera/*/{}.jpg",), SWEEPS),
    "KITTI object": Measured("kitti-object", "kitti_object", ("training/image_2/{}.png",), SWEEPS),
}


@dataclass(frozen=True)
class Cost:
    """Medians over the turns, in CPU seconds a frame.

    Args:
        frames: in each turn.
        decode_s: Pillow decoding the frame's images.
        own_s: all that the extraction does.
        ratio: of each turn's own time to its decoding, the median.
        parts: by stage and part.
    """

    frames: int
    decode_s: float
    own_s: float
    ratio: float
    parts: dict[str, float]


class Stopwatch:
    """CPU time of functions, each without that of others that it calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._thread = threading.local()

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time counts for a part."""

        def call(*args: Any, **options: Any) -> Any:
            outer, self._thread.within = getattr(self._thread, "within", 0.0), 0.0
            began = time.thread_time()
            try:
                return function(*args, **options)
            finally:
                spent = time.thread_time() - began
                own = spent - self._thread.within
                self._thread.within = outer + spent
                self.seconds[part] = self.seconds.get(part, 0.0) + own

        return call


def decoded(files: list[Path]) -> float:
    """CPU seconds of decoding images with Pillow."""
    began = time.thread_time()
    for path in files:
        with Image.open(path) as opened:
            np.asarray(opened)
    return time.thread_time() - began


def decoders() -> dict[str, Callable[[bytes], np.ndarray]]:
    """Ways to decode an image in memory: Pillow, what p2pkit takes, and others if installed."""

    def pillow(data: bytes) -> np.ndarray:
        with Image.open(BytesIO(data)) as opened:
            return np.array(opened)

    def product(data: bytes) -> np.ndarray:
        is_grey = data.startswith(SIGNATURE) and data[24] == 16
        plain = decode_plain_grey16(data, None) if is_grey else None
        return decode_color(data, "", Image.open(BytesIO(data)).size) if plain is None else plain

    found = {"Pillow": pillow, "p2pkit": product}
    with suppress(ImportError):
        import cv2

        cv2.setNumThreads(1)

        def opencv(data: bytes) -> np.ndarray:
            deep = data.startswith(SIGNATURE) and data[24] == 16
            flag = cv2.IMREAD_UNCHANGED if deep else cv2.IMREAD_COLOR_RGB
            return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), flag))

        found["OpenCV"] = opencv
    return found


def print_decoders(title: str, files: list[Path], turns: int) -> None:
    """Print milliseconds per image by its format and decoder, and whether pixels are Pillow's."""
    ways = decoders()
    for suffix in sorted({path.suffix for path in files}):
        images = [path.read_bytes() for path in files if path.suffix == suffix]
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(turns):
            for name, decode in ways.items():
                began = time.process_time()
                for data in images:
                    decode(data)
                seconds[name].append((time.process_time() - began) / len(images))
        wanted = [ways["Pillow"](data) for data in images]
        for name, decode in ways.items():
            same = all(np.array_equal(decode(a), b) for a, b in zip(images, wanted, strict=True))
            milliseconds = 1e3 * statistics.median(seconds[name])
            print(f"  {title} {suffix}: {name:<8} {milliseconds:6.2f} ms, pixels of Pillow: {same}")


def job_of(measured: Measured, frames: int, out: Path) -> Job:
    """An extraction by one thread that has read none of its frames yet."""
    job = open_job(
        ExtractConfig(
            dataset=measured.dataset,
            root=DATA / measured.folder,
            out=out,
            geometry=measured.geometry,
            features=None,
            limit=frames,
            threads=1,
        )
    )
    source = job.worker.recording.source
    return replace(job, worker=replace(job.worker, recording=Recording(source, source.keys())))


def extracted(job: Job) -> float:
    """CPU seconds of extracting all frames."""
    began = time.process_time()
    for shard in range(len(job.shards)):
        take(job, shard)
    return time.process_time() - began


def parts_of(job: Job) -> dict[str, float]:
    """CPU seconds of all frames by part."""
    watch = Stopwatch()
    with ExitStack() as patches:
        for stage, part, name in PARTS:
            target = patch(f"p2pkit.{name}")
            original, _ = target.get_original()
            target.new = watch.timed(f"{stage}: {part}", original)
            patches.enter_context(target)
        extracted(job)
    return watch.seconds


def cost_of(measured: Measured, frames: int, turns: int, work: Path) -> Cost:
    """Measure one recording."""
    jobs = [job_of(measured, frames, work / str(turn)) for turn in range(2 * turns + 1)]
    extracted(jobs.pop())  # compiles the kernels and fills the system's cache
    keys = jobs[0].worker.recording.keys
    files = [path for key in keys for path in measured.files(key)]
    decoding, own, parts = [], [], []
    # As the extraction does; in the main thread the allocator gives memory back after each image.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(decoded, files).result()
        for _ in range(turns):
            decoding.append(thread.submit(decoded, files).result())
            own.append(extracted(jobs.pop()))
            parts.append(parts_of(jobs.pop()))
    return Cost(
        frames=len(keys),
        decode_s=statistics.median(decoding) / len(keys),
        own_s=statistics.median(own) / len(keys),
        ratio=statistics.median(a / b for a, b in zip(own, decoding, strict=True)),
        parts={
            name: statistics.median(turn[name] for turn in parts) / len(keys) for name in parts[0]
        },
    )


def printed(title: str, cost: Cost) -> None:
    """Print one recording's table."""
    print(
        f"{title}, {cost.frames} frames: own {1e3 * cost.own_s:.2f} ms a frame, "
        f"{1 / cost.own_s:.1f} frames/s a core; images decoded by Pillow "
        f"{1e3 * cost.decode_s:.2f} ms; ratio {cost.ratio:.2f}"
    )
    for name in dict.fromkeys(f"{stage}: {part}" for stage, part, _ in PARTS):
        if name in cost.parts:
            print(f"  {name:<36} {1e3 * cost.parts[name]:7.3f} ms")


@click.command()
@click.option("--frames", default=32, show_default=True, type=click.IntRange(1))
@click.option("--turns", default=5, show_default=True, type=click.IntRange(1))
@click.option("--only", multiple=True, help="Measure recordings with this in their title.")
@click.option("--decoders", "only_decoders", is_flag=True, help="Compare decoders, no extraction.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(
    frames: int, turns: int, only: tuple[str, ...], only_decoders: bool, as_json: bool
) -> None:
    """Print a table for each recording under $P2PKIT_DATA."""
    found: dict[str, Cost] = {}
    for title, measured in RECORDINGS.items():
        wanted = not only or any(word.lower() in title.lower() for word in only)
        if not (wanted and (DATA / measured.folder).is_dir()):
            continue
        if only_decoders:
            options = SourceOptions(root=DATA / measured.folder, limit=frames)
            keys = open_source(measured.dataset, options).keys()
            print_decoders(title, [path for key in keys for path in measured.files(key)], turns)
            continue
        with tempfile.TemporaryDirectory() as folder:
            found[title] = cost_of(measured, frames, turns, Path(folder))
        if not as_json:
            printed(title, found[title])
    if as_json:
        print(json.dumps({title: asdict(cost) for title, cost in found.items()}))


if __name__ == "__main__":
    main()
