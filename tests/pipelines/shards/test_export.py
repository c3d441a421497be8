"""A stored frame as a PLY file."""

import pytest

from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.errors import StoreError
from p2pkit.geometry.transforms import transform_points
from p2pkit.layers.geometry import GeometryConfig, decode_geometry, encode_geometry, geometry_fields
from p2pkit.pipelines.shards.export_ply import write_ply
from p2pkit.store.manifest import LayerSpec, Manifest, Plan
from p2pkit.store.reading import open_store
from p2pkit.store.writing import create_or_open

open3d = pytest.importorskip("open3d", exc_type=(ImportError, OSError))


@pytest.fixture
def store(tmp_path):
    source = open_source("demo-scene", SourceOptions(root=None, limit=1))
    frame = source.load(source.keys()[0])
    layer = LayerSpec(name="geometry", fields=geometry_fields(frame), fingerprint={"made": "here"})
    plan = Plan(seed=0, shard_size=1, frames=1)
    manifest = Manifest(dataset={"dataset": "x"}, plan=plan, storage="tar", layers=(layer,))
    writer = create_or_open(tmp_path / "store", manifest)
    writer.write("geometry", 0, [encode_geometry(frame, GeometryConfig(voxel_size=0.1))])
    return open_store(tmp_path / "store"), frame


def test_points_are_in_the_world_with_their_colours(store, tmp_path):
    opened, frame = store
    path = write_ply(opened, frame.key, tmp_path / "frame.ply")
    cloud = decode_geometry(opened.read("geometry", 0, 0))
    read = open3d.io.read_point_cloud(str(path))
    world = transform_points(frame.world_from_sensor, cloud.points)
    assert abs(world - read.points).max() < 1e-4
    assert abs(cloud.colors / 255 - read.colors).max() < 1e-2


def test_another_ending_is_refused(store, tmp_path):
    opened, frame = store
    with pytest.raises(StoreError, match=r"\*\.ply"):
        write_ply(opened, frame.key, tmp_path / "frame.txt")
