"""Files of other programs fill the students: their containers, prefixes, layouts and inputs."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from p2pkit.errors import TrainingError
from p2pkit.networks import build_student, load_student_weights
from p2pkit.networks.engines.torch_engine import TorchEngine
from p2pkit.networks.ptv3 import PTv3, PTv3Size
from p2pkit.networks.published_names import input_layer_of
from p2pkit.networks.spunet import SpUNet, to_pointcept
from p2pkit.networks.waffleiron import WaffleIron

TINY = PTv3Size((4, 8), (1, 1), (1, 2), (4,), (1,), (2,))


def sp_unet(in_channels: int = 3, kernel: int = 5) -> SpUNet:
    widths = (4, 4, 4, 4, 4, 4, 4, 4)
    return SpUNet(
        in_channels,
        None,
        engine=TorchEngine(),
        conv1_kernel_size=kernel,
        base_channels=4,
        channels=widths,
        layers=(1, 1, 1, 1, 1, 1, 1, 1),
    )


def waffle(in_channels: int = 3, out_channels: int | None = None) -> WaffleIron:
    return WaffleIron(in_channels, out_channels, depth=2, width=4)


def randomised(network: torch.nn.Module) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(5)
    return {
        name: torch.rand(value.shape, generator=random) if value.is_floating_point() else value + 3
        for name, value in network.state_dict().items()
    }


def test_pointcepts_segmentor_with_spunet_is_read() -> None:
    weights = randomised(sp_unet())
    head = {"module.seg_head.weight": torch.zeros(2, 4)}
    file = {f"module.backbone.{name}": value for name, value in to_pointcept(weights).items()}
    target = sp_unet()
    report = load_student_weights(target, {"epoch": 3, "state_dict": file | head})
    assert report.missing == ()
    assert report.unexpected == ("seg_head.weight",)
    torch.testing.assert_close(target.state_dict(), weights, rtol=0, atol=0)


def test_sonatas_training_checkpoint_gives_its_student() -> None:
    weights = randomised(PTv3(3, size=TINY))
    file = {f"module.student.backbone.{name}": value for name, value in weights.items()}
    other = {f"module.teacher.backbone.{name}": 0 * value for name, value in weights.items()}
    other["module.student.mask_head.weight"] = torch.zeros(2)
    target = PTv3(3, size=TINY)
    report = load_student_weights(target, {"state_dict": file | other})
    assert report.missing == ()
    assert len(report.unexpected) == len(weights) + 1
    torch.testing.assert_close(target.state_dict(), weights, rtol=0, atol=0)


@pytest.mark.parametrize("container", ["net", "model_points", "model_point"])
def test_waffleirons_and_scalrs_containers_are_opened(container: str) -> None:
    weights = randomised(waffle(out_channels=7))
    target = waffle()
    file = {container: {f"module.{name}": value for name, value in weights.items()}, "epoch": 1}
    report = load_student_weights(target, file)
    assert report.unexpected == ("classif.bias", "classif.weight")
    for name, value in target.state_dict().items():
        assert torch.equal(value, weights[name])


def test_our_own_checkpoint_is_read_without_its_heads() -> None:
    weights = randomised(waffle())
    file = {f"student.{name}": value for name, value in weights.items()}
    file["point_projection.linear.weight"] = torch.zeros(2, 4)
    report = load_student_weights(waffle(), file)
    assert report.missing == ()
    assert report.unexpected == ("point_projection.linear.weight",)


@pytest.mark.parametrize(
    ("build", "layer"),
    [
        (lambda channels: build_res(channels), ["conv0p1s1.kernel"]),
        (sp_unet, ["conv_input.0.kernel"]),
        (lambda channels: PTv3(channels, size=TINY), ["embedding.stem.linear.weight"]),
        (waffle, ["embed.conv1.weight", "embed.conv2.1.weight"]),
    ],
    ids=["Res16UNet", "SpUNet", "PTv3", "WaffleIron"],
)
def test_an_input_layer_of_other_channels_is_averaged_or_left_random(build, layer) -> None:
    weights = randomised(build(5))
    with pytest.raises(TrainingError, match=r"with init_inputs=average or random"):
        load_student_weights(build(2), weights)
    averaged, left = build(2), build(2)
    before = {name: value.clone() for name, value in left.state_dict().items()}
    found = load_student_weights(averaged, weights, inputs="average")
    assert list(found.averaged) == layer
    ones = {name: averaged.state_dict()[name] for name in layer}
    for name, value in ones.items():
        axis = input_layer_of(averaged)[name]
        torch.testing.assert_close(value.sum(dim=axis), weights[name].sum(dim=axis))
        assert torch.equal(value.select(axis, 0), value.select(axis, 1))
    found = load_student_weights(left, weights, inputs="random")
    assert set(layer) <= set(found.missing)
    for name, value in left.state_dict().items():
        assert torch.equal(value, before[name] if name in found.missing else weights[name])
    norms = [name for name in found.missing if name not in layer]
    assert all(name.startswith(("embed.norm.", "embed.conv2.0.")) for name in norms)


def build_res(channels: int, kernel: int = 3) -> torch.nn.Module:
    return build_student(
        "Res16UNet14A", in_channels=channels, conv1_kernel_size=kernel, engine="torch"
    )


@pytest.mark.parametrize("inputs", ["exact", "average", "random"])
@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (build_res, "conv0p1s1.kernel is (125, 6, 32)"),
        (sp_unet, "conv_input.0.kernel is (125, 6, 4)"),
    ],
    ids=["Res16UNet", "SpUNet"],
)
def test_a_first_kernel_of_another_size_is_refused_as_the_file_has_it(
    build, shape: str, inputs
) -> None:
    weights, target = randomised(build(6, 5)), build(3, 3)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(TrainingError, match=re.escape(shape)) as error:
        load_student_weights(target, weights, inputs=inputs)
    assert str(error.value).endswith("checkpoint's in_channels=6 and conv1_kernel_size=5")
    torch.testing.assert_close(target.state_dict(), before, rtol=0, atol=0)


def test_a_first_kernel_of_one_voxel_is_named_too() -> None:
    with pytest.raises(TrainingError, match=r"in_channels=3 and conv1_kernel_size=1$"):
        load_student_weights(build_res(3), randomised(build_res(3, 1)), inputs="random")


def test_an_input_layer_of_as_many_channels_is_copied() -> None:
    weights = randomised(waffle())
    target = waffle()
    report = load_student_weights(target, weights, inputs="average")
    assert (report.averaged, report.missing) == ((), ())
    torch.testing.assert_close(target.state_dict(), weights, rtol=0, atol=0)


def test_a_transformer_with_a_stem_of_a_convolution_is_named() -> None:
    weights = randomised(PTv3(3, size=TINY))
    del weights["embedding.stem.linear.weight"], weights["embedding.stem.linear.bias"]
    weights["embedding.stem.conv.weight"] = torch.zeros(4, 5, 5, 5, 3)
    with pytest.raises(TrainingError, match=r"it is Pointcept's PT-v3m1, .*take a file of these"):
        load_student_weights(PTv3(3, size=TINY), weights)


def test_another_network_is_refused() -> None:
    message = re.escape("no parameter of the student is in the checkpoint")
    with pytest.raises(TrainingError, match=message):
        load_student_weights(waffle(), randomised(PTv3(3, size=TINY)), inputs="average")


def test_every_published_name_is_one_of_ours(published: Path) -> None:
    """The published layout of SpUNet, whole: names and shapes after translation."""
    shapes = json.loads((published / "spunet_v1m1_shapes.json").read_text())
    weights = {name: torch.zeros(shape) for name, shape in shapes.items()}
    target = build_student("SpUNet", in_channels=6, engine="torch")
    report = load_student_weights(target, {"state_dict": weights})
    assert report.missing == ()
    assert report.unexpected == ("final.bias", "final.kernel")
