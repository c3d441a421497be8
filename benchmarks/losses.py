"""Time and peak memory of the contrasts in blocks against the plain N x N form, in one run.

Each measurement runs in a fresh process: forward and backward of one loss on random unit vectors,
one thread. Memory is the growth of the process's peak (VmHWM), CPU time is user + system.

Example: python benchmarks/losses.py --pairs 4096 --pairs 16384
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import click

CHANNELS, TEACHER_CHANNELS, TEMPERATURE = 128, 320, 0.04
PLAIN = "plain N x N"
LOSSES = (
    PLAIN,
    "ppnce",
    "ppnce-symmetric",
    "ppnce-soft",
    "superpixel",
    "mask-same-cell",
    "mask-similar",
)
PAIRS_OF_A_SUPERPIXEL = 8


def peak_mb() -> float:
    """Peak resident memory of this process so far (MB); Linux only."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def measure(name: str, pairs: int) -> dict[str, float]:
    """One forward and backward pass in this process."""
    import torch
    from torch.nn.functional import cross_entropy, normalize

    from p2pkit.losses import ContrastBatch, LossConfig, build_loss
    from p2pkit.settings import config_from_json

    torch.set_num_threads(1)
    torch.manual_seed(0)
    points, pixels = (normalize(torch.randn(pairs, CHANNELS), dim=1) for _ in range(2))
    points.requires_grad_()
    pixels.requires_grad_()
    batch = ContrastBatch(
        points,
        pixels,
        cell_id=torch.arange(pairs) // 4,
        voxel_id=torch.arange(pairs) // 2,
        teacher_feature=torch.randn(pairs, TEACHER_CHANNELS),
        superpixel_id=torch.randperm(pairs) // PAIRS_OF_A_SUPERPIXEL,
    )
    setting = "negatives" if name.startswith("mask") else "name"
    config = config_from_json(LossConfig, {"temperature": TEMPERATURE, setting: name})
    loss = None if name == PLAIN else build_loss(config)
    before, began = peak_mb(), time.process_time()
    if loss is None:
        value = cross_entropy(points @ pixels.T / TEMPERATURE, torch.arange(pairs))
    else:
        value = loss(batch)
    value.backward()
    return {"cpu_s": time.process_time() - began, "mb": peak_mb() - before, "loss": value.item()}


def measured_apart(name: str, pairs: int) -> dict[str, float]:
    """As `measure`, in a fresh process, so that the peak memory is its own."""
    command = [sys.executable, __file__, "--only", name, "--pairs", str(pairs)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


@click.command()
@click.option("--pairs", multiple=True, type=click.IntRange(2), default=(4096, 16384))
@click.option("--only", hidden=True)
def main(pairs: tuple[int, ...], only: str | None) -> None:
    """Print the table, with ratios to the plain form."""
    if only is not None:
        click.echo(json.dumps(measure(only, pairs[0])))
        return
    click.echo("| pairs | loss | CPU s | x plain | peak MB | x plain |\n|--:|---|--:|--:|--:|--:|")
    for count in pairs:
        plain = measured_apart(PLAIN, count)
        for name in LOSSES:
            found = plain if name == PLAIN else measured_apart(name, count)
            time_ratio, memory_ratio = (found[key] / plain[key] for key in ("cpu_s", "mb"))
            click.echo(
                f"| {count} | {name} | {found['cpu_s']:.2f} | {time_ratio:.2f} | {found['mb']:.0f} "
                f"| {memory_ratio:.2f} |"
            )


if __name__ == "__main__":
    main()
