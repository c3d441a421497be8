"""The paper's order, teacher → 1 x 1 → upsample → pick, against cached shards → gather → 1 x 1."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.geometry.voxelize import voxel_deduplicate
from p2pkit.heads import PixelProjection, PointProjection
from p2pkit.layers.features import pair_features
from p2pkit.layers.geometry import decode_geometry
from p2pkit.losses import ppnce
from p2pkit.networks import build_student
from p2pkit.pipelines.extract.run import ExtractConfig, run
from p2pkit.store.reading import Store, open_store
from p2pkit.teachers import TeacherOptions
from p2pkit.teachers.timm_network import build_network

PAIRS, TEMPERATURE = 1024, 0.04
KEYS = ("room-0_frame-000000", "room-0_frame-000001")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two frames of a generated room, cached with the default teacher."""
    out = tmp_path_factory.mktemp("exact") / "store"
    return open_store(run(ExtractConfig(dataset="demo-scene", root=None, out=out, limit=2)))


def point_embedding(store: Store, key: str, rows: np.ndarray) -> Tensor:
    """The points of some pairs through a real student and its head, with fixed random weights."""
    cloud = decode_geometry(store.read("geometry", *store.find(key)))
    voxels = voxel_deduplicate(cloud.points, 0.1)
    colors = cloud.colors[voxels.keep] / np.float32(127.5) - np.float32(1)
    torch.manual_seed(0)
    student = build_student("Res16UNet14A", in_channels=3, conv1_kernel_size=3)
    head = PointProjection(student.out_channels)
    coordinates = torch.from_numpy(np.insert(voxels.coordinates, 0, 0, axis=1))
    with torch.no_grad():
        features = student(coordinates, torch.from_numpy(colors))
        return head(features[voxels.voxel_of_point[cloud.pair_point[rows]]])


def picked_from_upsampled(
    store: Store, key: str, rows: np.ndarray, head: PixelProjection
) -> Tensor:
    """The paper's way, from the image: the projected map is upsampled to every pixel first."""
    frame = open_source("demo-scene", SourceOptions()).load(key)
    view = frame.views[0]
    network = build_network(TeacherOptions(), "tf_efficientnet_lite0")
    with torch.no_grad():
        feature_map = network.layer(network.preprocessing.apply(view.image)[None])
    projected = functional.linear(feature_map, head.linear.weight, head.linear.bias)
    size, cells = torch.tensor([320, 240]), torch.tensor(feature_map.shape[1:3]).flip(0)
    u, v = torch.meshgrid(torch.arange(320), torch.arange(240), indexing="xy")
    grid = store.read(store.feature_layers[0], *store.find(key)).meta["grids"][0]
    assert tuple(size.tolist()) == tuple(grid["input_size"])
    cell_uv = (torch.stack([u, v], -1) - torch.tensor(grid["offset"])) / torch.tensor(
        grid["stride"]
    )
    upsampled = functional.grid_sample(
        projected.permute(0, 3, 1, 2),
        (2 * cell_uv / (cells - 1) - 1)[None],
        padding_mode="border",
        align_corners=True,
    )[0]
    pixel = torch.from_numpy(store.read("geometry", *store.find(key)).arrays["pixel"].astype(int))
    picked = upsampled.reshape(upsampled.shape[0], -1).T[pixel[rows]]
    return functional.normalize(picked, dim=1)


def loss_and_gradient(
    points: Tensor, pixels: Tensor, head: PixelProjection
) -> tuple[float, Tensor]:
    loss = ppnce(points, pixels, temperature=TEMPERATURE)
    parts = torch.autograd.grad(loss, list(head.parameters()))
    return loss.item(), torch.cat([part.flatten() for part in parts]).double()


@pytest.mark.parametrize("key", KEYS)
def test_loss_and_gradient_are_the_papers(store: Store, key: str) -> None:
    cloud = decode_geometry(store.read("geometry", *store.find(key)))
    rows = np.random.default_rng(0).choice(len(cloud.pair_point), PAIRS, replace=False)
    points = point_embedding(store, key, rows)
    torch.manual_seed(1)
    head = PixelProjection(320)
    layer = store.read(store.feature_layers[0], *store.find(key))
    paper = loss_and_gradient(points, picked_from_upsampled(store, key, rows, head), head)
    sampled = {
        alignment: torch.from_numpy(pair_features(layer, cloud, rows, alignment=alignment))
        for alignment in ("measured", "slidr")
    }
    cached = loss_and_gradient(points, head(sampled["measured"]), head)
    assert cached[0] == pytest.approx(paper[0], rel=1e-3)
    assert functional.cosine_similarity(paper[1], cached[1], dim=0).item() > 0.9999
    stretched = loss_and_gradient(points, head(sampled["slidr"]), head)
    assert functional.cosine_similarity(paper[1], stretched[1], dim=0).item() < 0.99
