import dataclasses
import os
import weakref
from typing import Any, Literal

import numpy as np
import pytest
import skimage.data
import torch
from second_device import second_device
from torch import Tensor, nn

from p2pkit.errors import BadMapError, ConfigError, TeacherError, TeacherMemoryError
from p2pkit.geometry.maps.grid import FeatureGrid
from p2pkit.teachers import Teacher, TeacherOptions, open_teacher
from p2pkit.teachers.network import Preprocessing, TeacherNetwork
from p2pkit.teachers.network_teacher import NetworkTeacher
from p2pkit.teachers.timm_network import timm


@pytest.fixture(scope="module")
def lite0() -> Teacher:
    return open_teacher(TeacherOptions())


@pytest.fixture(scope="module")
def resnet50() -> Teacher:
    return open_teacher(TeacherOptions(name="resnet50", weights="random", seed=3))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_default_teacher_gives_channels_last_half_floats(lite0: Teacher) -> None:
    maps = lite0.features([noise(64, 96), noise(64, 96, seed=1)])
    assert maps.dtype == np.float16
    assert maps.flags.c_contiguous
    assert maps.shape == (2, 2, 3, lite0.channels) == (2, 2, 3, 320)


@pytest.mark.parametrize("model", ["lite0", "resnet50"])
def test_a_map_depends_on_its_image_alone(model: str, request: pytest.FixtureRequest) -> None:
    teacher: Teacher = request.getfixturevalue(model)
    images = [noise(64, 96, seed) for seed in range(3)]
    together = teacher.features(images)
    for image, expected in zip(images, together, strict=True):
        np.testing.assert_array_equal(teacher.features([image])[0], expected)
    assert not np.array_equal(together[0], together[1])


def test_huge_pages_are_asked_for_unless_the_environment_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    open_teacher(TeacherOptions())
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "1"
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    open_teacher(TeacherOptions())
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"


def test_maps_do_not_depend_on_the_threads_of_the_process(lite0: Teacher) -> None:
    threads = torch.get_num_threads()
    images = [noise(96, 96, seed) for seed in range(2)]
    try:
        torch.set_num_threads(1)
        other = open_teacher(TeacherOptions())
        np.testing.assert_array_equal(other.features(images), lite0.features(images))
        assert torch.get_num_threads() == 1
        torch.set_num_threads(threads)
        other.features(images)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(threads)


def test_features_match_the_bare_network(lite0: Teacher) -> None:
    image = skimage.data.chelsea()[:256, :256]
    network = timm.create_model("tf_efficientnet_lite0", features_only=True).eval()
    own = {name.removeprefix("network."): v for name, v in lite0._layer.state_dict().items()}  # type: ignore[attr-defined]
    network.load_state_dict(own, strict=True)
    with torch.inference_mode():
        pixels = torch.tensor(image).permute(2, 0, 1)[None].double() / 255
        expected = network(((pixels - 0.5) / 0.5).float())[-1][0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(lite0.features([image])[0], expected, rtol=2e-3, atol=2e-3)


def test_resnet50_is_the_papers_teacher(resnet50: Teacher) -> None:
    assert resnet50.channels == 2048
    grid = resnet50.grid((96, 128))
    assert grid == FeatureGrid((32.0, 32.0), (0.0, 0.0), (3, 4), (96, 128))
    assert resnet50.features([noise(128, 96)]).shape == (1, 4, 3, 2048)


def test_shifting_the_image_by_a_stride_shifts_the_map_by_a_cell(lite0: Teacher) -> None:
    photo = skimage.data.astronaut()[:416]
    stride = int(lite0.grid((416, 416)).stride[0])
    at, shifted = (
        lite0.features([np.ascontiguousarray(photo[:, start : start + 416])])[0].astype(np.float32)
        for start in (0, stride)
    )

    def agreement(cells: int) -> float:
        left = at[4:9, 5:9].ravel()
        right = shifted[4:9, 5 - cells : 9 - cells].ravel()
        return float(np.corrcoef(left, right)[0, 1])

    assert agreement(1) > 0.99
    assert max(agreement(0), agreement(2)) < 0.9


def test_grids_follow_the_resized_input() -> None:
    teacher = open_teacher(TeacherOptions(input_size=(128, 96)))
    grid = teacher.grid((640, 480))
    assert grid.input_size == (128, 96)
    assert teacher.grid((320, 240)) is grid
    assert teacher.features([noise(240, 320)]).shape == (1, *grid.cells[::-1], 320)


def test_fingerprints_tell_teachers_apart(lite0: Teacher, resnet50: Teacher) -> None:
    again = open_teacher(TeacherOptions(name="timm:resnet50", weights="random", seed=3))
    other = open_teacher(TeacherOptions(name="resnet50", weights="random", seed=4))
    assert again.fingerprint() == resnet50.fingerprint()
    assert other.weights_sha256 != resnet50.weights_sha256
    assert lite0.fingerprint()["preprocessing"] == {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
    }


def test_random_weights_leave_the_random_state_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    open_teacher(TeacherOptions(name="mobilenetv3_small_050", weights="random"))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"name": "resnet5o"}, TeacherError, "similar names: .*resnet50"),
        ({"name": "dinov2_vits14"}, TeacherError, "similar names: vit_small_patch14_dinov2, "),
        ({"name": "dinov2_vitb14_reg"}, TeacherError, "names: vit_base_patch14_reg4_dinov2, "),
        ({"name": "dino_vits16"}, TeacherError, r"names: vit_small_patch16_224\.dino, "),
        ({"name": "ViT-B/32"}, TeacherError, "similar names: vit_base_patch32_"),
        ({"name": "facebook/dinov2-small"}, TeacherError, "write hf:facebook/dinov2-small"),
        ({"name": "hf_hub:someone/net"}, ConfigError, "write hf:someone/net"),
        ({"final_norm": "all"}, TeacherError, "has no final norm"),
        ({"name": "resnet18.wide"}, TeacherError, r"tag \(wide\) .*has resnet18\.a1_in1k, "),
        ({"layer": 5}, TeacherError, r"no layer 5; expected -5 to 4"),
        ({"name": "caffe:resnet50"}, ConfigError, "no kind 'caffe'; choose one of timm"),
        ({"output_stride": 8, "name": "vit_tiny_patch16_224"}, TeacherError, "output_stride"),
        ({"weights": "absent.pth"}, TeacherError, "'absent.pth': the file does not exist"),
    ],
)
def test_wrong_options_say_what_is_right(
    changes: dict[str, object], error: type[Exception], message: str
) -> None:
    options = dataclasses.replace(TeacherOptions(weights="random"), **changes)
    with pytest.raises(error, match=message):
        open_teacher(options)


@pytest.mark.parametrize("prefix", ["timm/", "hf_hub:timm/", "hf-hub:timm/", "hf:timm/"])
def test_timms_own_spelling_of_the_hubs_models_is_read(prefix: str) -> None:
    plain, hub = (
        open_teacher(TeacherOptions(name=f"{start}test_resnet.r160_in1k", weights="random"))
        for start in ("", prefix)
    )
    assert hub.fingerprint() == plain.fingerprint()


@pytest.mark.parametrize(
    ("layer", "final_norm", "normed"),
    [(-1, "last", True), (-1, "none", False), (2, "last", False), (2, "all", True)],
)
def test_a_vits_tokens_go_through_its_final_norm(
    layer: int, final_norm: Literal["last", "all", "none"], normed: bool
) -> None:
    options = TeacherOptions(
        name="test_vit", weights="random", layer=layer, final_norm=final_norm, seed=2
    )
    teacher, image = open_teacher(options), noise(160, 160)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        network = timm.create_model("test_vit").eval()
    pixels = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.5
    with torch.inference_mode():
        (expected,) = network.forward_intermediates(
            pixels, indices=[layer % 6], norm=normed, intermediates_only=True
        )
    found = teacher.features([image])[0]
    np.testing.assert_allclose(found, expected[0].permute(1, 2, 0).numpy(), rtol=2e-3, atol=2e-2)
    assert teacher.fingerprint().get("final_norm", False) is normed


def test_networks_whose_cells_cannot_be_measured_name_the_module() -> None:
    teacher = open_teacher(TeacherOptions(name="mvitv2_tiny", weights="random"))
    with pytest.raises(TeacherError, match="how MultiScaleBlock moves positions") as caught:
        teacher.grid((224, 224))
    assert "input_size" not in str(caught.value), "the size is not at fault"


def test_pretrained_weights_without_a_network_name_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(TeacherError, match=r"give a local file \(weights="):
        open_teacher(TeacherOptions(name="resnet10t", weights="timm"))


def test_images_of_several_sizes_are_refused(lite0: Teacher) -> None:
    with pytest.raises(TeacherError, match=r"sizes \[\(32, 64\), \(64, 64\)\]"):
        lite0.features([noise(64, 64), noise(64, 32)])
    with pytest.raises(TeacherError, match="found 0 images"):
        lite0.features([])


def test_a_size_that_the_network_cannot_take_names_input_size() -> None:
    teacher = open_teacher(TeacherOptions(name="vit_tiny_patch16_224", weights="random"))
    with pytest.raises(TeacherError, match=r"100 x 64 px.*input_size"):
        teacher.grid((100, 64))
    with pytest.raises(TeacherError, match=r"100 x 64 px.*input_size"):
        teacher.features([noise(64, 100)])


def test_values_beyond_half_precision_are_an_error(tmp_path: object) -> None:
    network = timm.create_model("resnet10t")
    state = network.state_dict()
    state["layer4.0.bn2.weight"] = torch.full_like(state["layer4.0.bn2.weight"], 1e8)
    path = f"{tmp_path}/huge.pth"
    torch.save(state, path)
    teacher = open_teacher(TeacherOptions(name="resnet10t", weights=path))
    with pytest.raises(TeacherError, match=r"layer 4: a feature has magnitude .*float16"):
        teacher.features([noise(64, 64)])


class Blocks(nn.Module):
    """The mean colour of each 8 x 8 px block; a memory for `most` images; NaN for black images."""

    def __init__(self, most: int = 99) -> None:
        super().__init__()
        self.most = most
        self.batches: list[int] = []
        self.activation: weakref.ref[Tensor] | None = None

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        if len(images) > self.most:
            activation = 2 * images
            self.activation = weakref.ref(activation)
            raise torch.OutOfMemoryError("CUDA out of memory")
        colours = nn.functional.avg_pool2d(images, 8).permute(0, 2, 3, 1)
        return colours / colours.amax(dim=(1, 2, 3), keepdim=True)


def blocks(device: str, layer: nn.Module | None = None, **options: Any) -> NetworkTeacher:
    input_size = options.pop("input_size", None)
    network = TeacherNetwork(
        layer=layer or Blocks(),
        layer_index=0,
        channels=3,
        nominal_stride=8,
        weights_sha256="0" * 64,
        preprocessing=Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear", input_size),
        library="a test",
        declared_grid=(8.0, 3.5),
    )
    return NetworkTeacher("blocks", network, TeacherOptions(device=device, **options))


@pytest.mark.parametrize("input_size", [None, (32, 24)])
def test_an_accelerators_batches_give_the_maps_of_single_images(
    input_size: tuple[int, int] | None,
) -> None:
    images = [noise(48, 64, seed) for seed in range(5)]
    expected = blocks("cpu", input_size=input_size).features(images)
    with second_device() as device:
        layer = Blocks()
        teacher = blocks(device, layer, batch_size=2, input_size=input_size)
        found = teacher.features(images)
    assert sorted(layer.batches) == [1, 2, 2]
    np.testing.assert_array_equal(found, expected)
    assert teacher.accelerator == {
        "device": "meta",
        "precision": "float32",
        "libraries": "a test",
    }


def test_the_batch_is_one_on_cpus_and_32_elsewhere() -> None:
    with second_device() as device:
        sizes = [blocks(name).batch_size for name in ("cpu", device)]
        sizes += [blocks(name, batch_size=8).batch_size for name in ("cpu", device)]
    assert sizes == [1, 32, 1, 8]
    assert blocks("cpu").accelerator is None


def test_too_little_memory_is_an_error_of_its_own() -> None:
    with second_device() as device:
        layer = Blocks(most=2)
        teacher = blocks(device, layer, batch_size=4)
        assert len(teacher.features([noise(16, 16)] * 2)) == 2
        with pytest.raises(TeacherMemoryError, match="for 3 images of 16 x 16 px") as caught:
            teacher.features([noise(16, 16)] * 3)
        assert "--batch-size" in str(caught.value)
        assert layer.activation is not None
        assert layer.activation() is None, "the error keeps the memory"
        small = blocks(device, Blocks(most=0))
        with pytest.raises(TeacherMemoryError, match=r"1 image of 16 x 16 px"):
            small.grid((16, 16))


def test_the_image_whose_map_is_nan_is_known() -> None:
    images = [noise(16, 16), noise(16, 16), noise(16, 16), np.zeros((16, 16, 3), np.uint8)]
    with second_device() as device:
        for name in ("cpu", device):
            with pytest.raises(BadMapError, match="magnitude nan") as caught:
                blocks(name, batch_size=3).features(images)
            assert caught.value.image == 3


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_close_and_another_layer(
    precision: Literal["bfloat16", "float16"],
) -> None:
    options = TeacherOptions(name="resnet10t", layer=2, weights="random")
    whole, image = open_teacher(options), noise(64, 64)
    options = dataclasses.replace(options, precision=precision)
    teacher = open_teacher(options)
    found, expected = (x.features([image])[0].astype(np.float32) for x in (teacher, whole))
    difference = np.abs(found - expected).max()
    assert 0 < difference < 0.05 * np.abs(expected).max()
    assert teacher.fingerprint() == {**whole.fingerprint(), "precision": precision}
    with second_device() as device:
        there = open_teacher(dataclasses.replace(options, device=device, batch_size=2))
        for found in there.features([image, image]).astype(np.float32):
            assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_compiled_teacher_gives_nearly_the_same() -> None:
    options = TeacherOptions(name="resnet10t", layer=1, weights="random")
    plain, compiled = (
        open_teacher(dataclasses.replace(options, compile=compile)) for compile in (False, True)
    )
    images = [noise(32, 32), noise(32, 32, seed=1)]
    np.testing.assert_allclose(
        compiled.features(images), plain.features(images), rtol=2e-3, atol=2e-3
    )
    assert compiled.grid((32, 32)) == plain.grid((32, 32))
    assert compiled.fingerprint() == {**plain.fingerprint(), "compile": True}


def test_compiled_batches_are_filled_up_to_few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda layer, dynamic: layer)
    with second_device() as device:
        layer = Blocks()
        teacher = blocks(device, layer, batch_size=6, compile=True)
        images = [noise(16, 16, seed) for seed in range(11)]
        found = teacher.features(images)
        teacher.features(images[:3])
    assert sorted(layer.batches) == [4, 6, 6]
    np.testing.assert_array_equal(found, blocks("cpu").features(images))
