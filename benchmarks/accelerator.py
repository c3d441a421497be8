"""How busy extraction keeps an accelerator, without one; and what it costs beside the teacher.

The accelerator is simulated: a teacher that takes a set time for each image of a batch, one batch
after another, and uses no CPU. It is driven through the real extraction, on one and on two cores,
with times per image as multiples of extraction's own CPU time per image, divided by the cores: at 1
both take equally long. The share of the time that it computes is counted from the beginning of its
first batch to the end of its last one; it is of use only where nothing else needs these cores
("cores had" is what the extraction got of them).

The second part runs on the CPU alone, with a real teacher: the cost of extraction against the bare
teacher on decoded images and extraction with a teacher that takes no time, alternating.

Example: OMP_NUM_THREADS=1 python benchmarks/accelerator.py --frames 250
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from throughput import recording

from p2pkit.geometry.maps.grid import FeatureGrid
from p2pkit.layers.features import FeatureConfig, FeatureLayer
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.extract.job import open_job, take
from p2pkit.pipelines.extract.settings import ExtractConfig
from p2pkit.teachers import TEACHERS, TeacherOptions

RATIOS = (0.8, 1.0, 1.25, 1.5, 2.0, 3.0)
"""Time per image of the accelerator over extraction's CPU time per image and core."""
STRIDE, CHANNELS = 32, 320
"""Of the simulated maps: those of EfficientNet-Lite0."""
MANY_CORES = 16
TEACHERS_ON_CPU = {
    "EfficientNet-Lite0": TeacherOptions(),
    "ViT-S/14": TeacherOptions(
        name="vit_small_patch14_dinov2", weights="random", input_size=(448, 336)
    ),
}


class Simulated:
    """A teacher that takes `seconds` for each image and uses no CPU.

    As on a real device, a batch that is waiting begins when the one before it ends.

    Args:
        seconds: for each image.
        batch_size: images that it takes at once.
    """

    name, channels, weights_sha256 = "simulated", CHANNELS, "0" * 64

    def __init__(self, seconds: float, batch_size: int) -> None:
        self.preprocessing: dict[str, Any] = {}
        self.seconds, self.batch_size = seconds, batch_size
        self.accelerator = {"device": "simulated", "precision": "none", "libraries": "none"}
        self.spans: list[tuple[float, float]] = []
        self._lock = threading.Lock()
        self._values = np.random.default_rng(0).standard_normal(1 << 20).astype(np.float16)

    def grid(self, image_size: tuple[int, int]) -> FeatureGrid:
        """Cells in the middle of squares."""
        cells = (image_size[0] // STRIDE, image_size[1] // STRIDE)
        middle = (STRIDE - 1) / 2
        return FeatureGrid((STRIDE, STRIDE), (middle, middle), cells, image_size)

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Noise, once the time is over."""
        with self._lock:
            begin = max(time.perf_counter(), self.spans[-1][1] if self.spans else 0.0)
            end = begin + self.seconds * len(images)
            self.spans.append((begin, end))
        time.sleep(max(0.0, end - time.perf_counter()))
        columns, rows = self.grid((images[0].shape[1], images[0].shape[0])).cells
        shape = (len(images), rows, columns, CHANNELS)
        return np.resize(self._values, shape)

    def fingerprint(self) -> dict[str, Any]:
        """What names the layer."""
        return {"name": self.name}

    @property
    def busy(self) -> float:
        """Share of the time between its first and its last batch."""
        spans = sorted(self.spans)
        computed = sum(end - begin for begin, end in spans)
        return computed / max(spans[-1][1] - spans[0][0], 1e-9)


def config_of(frames: int, out: Path, teacher: TeacherOptions, threads: int) -> ExtractConfig:
    """The settings of an extraction of the first frames."""
    dataset, root = recording()
    features = FeatureConfig(teacher=teacher)
    return ExtractConfig(dataset, root, out, features=features, limit=frames, threads=threads)


def simulated(frames: int, seconds: float, threads: int, batch_size: int = 32) -> Simulated:
    """Extract with a simulated teacher; the teacher afterwards."""
    teacher = Simulated(0.0, batch_size)
    TEACHERS["simulated"] = lambda options, name: teacher
    with tempfile.TemporaryDirectory() as folder:
        options = TeacherOptions(name="simulated:any")
        job = open_job(config_of(frames, Path(folder) / "store", options, threads))
        teacher.spans.clear()
        teacher.seconds = seconds
        extract.work_until_done(job)
    return teacher


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of a call, of all threads."""
    began = time.process_time()
    work()
    return time.process_time() - began


def fed(frames: int, cores: int, threads: int) -> dict[str, Any]:
    """How busy the simulated accelerator is with the cores that this process may use."""
    simulated(min(frames, 8), 0.0, threads)  # compiles kernels
    short, whole = max(1, frames // 4), frames
    costs = [cpu_seconds(lambda n=n: simulated(n, 0.0, threads)) for n in (short, whole)]
    own_s = (costs[1] - costs[0]) / (whole - short)
    rows: list[dict[str, float]] = []
    for ratio in RATIOS:
        seconds = ratio * own_s / cores
        began = time.perf_counter(), time.process_time()
        teacher = simulated(frames, seconds, threads)
        wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
        rate = teacher.busy / seconds
        rows.append({"ratio": ratio, "image_s": seconds, "busy": teacher.busy, "rate": rate})
        rows[-1]["cores_had"] = cpu / wall
    return {"cores": cores, "own_cpu_s": own_s, "rows": rows}


def on_cores(cores: int, frames: int, threads: int) -> dict[str, Any]:
    """`fed` in a process that may use so many cores."""
    mine = sorted(os.sched_getaffinity(0))[:cores]
    command = [sys.executable, __file__, "--bound-to", str(cores)]
    done = subprocess.run(
        [*command, "--frames", str(frames), "--threads", str(threads)],
        preexec_fn=lambda: os.sched_setaffinity(0, mine),
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def end_to_end(options: TeacherOptions, frames: int, repeat: int, threads: int) -> dict[str, float]:
    """CPU seconds per frame of the bare teacher, of own work and of extraction; medians."""
    costs: dict[str, list[float]] = {"teacher": [], "own": [], "extraction": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(-1, repeat):
            job = open_job(config_of(frames, Path(folder) / f"{turn}", options, threads))
            features = job.worker.layers[1]
            assert isinstance(features, FeatureLayer)
            features.maps.clear()
            loaded = [job.worker.recording.source.load(key) for key in job.worker.recording.keys]
            images = [view.image for frame in loaded for view in frame.views]
            teacher: Any = features.teacher
            bare = cpu_seconds(lambda t=teacher, i=images: t.features(i))
            whole = cpu_seconds(lambda j=job: [take(j, s) for s in range(len(j.shards))])
            idle = replace(features, teacher=Instant(teacher, images[0]))
            layers = [job.worker.layers[0], idle, *job.worker.layers[2:]]
            job = open_job(config_of(frames, Path(folder) / f"{turn} own", options, threads))
            job = replace(job, worker=replace(job.worker, layers=layers))
            own = cpu_seconds(lambda j=job: [take(j, s) for s in range(len(j.shards))])
            if turn >= 0:  # the first turn warms up
                for name, cost in (("teacher", bare), ("own", own), ("extraction", whole)):
                    costs[name].append(cost / frames)
    return {name: statistics.median(rows) for name, rows in costs.items()}


class Instant:
    """A teacher whose map of one image stands for all, so that none takes time."""

    batch_size, accelerator = 1, None

    def __init__(self, teacher: Any, image: np.ndarray) -> None:
        self.grid, self.map = teacher.grid, teacher.features([image])

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """The one map."""
        return self.map


def print_fed(found: dict[str, Any]) -> None:
    """One table."""
    print(f"{found['cores']} core(s), own work {1e3 * found['own_cpu_s']:.1f} ms CPU an image")
    print(f"{'time per image':>24}{'ms':>8}{'busy':>8}{'images/s':>10}{'cores had':>11}")
    for row in found["rows"]:
        times = f"{row['ratio']:.2f} x own / cores"
        print(
            f"{times:>24}{1e3 * row['image_s']:8.1f}{row['busy']:8.3f}{row['rate']:10.1f}"
            f"{row['cores_had']:11.2f}"
        )


def print_end_to_end(name: str, costs: dict[str, float]) -> None:
    """One line of costs, one of ratios."""
    parts = ", ".join(f"{part} {1e3 * cost:.1f}" for part, cost in costs.items())
    both = costs["extraction"] / (costs["teacher"] + costs["own"])
    bare = costs["teacher"] / costs["extraction"]
    print(f"{name} on the CPU, ms CPU a frame: {parts}")
    print(f"extraction / (teacher + own) {both:.3f}; its rate / the bare teacher's {bare:.2f}")


@click.command()
@click.option("--frames", default=250, show_default=True, type=click.IntRange(8))
@click.option("--cores", multiple=True, default=(1, 2), show_default=True, type=click.IntRange(1))
@click.option("--threads", default=4, show_default=True, type=click.IntRange(1))
@click.option("--cpu-frames", default=32, show_default=True, type=click.IntRange(0))
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1))
@click.option("--vit", is_flag=True, help="Measure ViT-S/14 on the CPU, too.")
@click.option("--bound-to", type=click.IntRange(1), hidden=True)
def main(bound_to: int | None, **options: Any) -> None:
    """Print how busy a simulated accelerator is, and what extraction costs on the CPU."""
    frames, threads = options["frames"], options["threads"]
    if bound_to is not None:
        print(json.dumps(fed(frames, bound_to, threads)))
        return
    for cores in options["cores"]:
        found = on_cores(cores, frames, threads)
        print_fed(found)
        rate = max(row["rate"] for row in found["rows"]) * MANY_CORES / cores
        print(
            f"extrapolated, not measured: {MANY_CORES} cores would feed {rate:.0f} images/s at the "
            f"rate of {cores}, {MANY_CORES / found['own_cpu_s']:.0f} by own CPU time"
        )
    for name in [*TEACHERS_ON_CPU][: 1 + options["vit"]] if options["cpu_frames"] else []:
        teacher = TEACHERS_ON_CPU[name]
        print_end_to_end(
            name, end_to_end(teacher, options["cpu_frames"], options["repeat"], threads)
        )


if __name__ == "__main__":
    main()
