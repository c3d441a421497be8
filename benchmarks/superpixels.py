"""What superpixels cost: SLIC's CPU time for each image, and their bytes for each frame.

Frames of real recordings (of generated rooms if there are none) are cut as `p2pkit extract
--superpixels` does, one after the other, and encoded as the store does. Time is that of the cutting
alone: the median over images, on one core.

Example: python benchmarks/superpixels.py --frames 8
"""

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.geometry.maps.superpixels import superpixels
from p2pkit.layers.geometry import GeometryConfig, decode_geometry, encode_geometry
from p2pkit.layers.superpixels import encode_superpixels, superpixel_spec
from p2pkit.pipelines.extract.sizes import sample_bytes
from p2pkit.settings.layers import parse_superpixels
from p2pkit.store.manifest import FieldSpec, LayerSpec

DATA = Path(os.environ.get("P2PKIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
RECORDINGS = {
    "7-Scenes RedKitchen": ("posed-rgbd", "7scenes_redkitchen"),
    "NYUv2": ("nyuv2", "nyuv2_half"),
    "nuScenes": ("nuscenes", "nuscenes_sample"),
    "PandaSet 002": ("pandaset", "pandaset"),
}


@dataclass(frozen=True)
class Cost:
    """Costs on one recording.

    Args:
        size: width and height of an image (px).
        images: of a frame.
        cpu_s: of one image, the median.
        found: superpixels of an image, the mean.
        pairs: of a frame, the mean.
        seen: superpixels of a frame that have a pair, as a share of all.
        frame_bytes: in a tar shard, with headers and padding, the mean.
    """

    size: tuple[int, int]
    images: int
    cpu_s: float
    found: float
    pairs: float
    seen: float
    frame_bytes: float


def cost(dataset: str, root: Path | None, frames: int, text: str) -> Cost:
    """Cut the first frames of a recording."""
    config = parse_superpixels(text)
    source = open_source(dataset, SourceOptions(root=root, limit=frames))
    layer = superpixel_spec(config, LayerSpec("geometry", (FieldSpec("x", "<f4", ()),), {}))
    times: list[float] = []
    rows: list[tuple[float, ...]] = []
    size, images = (0, 0), 0
    for key in list(source.keys()):
        frame = source.load(key)
        cloud = decode_geometry(encode_geometry(frame, GeometryConfig()))
        found: list[np.ndarray] = []
        for view in frame.views:
            began = time.process_time()
            found.append(superpixels(view.image, config))
            times.append(time.process_time() - began)
        sample = encode_superpixels(cloud, found)
        ids, total = sample.arrays["superpixel"], sum(sample.meta["superpixels"])
        taken = sum(sample_bytes(layer, sample).values())
        rows.append((total / len(found), len(ids), len(np.unique(ids)) / total, taken))
        size, images = cloud.image_sizes[0], len(found)
    found_mean, pairs, seen, taken = np.mean(rows, axis=0).tolist()
    return Cost(size, images, statistics.median(times), found_mean, pairs, seen, taken)


@click.command()
@click.option("--frames", default=8, show_default=True, type=click.IntRange(1))
@click.option("--superpixels", "text", default="slic:150", show_default=True)
def main(frames: int, text: str) -> None:
    """Print the table."""
    click.echo(
        f"{text}\n\n| recording | images of a frame | CPU ms an image | superpixels of an image | "
        "with a pair | pairs of a frame | bytes of a frame |\n|---|---|--:|--:|--:|--:|--:|"
    )
    there = {name: (kind, DATA / folder) for name, (kind, folder) in RECORDINGS.items()}
    wanted = {name: row for name, row in there.items() if row[1].is_dir()}
    for name, row in (wanted or {"generated rooms": ("demo-scene", None)}).items():
        found = cost(*row, frames, text)
        width, height = found.size
        click.echo(
            f"| {name} | {found.images} of {width} × {height} | {1e3 * found.cpu_s:,.0f} | "
            f"{found.found:.0f} | {found.seen:.0%} | {found.pairs:,.0f} | {found.frame_bytes:,.0f} "
            "|"
        )


if __name__ == "__main__":
    main()
