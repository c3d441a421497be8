"""Time and peak memory of both sparse engines on real voxels, in one run.

Each measurement runs in a fresh process: forward and backward of one student on frames of a store
(`p2pkit extract`), one thread, medians over repetitions after one for warm-up. Memory is
the growth of the process's peak (VmHWM); CPU time is user + system.

Example: python benchmarks/engines.py rooms.store --student Res16UNet14A --frames 4
"""

import json
import statistics
import subprocess
import sys
import time

import click
from losses import peak_mb

from p2pkit.networks import ENGINES, STUDENTS

SPARSE = [name for name in STUDENTS if not name.startswith(("PTv3", "WaffleIron"))]
"""Students that an engine computes; the others are plain torch."""


def measure(
    engine: str, store: str, student: str, *, frames: int, voxel_size: float, repeat: int
) -> dict[str, float]:
    """Forward and backward passes in this process."""
    import numpy as np
    import torch

    from p2pkit.geometry.voxelize import voxel_deduplicate
    from p2pkit.networks import build_student
    from p2pkit.pipelines.evaluate.inference import read_cloud
    from p2pkit.store.reading import open_store

    torch.set_num_threads(1)
    coordinates, inputs = [], []
    for index in range(frames):
        cloud = read_cloud(open_store(store), index)
        voxels = voxel_deduplicate(cloud.points, voxel_size)
        coordinates.append(np.insert(voxels.coordinates, 0, index, axis=1))
        inputs.append(cloud.colors[voxels.keep] / np.float32(127.5) - np.float32(1))
    batch = torch.from_numpy(np.concatenate(coordinates)), torch.from_numpy(np.concatenate(inputs))
    torch.manual_seed(0)
    network = build_student(student, in_channels=3, engine=engine)
    before, times, value = peak_mb(), [], 0.0
    for _ in range(repeat + 1):
        network.zero_grad()
        began = time.process_time()
        loss = network(*batch).square().mean()
        loss.backward()
        times.append(time.process_time() - began)
        value = loss.item()
    return {
        "voxels": len(batch[0]),
        "cpu_s": statistics.median(times[1:]),
        "mb": peak_mb() - before,
        "loss": value,
    }


@click.command()
@click.argument("store")
@click.option("--student", default="Res16UNet34C", type=click.Choice(SPARSE))
@click.option("--frames", default=2, type=click.IntRange(1))
@click.option("--voxel-size", default=0.025, help="Metres.")
@click.option("--repeat", default=3, type=click.IntRange(1))
@click.option("--only", hidden=True)
def main(
    store: str, student: str, frames: int, voxel_size: float, repeat: int, only: str | None
) -> None:
    """Print the table, with ratios to MinkowskiEngine."""
    if only is not None:
        found = measure(only, store, student, frames=frames, voxel_size=voxel_size, repeat=repeat)
        click.echo(json.dumps(found))
        return
    rows = {}
    for engine in ENGINES:
        command = [sys.executable, "-W", "ignore", __file__, *sys.argv[1:], "--only", engine]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows[engine] = json.loads(done.stdout)
    base = rows["minkowski"]
    click.echo("| engine | voxels | CPU s | x minkowski | peak MB | x minkowski | loss |")
    click.echo("|---|--:|--:|--:|--:|--:|--:|")
    for engine, row in rows.items():
        time_ratio, memory_ratio = (row[key] / base[key] for key in ("cpu_s", "mb"))
        click.echo(
            f"| {engine} | {row['voxels']} | {row['cpu_s']:.2f} | {time_ratio:.2f} | "
            f"{row['mb']:.0f} | {memory_ratio:.2f} | {row['loss']:.6f} |"
        )


if __name__ == "__main__":
    main()
