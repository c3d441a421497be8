"""Time of a step and peak memory of every student on a batch of a room and on a LiDAR sweep.

Each measurement runs in a fresh process: forward and backward in training mode, one thread, the
fastest pass. Memory is the growth of the process's peak (VmHWM), weights and
gradients included; CPU time is user + system. A student that needs more than `--limit-gb` is named
and not measured. Inputs are random: their values cost nothing.

Example: python benchmarks/students.py kitchen.store sweeps.store
"""

import json
import resource
import subprocess
import sys
import time
from typing import Any

import click
from losses import peak_mb

STUDENTS = (
    "Res16UNet14A",
    "Res16UNet34C",
    "SpUNet",
    "PTv3-small",
    "PTv3",
    "PTv3-encoder",
    "WaffleIron-12-256",
    "WaffleIron-48-256",
    "WaffleIron-48-768",
)
BASE = STUDENTS[0]
ROOM = ((-5.0, -5.0, -5.0, 5.0, 5.0, 5.0), (50, 50, 50))
"""Field of view (m) and cells of WaffleIron on rooms; on sweeps it has those of ScaLR."""


def measure(
    student: str, store: str, *, frames: int, voxel_size: float, is_room: bool, repeat: int
) -> dict[str, float]:
    """Forward and backward passes in this process."""
    import numpy as np
    import torch

    from p2pkit.geometry.voxelize import voxel_deduplicate
    from p2pkit.networks import build_student, prepared_for
    from p2pkit.pipelines.evaluate.inference import read_cloud
    from p2pkit.settings.students import WaffleIronConfig
    from p2pkit.store.reading import open_store

    torch.set_num_threads(1)
    torch.manual_seed(0)
    clouds = [read_cloud(open_store(store), index).points for index in range(frames)]
    voxels = [voxel_deduplicate(points, voxel_size) for points in clouds]
    rows = [np.insert(found.coordinates, 0, index, axis=1) for index, found in enumerate(voxels)]
    coordinates = torch.from_numpy(np.concatenate(rows))
    inputs = torch.rand(len(coordinates), 3)
    fov, cells = ROOM if is_room else (None, None)
    waffleiron = WaffleIronConfig(fov=fov, cells=cells)
    before, times = peak_mb(), []
    network = build_student(student, in_channels=3, waffleiron=waffleiron)
    kept = [
        (points[found.keep], found.coordinates)
        for points, found in zip(clouds, voxels, strict=True)
    ]
    began = time.process_time()
    prepared = prepared_for(network, kept)
    preparing = time.process_time() - began
    for _ in range(repeat):
        network.zero_grad()
        began = time.process_time()
        network(coordinates, inputs, **prepared).square().mean().backward()
        times.append(time.process_time() - began)
    return {
        "voxels": len(coordinates),
        "cpu_s": min(times),
        "mb": peak_mb() - before,
        "prepare_s": preparing,
    }


def measured_apart(student: str, options: dict[str, Any], limit_gb: float) -> dict[str, float]:
    """`measure` in a process of its own; empty where it needs more memory than the limit."""
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from students import measure; "
        "options = json.loads(sys.argv[2]); print(json.dumps(measure(**options)))"
    )
    folder, asked = str(__file__).rpartition("/")[0] or ".", json.dumps(options)
    limit = int(limit_gb * 1e9)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, folder, asked],
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    )
    if done.returncode and "memory" not in done.stderr:
        raise click.ClickException(f"{student}: {done.stderr[-2000:]}")
    return json.loads(done.stdout) if done.returncode == 0 else {}


@click.command()
@click.argument("rooms")
@click.argument("sweeps")
@click.option("--frames", default=2, type=click.IntRange(1), help="Of the room in a batch.")
@click.option("--voxel-size", default=(0.05, 0.5), type=(float, float), help="Room, sweep (m).")
@click.option("--repeat", default=3, type=click.IntRange(1))
@click.option("--limit-gb", default=8.0, help="Memory of a process.")
@click.option("--student", "students", multiple=True, default=STUDENTS)
def main(
    rooms: str,
    sweeps: str,
    frames: int,
    voxel_size: tuple[float, float],
    repeat: int,
    limit_gb: float,
    students: tuple[str, ...],
) -> None:
    """Print a table for each store, with ratios to Res16UNet14A."""
    for store, count, size in ((rooms, frames, voxel_size[0]), (sweeps, 1, voxel_size[1])):
        asked = {
            "store": store,
            "frames": count,
            "voxel_size": size,
            "is_room": store == rooms,
            "repeat": repeat,
        }
        click.echo("| student | voxels | CPU s | x 14A | peak MB | x 14A | preparing s |")
        click.echo("|---|--:|--:|--:|--:|--:|--:|")
        base: dict[str, float] = {}
        for student in dict.fromkeys((BASE, *students)):
            row = measured_apart(student, {**asked, "student": student}, limit_gb)
            base = base or row
            click.echo(_line(student, row, base, limit_gb))


def _line(student: str, row: dict[str, float], base: dict[str, float], limit_gb: float) -> str:
    if not row:
        return f"| {student} | | more than {limit_gb:g} GB | | | | |"
    time_ratio, memory_ratio = (row[key] / base[key] for key in ("cpu_s", "mb"))
    return (
        f"| {student} | {row['voxels']:,} | {row['cpu_s']:.1f} | {time_ratio:.2f} | "
        f"{row['mb']:.0f} | {memory_ratio:.2f} | {row['prepare_s']:.2f} |"
    )


if __name__ == "__main__":
    main()
