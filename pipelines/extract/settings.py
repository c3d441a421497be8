"""The settings of an extraction."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from p2pkit.geometry.superpixels import SuperpixelConfig
from p2pkit.layers.features import FeatureConfig
from p2pkit.layers.geometry import GeometryConfig

NO_TEACHER = "none"
"""Name of the teacher in settings where none is meant."""
READING = ("limit", "every", "flying_margin", "fuse")
"""Settings of how a recording is read. They stand in the geometry's details, for extracting again;
what they lead to (frame list, margin, fusion) is in the fingerprint.
"""


@dataclass(frozen=True)
class ExtractConfig:
    """Settings of one extraction.

    Args:
        dataset: how the recording lies on the disk: a name out of `p2pkit.datasets.SOURCES`, told
            in docs/datasets.md.
        root: the recording's folder; none for generated scenes.
        out: the store to write, a local folder. One that is there is finished, or gets one more
            layer if only the teacher differs.
        geometry: which points are kept.
        features: the teacher and how its features are stored; none for geometry and labels alone,
            to evaluate on, where the teacher's name is none.
        storage: on-disk format of the shards, tar or zarr.
        limit: only the first so many frames of the recording, at least 1; all where it is left out.
        every: of each sequence, each `every`-th frame only; at least 1, which takes all.
        flying_margin: drop pixels of depth images between the two sides of an edge, which no
            neighbour supports to within this share of their depth; between 0 and 1, 0 keeps them.
        fuse: one sample of so many neighbouring posed frames, at least 2; 0 for one of each.
        camera_file: a calibration in place of the recording's own, for posed-rgbd and tum; the
            recording's own where it is left out.
        shard_size: samples per shard, at least 1; the unit of work and of resumption.
        seed: of the plan and of generated scenes; at least 0.
        max_failure_rate: stop when more than this share of all frames is bad, from 0 to 1.
        threads: frames worked on at the same time, at least 1; the teacher itself uses every core.
        codecs: how the bytes of a field are stored where not as usual, by field, such as
            map = "zstd": none, lz4, zstd, shuffle-lz4, shuffle-zstd or, for whole numbers,
            delta-shuffle-lz4.
        superpixels: also store which superpixel each pair's pixel lies in, as
            {segments = 150, compactness = 6.0}, which is SLidR's; not where it is left out.
    """

    dataset: str
    root: Path | None
    out: Path
    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    features: FeatureConfig | None = field(default_factory=FeatureConfig)
    storage: Literal["tar", "zarr"] = "tar"
    limit: int | None = None
    every: int = 1
    flying_margin: float = 0.02
    fuse: int = 0
    camera_file: Path | None = None
    shard_size: int = 64
    seed: int = 0
    max_failure_rate: float = 0.5
    threads: int = 4
    codecs: dict[str, str] = field(default_factory=dict)
    superpixels: SuperpixelConfig | None = None
