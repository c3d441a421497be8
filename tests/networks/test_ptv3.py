"""Point Transformer V3 equals the published network: codes, shapes, names, a reference output."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from p2pkit.errors import GeometryError
from p2pkit.networks import build_student
from p2pkit.networks.ptv3 import SONATA, PTv3, PTv3Size, padded_patches
from p2pkit.networks.serialization import ORDERS, serialization_code

TINY = PTv3Size(
    enc_channels=(4, 8),
    enc_depths=(1, 1),
    enc_heads=(1, 2),
    dec_channels=(4,),
    dec_depths=(1,),
    dec_heads=(2,),
    patch_size=3,
    drop_path=0.0,
)


@pytest.mark.parametrize("order", ORDERS)
def test_codes_are_the_published_ones(order: str, published: Path) -> None:
    case = np.load(published / "ptv3_codes.npz")
    cells = torch.from_numpy(np.column_stack([case["batch"], case["coord"]])).long()
    found = serialization_code(cells, order, int(case["depth"]))
    assert np.array_equal(found.numpy(), case[order])


def test_it_gives_the_published_output(published: Path) -> None:
    case = np.load(published / "ptv3_small.npz")
    config = json.loads(str(case["config"]))
    size = PTv3Size(
        *(tuple(config[f"enc_{name}"]) for name in ("channels", "depths", "num_head")),
        *(tuple(config[f"dec_{name}"]) for name in ("channels", "depths", "num_head")),
        patch_size=config["enc_patch_size"][0],
        layer_scale=config["layer_scale"],
    )
    network = PTv3(config["in_channels"], size=size)
    network.load_state_dict(
        {name[2:]: torch.from_numpy(np.array(case[name])) for name in case if name[:2] == "w:"}
    )
    batch = np.repeat([0, 1], np.diff(case["offset"], prepend=0))
    coordinates = torch.from_numpy(np.column_stack([batch, case["coord"]])).int()
    with torch.inference_mode():
        found = network.eval()(coordinates, torch.from_numpy(case["feat"]))
    assert np.abs(found.numpy() - case["out"]).max() < 1e-5


@pytest.mark.parametrize(
    ("file", "size", "channels"),
    [("ptv3_encdec", PTv3Size(), 6), ("ptv3_sonata_enc", SONATA, 9)],
)
def test_the_published_shapes_load_strictly(
    file: str, size: PTv3Size, channels: int, published: Path
) -> None:
    shapes = json.loads((published / f"{file}_shapes.json").read_text())
    with torch.device("meta"):
        network = PTv3(channels, size=size)
    own = {name: list(value.shape) for name, value in network.state_dict().items()}
    assert own == shapes


@pytest.mark.parametrize(
    ("name", "encoder", "decoder"),
    [
        ("PTv3", (3, 6, 12, 24, 32), (6, 6, 12, 32)),
        ("PTv3-small", (2, 4, 8, 16, 32), (4, 4, 8, 16)),
        ("PTv3-encoder", (3, 6, 12, 24, 32), ()),
    ],
)
def test_every_stage_has_its_heads(
    name: str, encoder: tuple[int, ...], decoder: tuple[int, ...]
) -> None:
    """Of Sonata's class; no shape shows them: weights of other heads load, with other features."""
    with torch.device("meta"):
        network = build_student(name, in_channels=3, engine="torch")
    heads = {
        stage: module.attn.heads
        for stage, module in network.named_modules()
        if stage.endswith(".block0")
    }
    expected = {f"enc.enc{level}.block0": count for level, count in enumerate(encoder)}
    expected |= {f"dec.dec{level}.block0": count for level, count in enumerate(decoder)}
    assert heads == expected


def test_gradients_are_right_in_float64() -> None:
    torch.manual_seed(0)
    network = PTv3(2, size=TINY).double().eval()
    coordinates = torch.tensor(
        [[0, 0, 0, 0], [0, 1, 0, 0], [0, 5, 3, 2], [0, 6, 3, 2], [1, 0, 2, 0]]
    )
    features = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda rows: network(coordinates.int(), rows), (features,))


def test_rows_keep_the_order_of_the_input_and_negative_voxels_are_fine() -> None:
    torch.manual_seed(0)
    network = PTv3(2, size=TINY).eval()
    coordinates = torch.tensor([[0, -4, 0, 0], [0, 1, -2, 0], [0, 5, 3, 2], [0, 6, 3, -6]]).int()
    features, shuffled = torch.randn(4, 2), torch.tensor([2, 0, 3, 1])
    with torch.inference_mode():
        found = network(coordinates, features)
        again = network(coordinates[shuffled], features[shuffled])
    assert torch.allclose(found[shuffled], again, atol=1e-6)


def test_a_last_patch_repeats_the_end_of_the_one_before() -> None:
    rows, places, length = padded_patches([5, 3], 3)
    assert (rows.tolist(), places.tolist(), length) == (
        [0, 1, 2, 3, 4, 2, 5, 6, 7],
        [0, 1, 2, 3, 4, 6, 7, 8],
        3,
    )
    assert padded_patches([2], 1024)[2] == 2


def test_the_smallest_cloud_of_a_batch_bounds_the_patches_of_all() -> None:
    torch.manual_seed(0)
    network = PTv3(2, size=TINY).eval()
    large = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [0, 5, 3, 2], [0, 6, 3, 2]]).int()
    small, features = torch.tensor([[1, 0, 0, 0]]).int(), torch.randn(5, 2)
    with torch.inference_mode():
        alone = network(large, features[:4])
        beside = network(torch.cat([large, small]), features)[:4]
    assert padded_patches([4, 1], TINY.patch_size)[2] == 1
    assert not torch.allclose(alone, beside, atol=1e-4)


def test_a_patch_larger_than_the_cloud_is_the_whole_cloud() -> None:
    coordinates = torch.cartesian_prod(torch.arange(1), *[torch.arange(2)] * 3).int()
    inputs = torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    found = []
    for patch_size in (8, 1024):
        torch.manual_seed(0)
        network = PTv3(3, size=replace(TINY, patch_size=patch_size)).eval()
        with torch.inference_mode():
            found.append(network(coordinates, inputs))
    assert torch.equal(*found)
    assert padded_patches([8], 1024)[2] == 8


def test_training_is_the_same_twice_with_one_seed_and_drops_paths() -> None:
    size = PTv3Size(**{**vars(TINY), "drop_path": 0.5})
    torch.manual_seed(0)
    network = PTv3(2, size=size).train()
    coordinates = torch.stack([torch.zeros(40), *torch.arange(120).view(3, 40)]).T.int()
    features = torch.randn(40, 2)
    outputs: list[torch.Tensor] = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(network(coordinates, features))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_half_precision_is_near_float32() -> None:
    torch.manual_seed(0)
    network = PTv3(2, size=TINY).eval()
    coordinates = torch.stack([torch.zeros(40), *torch.arange(120).view(3, 40)]).T.int()
    features = torch.randn(40, 2)
    with torch.inference_mode():
        exact = network(coordinates, features)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(coordinates, features)
    assert (half.float() - exact).abs().max() < 0.1 * exact.abs().max()


def test_voxels_too_far_apart_are_refused() -> None:
    coordinates = torch.tensor([[0, 0, 0, 0], [0, 3_000_000, 0, 0]]).int()
    with pytest.raises(GeometryError, match="do not fit"):
        PTv3(2, size=TINY)(coordinates, torch.zeros(2, 2))
