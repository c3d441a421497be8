"""Shards as Zarr v3 groups, and the Zarr view of a tar store."""
