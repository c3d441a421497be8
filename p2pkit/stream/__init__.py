"""Reading shards as a stream of training batches: order, prefetch, augmentation, voxels."""

from p2pkit.stream.batches import Batch, BatchStream, StreamConfig, StreamSource
from p2pkit.stream.samples import SampleConfig
from p2pkit.stream.webdataset_pipeline import webdataset_pipeline

__all__ = [
    "Batch",
    "BatchStream",
    "SampleConfig",
    "StreamConfig",
    "StreamSource",
    "webdataset_pipeline",
]
