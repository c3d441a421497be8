"""Reading shards as a stream of training batches: order, prefetch, augmentation, voxels."""

from p2pkit.stream.webdataset_pipeline import webdataset_pipeline

__all__ = ["webdataset_pipeline"]
