"""Speed and memory of the teacher, of extraction and of training on one device.

Called by tools/gpu_check.sh, which says what it is for. Frames are generated once, written as a
recording, and repeated by links: the images are few, the work on each is real.

Example: python tools/gpu_check.py --json gpu.json
"""

import json
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, product
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image

from p2pkit.datasets.frame import Frame, SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.datasets.rgbd.calibration import RgbdCalibration
from p2pkit.errors import P2pkitError, first_line
from p2pkit.layers.features import FeatureConfig
from p2pkit.networks import choose_engine
from p2pkit.pipelines.extract.run import ExtractConfig
from p2pkit.pipelines.extract.run import run as extract
from p2pkit.pipelines.train import profile
from p2pkit.pipelines.train.presets import preset
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.settings import with_settings
from p2pkit.teachers import TeacherOptions, open_teacher

ENGINES = ("torch", "minkowski")


@dataclass(frozen=True)
class Row:
    """One measurement; `value` is None where it failed, with the reason in `remark`."""

    what: str
    setting: str
    value: float | None
    unit: str
    remark: str = ""

    def line(self) -> str:
        """The row of the table."""
        value = "–" if self.value is None else f"{self.value:.4g}"
        return f"| {self.what} | {self.setting} | {value} | {self.unit} | {self.remark} |"


@dataclass(frozen=True)
class Work:
    """What to measure, on what."""

    device: str
    folder: Path
    distinct: int
    frames: int
    teachers: Sequence[str]
    batch_sizes: Sequence[int]
    precisions: Sequence[str]
    student: str
    voxel_size: float
    frames_a_batch: Sequence[int]
    steps: int


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def peak_mb(device: str) -> float | None:
    """Peak of the device's memory since the last call (MB); None on the CPU."""
    if not device.startswith("cuda"):
        return None
    found = torch.cuda.max_memory_allocated() / 1e6
    torch.cuda.reset_peak_memory_stats()
    return found


def write_recording(work: Work) -> Path:
    """`work.frames` frames, of which `work.distinct` are rendered and the rest are links."""
    root = work.folder / "recording"
    root.mkdir()
    source = open_source("demo-scene", SourceOptions(limit=work.distinct))
    frames = list(map(source.load, source.keys()))
    for number in range(work.frames):
        stem, first = f"frame-{number:06d}", f"frame-{number % work.distinct:06d}"
        if number < work.distinct:
            _write_frame(root / stem, frames[number])
            continue
        for kind in ("color.jpg", "depth.png", "pose.txt"):
            (root / f"{stem}.{kind}").symlink_to(f"{first}.{kind}")
    depth = frames[0].depth
    assert depth is not None
    calibration = RgbdCalibration(
        depth.units_per_metre, depth.camera, depth.camera, np.eye(4), "world_from_depth", (0,)
    )
    (root / "camera.json").write_text(json.dumps(calibration.to_json()))
    return root


def _write_frame(stem: Path, frame: Frame) -> None:
    assert frame.depth is not None
    assert frame.world_from_sensor is not None
    Image.fromarray(frame.views[0].image).save(f"{stem}.color.jpg")
    Image.fromarray(frame.depth.values).save(f"{stem}.depth.png")
    np.savetxt(f"{stem}.pose.txt", frame.world_from_sensor)


def teacher_rows(work: Work, recording: Path) -> Generator[Row]:
    """Images a second of each teacher alone on decoded images and in an extraction; the ratio."""
    images = [
        np.asarray(Image.open(recording / f"frame-{number:06d}.color.jpg"))
        for number in range(work.distinct)
    ]
    for name, batch, precision in product(work.teachers, work.batch_sizes, work.precisions):
        options = replace(teacher_options(name, work.device), batch_size=batch, precision=precision)
        setting = f"{name}, batch {batch}, {precision}"
        alone = yield from measured(
            "teacher alone", setting, "images/s", lambda o=options: alone_rate(o, images, work)
        )
        out = work.folder / f"{name}-{batch}-{precision}"
        both = yield from measured(
            "extract", setting, "frames/s", lambda o=options, to=out: extract_rate(o, work, to)
        )
        if alone and both:
            yield Row("extract / teacher alone", setting, both / alone, "")


def teacher_options(name: str, device: str) -> TeacherOptions:
    """Of `NAME` or `NAME:WIDTHxHEIGHT`, the size that images are resized to (px)."""
    name, _, size = name.partition(":")
    width, _, height = size.partition("x")
    input_size = (int(width), int(height)) if size else None
    return TeacherOptions(name=name, weights="random", input_size=input_size, device=device)


def alone_rate(options: TeacherOptions, images: Sequence[np.ndarray], work: Work) -> float:
    """Images a second, after one pass for warm-up."""
    teacher = open_teacher(options)
    given = [images[number % len(images)] for number in range(work.frames)]
    teacher.features(given[: max(len(images), teacher.batch_size)])
    synchronise(work.device)
    began = time.perf_counter()
    teacher.features(given)
    synchronise(work.device)
    return len(given) / (time.perf_counter() - began)


def extract_rate(options: TeacherOptions, work: Work, out: Path) -> float:
    """Frames a second of a whole extraction, loading the teacher included."""
    began = time.perf_counter()
    extract(
        ExtractConfig(
            dataset="posed-rgbd",
            root=work.folder / "recording",
            out=out,
            features=FeatureConfig(teacher=options),
        )
    )
    return work.frames / (time.perf_counter() - began)


def training_rows(work: Work) -> Iterator[Row]:
    """Steps a second, share of waiting and peak memory of each engine, batch and precision."""
    store = work.folder / "store"
    extract_rate(teacher_options(work.teachers[0], work.device), work, store)
    for engine, count, precision in product(ENGINES, work.frames_a_batch, work.precisions):
        setting = f"{work.student}, {engine}, {count} frames, {precision}"
        try:
            choose_engine(engine, work.device, precision=precision)
        except P2pkitError:
            continue
        changes = {
            "student": work.student,
            "engine": engine,
            "precision": precision,
            "stream.batch_size": count,
            "stream.sample.voxel_size": work.voxel_size,
            "device": work.device,
        }
        config = with_settings(
            preset("paper", store), [f"{key}={value}" for key, value in changes.items()]
        )
        peak_mb(work.device)
        waits: list[float] = []

        def rate(config: TrainConfig = config, waits: list[float] = waits) -> float:
            found = profile.run(config, steps=work.steps)
            waits.append(found.stepping_ms["wait"] / found.step_ms)
            return 1e3 / found.step_ms

        yield from measured("training", setting, "steps/s", rate)
        if waits:
            yield Row("waiting for data", setting, waits[0], "of a step")
            memory = peak_mb(work.device)
            if memory is not None:
                yield Row("peak memory", setting, memory, "MB")


def measured(
    what: str, setting: str, unit: str, measure: Callable[[], float]
) -> Generator[Row, None, float | None]:
    """One row; the value is also given back. What fails is a row, too, and the rest goes on."""
    try:
        value = measure()
    except (P2pkitError, RuntimeError) as error:
        yield Row(what, setting, None, unit, first_line(error))
        return None
    yield Row(what, setting, value, unit)
    return value


def device_name(device: str) -> str:
    """The card's name, or the device's."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


@click.command()
@click.option("--device", default="cuda", help="cuda, cuda:N or cpu.")
@click.option("--distinct", default=16, help="Rendered frames.")
@click.option("--frames", default=512, help="Frames of the recording.")
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    default=("resnet50", "vit_base_patch14_dinov2:448x336"),
    help="timm's NAME, or NAME:WIDTHxHEIGHT.",
)
@click.option("--batch-size", "batch_sizes", multiple=True, type=int, default=(1, 32))
@click.option("--precision", "precisions", multiple=True, default=("float32", "bfloat16"))
@click.option("--student", default="Res16UNet34C")
@click.option("--voxel-size", default=0.025, help="Metres.")
@click.option("--frames-a-batch", multiple=True, type=int, default=(4, 12, 24))
@click.option("--steps", default=10, help="Measured training steps of each row.")
@click.option("--minutes", default=8.0, help="Begin no further measurement after so many.")
@click.option("--json", "json_path", type=Path, default=Path("gpu-check.json"))
def main(minutes: float, json_path: Path, **settings: Any) -> None:
    """Print each figure when it is known, then the table; write the JSON."""
    began, rows, left_out = time.monotonic(), list[Row](), False
    with tempfile.TemporaryDirectory() as temporary:
        work = Work(folder=Path(temporary), **settings)
        recording = write_recording(work)
        for row in chain(teacher_rows(work, recording), training_rows(work)):
            rows.append(row)
            click.echo(f"{time.monotonic() - began:6.0f} s  {row.line()}")
            if time.monotonic() - began > 60 * minutes:
                left_out = True
                break
    found = {
        "device": device_name(work.device),
        "torch": torch.__version__,
        "complete": not left_out,
        "rows": [asdict(row) for row in rows],
    }
    json_path.write_text(json.dumps(found, indent=1) + "\n")
    click.echo(f"\n{found['device']}, torch {found['torch']}" + (", cut short" if left_out else ""))
    click.echo("\n| what | setting | value | unit | remark |\n|---|---|--:|---|---|")
    for row in rows:
        click.echo(row.line())


if __name__ == "__main__":
    main()
