"""SpUNet equals the published network: shapes, names and a reference output."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from p2pkit.errors import GeometryError
from p2pkit.networks import build_student
from p2pkit.networks.engines.sparse_engine import sparse_engine
from p2pkit.networks.spunet import SpUNet, from_pointcept, to_pointcept

SMALL = {"base_channels": 8, "channels": (8, 12, 16, 20, 20, 16, 12, 12)}
LAYERS = (1, 2, 1, 1, 1, 1, 2, 1)


def small(engine: str, in_channels: int = 3) -> SpUNet:
    return SpUNet(in_channels, None, engine=sparse_engine(engine), layers=LAYERS, **SMALL)


@pytest.mark.parametrize("engine", ["torch", "minkowski"])
def test_it_gives_the_published_output(engine: str, published: Path) -> None:
    case = np.load(published / "spunet_small.npz")
    weights = {
        name[2:]: torch.from_numpy(np.array(case[name])) for name in case.files if name[:2] == "w:"
    }
    network = small(engine)
    network.load_state_dict(from_pointcept(weights))
    coordinates = torch.from_numpy(np.column_stack([case["batch"], case["coord"]])).int()
    with torch.inference_mode():
        found = network.eval()(coordinates, torch.from_numpy(case["feat"]))
    assert np.abs(found.numpy() - case["out"]).max() < 1e-5


def test_the_published_shapes_load_strictly(published: Path) -> None:
    shapes = json.loads((published / "spunet_v1m1_shapes.json").read_text())
    weights = {name: torch.zeros(shape) for name, shape in shapes.items()}
    network = build_student("SpUNet", in_channels=6, out_channels=20, engine="torch")
    network.load_state_dict(from_pointcept(weights))
    written = to_pointcept(network.state_dict())
    assert {name: list(value.shape) for name, value in written.items()} == shapes


def test_the_names_go_both_ways_to_the_bit(tmp_path: Path) -> None:
    network = small("torch")
    save_file(to_pointcept(network.state_dict()), tmp_path / "w.safetensors")
    back = from_pointcept(load_file(tmp_path / "w.safetensors"))
    own = network.state_dict()
    assert sorted(back) == sorted(own)
    assert all(torch.equal(back[name], own[name]) for name in own)


def test_gradients_are_right_in_float64() -> None:
    torch.manual_seed(0)
    network = SpUNet(
        2,
        None,
        engine=sparse_engine("torch"),
        conv1_kernel_size=3,
        base_channels=2,
        channels=(2,) * 8,
        layers=(1,) * 8,
    ).double()
    coordinates = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [0, 5, 3, 2], [1, 0, 2, 0]]).int()
    features = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    network.eval()
    assert torch.autograd.gradcheck(lambda rows: network(coordinates, rows), (features,))


def test_no_voxels_are_refused() -> None:
    with pytest.raises(GeometryError, match="no voxels"):
        small("torch")(torch.zeros(0, 4).int(), torch.zeros(0, 3))
