import argparse
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from safetensors.torch import save_file
from torch import nn

from p2pkit.errors import TeacherError
from p2pkit.teachers import (
    Teacher,
    TeacherOptions,
    efficientnet_lite0,
    normalisation_note,
    open_teacher,
)
from p2pkit.teachers.network import Preprocessing
from p2pkit.teachers.network_teacher import NetworkTeacher
from p2pkit.teachers.timm_network import timm
from p2pkit.teachers.weights import choose_network, read_weights, weights_sha256

IMAGE = skimage.data.chelsea()[:64, :96]


@pytest.fixture(scope="module")
def source() -> nn.Module:
    """torchvision's ResNet-50, whose checkpoints MoCo and SLidR use."""
    import torchvision

    torch.manual_seed(5)
    return torchvision.models.resnet50(weights=None).eval()


def open_resnet50(path: Path) -> Teacher:
    return open_teacher(TeacherOptions(name="resnet50", weights=str(path)))


def layer4(source: nn.Module, teacher: Teacher) -> np.ndarray:
    """The source network's own features of IMAGE."""
    config = teacher.preprocessing
    pixels = (torch.tensor(IMAGE).double() / 255 - torch.tensor(config["mean"])) / torch.tensor(
        config["std"]
    )
    stages = nn.Sequential(*list(source.children())[:-2])
    with torch.inference_mode():
        return stages(pixels.float().permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()


def test_the_packaged_weights_are_real() -> None:
    network = timm.create_model(efficientnet_lite0.MODEL_NAME).eval()
    state = efficientnet_lite0.to_timm(read_weights(efficientnet_lite0.weights_file()))
    assert len(state) == 296
    network.load_state_dict(state, strict=True)
    prepare = Preprocessing((0.5,) * 3, (0.5,) * 3, "bicubic", (224, 224))
    classes = []
    for photo in (skimage.data.coffee()[:, 100:500], skimage.data.chelsea()[:, 75:375]):
        with torch.inference_mode():
            logits = network(prepare.apply(np.ascontiguousarray(photo))[None])
        classes.append(int(logits.argmax()))
    assert classes[0] == 967, "espresso"
    assert classes[1] in (281, 282, 285), "tabby, tiger cat, Egyptian cat"


@pytest.mark.parametrize(
    "form", ["plain", "moco", "swav", "nested", "safetensors", "other classes"]
)
def test_resnet50_loads_from_the_files_people_have(
    source: nn.Module, tmp_path: Path, form: str
) -> None:
    state = source.state_dict()
    path = tmp_path / "weights.pth"
    if form == "plain":
        torch.save(state, path)
    elif form == "moco":
        query = {f"module.encoder_q.{name}": value for name, value in state.items()}
        key = {f"module.encoder_k.{name}": value + 1 for name, value in state.items()}
        torch.save(
            {"state_dict": {**key, **query, "module.queue": torch.zeros(4)}, "epoch": 3}, path
        )
    elif form == "swav":
        trunk = {f"module.{name}": v for name, v in state.items() if not name.startswith("fc.")}
        heads = {"module.projection_head.0.weight": torch.zeros(8, 2048)}
        heads |= {"module.prototypes.weight": torch.zeros(4, 8)}
        torch.save({**trunk, **heads}, path)
    elif form == "nested":
        student = {f"backbone.{name}": value + 1 for name, value in state.items()}
        teacher = {f"backbone.{name}": value for name, value in state.items()}
        torch.save({"student": student, "teacher": teacher}, path)
    elif form == "safetensors":
        path = tmp_path / "weights.safetensors"
        save_file(state, path)
    else:
        torch.save({**state, "fc.weight": torch.zeros(7, 2048), "fc.bias": torch.zeros(7)}, path)
    teacher = open_resnet50(path)
    expected = layer4(source, teacher)
    np.testing.assert_allclose(teacher.features([IMAGE])[0], expected, rtol=2e-3, atol=2e-3)
    wanted = {name: v for name, v in state.items() if not name.startswith("fc.")}
    assert teacher.weights_sha256 == weights_sha256(wanted)


def test_missing_unexpected_and_misshapen_tensors_are_named(
    source: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    state = source.state_dict()
    renamed = {name.replace("layer4.2.conv3", "layer4.2.conv9"): v for name, v in state.items()}
    torch.save(renamed, path)
    with pytest.raises(TeacherError, match=r"missing \(layer4.2.conv3.weight\).*layer4.2.conv9"):
        open_resnet50(path)
    torch.save({**state, "conv1.weight": torch.zeros(64, 1, 7, 7)}, path)
    with pytest.raises(TeacherError, match=r"conv1.weight has shape \(64, 1, 7, 7\)"):
        open_resnet50(path)


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"args": Preprocessing((0.5,) * 3, (0.5,) * 3, "bicubic", None)}, path)
    with pytest.raises(TeacherError, match="cannot be read as plain tensors"):
        read_weights(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(TeacherError, match="contains no tensor"):
        read_weights(path)


def test_the_digest_sees_content_and_not_order() -> None:
    first, second = torch.arange(4.0), torch.ones(2, 2)
    digest = weights_sha256({"a": first, "b": second})
    assert digest == weights_sha256({"b": second.clone(), "a": first.clone()})
    changed = (
        {"a": first, "c": second},
        {"a": first.double(), "b": second},
        {"a": first, "b": second.reshape(4)},
        {"a": first + 1, "b": second},
    )
    assert digest not in {weights_sha256(state) for state in changed}


@pytest.fixture(scope="module")
def small() -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    return timm.create_model("test_resnet").state_dict()


def halved(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: v * 0.5 if v.is_floating_point() else v for name, v in state.items()}


def under(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    ("form", "origin"),
    [
        ("dino", "teacher.backbone, not student.module.backbone"),
        ("timm", "state_dict_ema, not state_dict"),
        ("deit", "model_ema, not model"),
        ("wrapped", "ema_model.module, not model"),
    ],
)
def test_of_two_networks_the_running_mean_is_taken_and_named(
    small: dict[str, torch.Tensor], tmp_path: Path, form: str, origin: str
) -> None:
    """As the field's training programs write them, with their settings."""
    raw, args = halved(small), argparse.Namespace(arch="test_resnet")
    content = {
        "dino": {
            "student": under("module.backbone.", raw),
            "teacher": under("backbone.", small),
        },
        "timm": {"state_dict": raw, "state_dict_ema": small},
        "deit": {"model": raw, "model_ema": small},
        "wrapped": {"model": raw, "ema_model": under("module.", small)},
    }[form]
    path = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 1, **content, "args": args}, path)
    teacher = open_teacher(TeacherOptions(name="test_resnet", weights=str(path)))
    plain = {name: v for name, v in small.items() if not name.startswith("fc.")}
    assert teacher.weights_sha256 == weights_sha256(plain)
    assert isinstance(teacher, NetworkTeacher)
    assert teacher.weights_origin == origin
    assert origin not in str(teacher.fingerprint()), "the tensors decide, wherever they were"


def test_a_running_mean_that_lacks_a_tensor_is_no_reason_to_take_the_raw_weights(
    small: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    mean = {name: v for name, v in small.items() if name != "layer1.0.conv1.weight"}
    torch.save({"state_dict": small, "state_dict_ema": mean}, tmp_path / "w.pth")
    with pytest.raises(TeacherError, match=r"1 missing \(layer1\.0\.conv1\.weight\)"):
        open_teacher(TeacherOptions(name="test_resnet", weights=str(tmp_path / "w.pth")))


def test_identity_does_not_depend_on_the_files_container_order_or_type(
    small: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    half = {name: v.half() if v.is_floating_point() else v for name, v in small.items()}
    exact = {name: v.float() if v.is_floating_point() else v for name, v in half.items()}
    double = {name: v.double() if v.is_floating_point() else v for name, v in half.items()}
    files = [tmp_path / name for name in ("half.pth", "float.safetensors", "double.bin")]
    torch.save(half, files[0])
    save_file(exact, files[1])
    torch.save({"model": dict(reversed(double.items()))}, files[2])
    fingerprints = [
        open_teacher(TeacherOptions(name="test_resnet", weights=str(path))).fingerprint()
        for path in files
    ]
    assert fingerprints[0] == fingerprints[1] == fingerprints[2]


@pytest.mark.parametrize("kind", ["timm", "hf", "torchscript", "onnx"])
def test_a_pointer_of_git_lfs_is_named_by_every_teacher(tmp_path: Path, kind: str) -> None:
    pytest.importorskip({"hf": "transformers", "onnx": "onnxruntime"}.get(kind, "torch"))
    use = '{"mean": [0, 0, 0], "std": [1, 1, 1], "stride": 8, "offset": 3.5}'
    file = tmp_path / "network"
    if kind == "hf":
        file.mkdir()
        (file / "config.json").write_text(
            '{"model_type": "vit", "hidden_size": 32, "image_size":'
            ' 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}'
        )
        (file / "preprocessor_config.json").write_text(
            '{"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}'
        )
    (tmp_path / "network.json").write_text(use)
    pointer = file / "model.safetensors" if kind == "hf" else file
    pointer.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 8\n")
    options = TeacherOptions(name=f"{kind}:{file}")
    if kind == "timm":
        options = TeacherOptions(name="test_resnet", weights=str(file))
    with pytest.raises(TeacherError, match=r"Git LFS pointer.*run git lfs pull"):
        open_teacher(options)


def test_a_tag_of_another_normalisation_is_named() -> None:
    def note(name: str, weights: str = "dino.pth") -> str:
        return normalisation_note(TeacherOptions(name=name, weights=weights))

    assert note("vit_small_patch16_224") == (
        "dino.pth: images are normalised by the mean [0.5, 0.5, 0.5] and standard deviation [0.5, "
        "0.5, 0.5] of timm's vit_small_patch16_224.augreg_in21k_ft_in1k; if the weights expect "
        "others, name a tag that has them, such as vit_small_patch16_224.dino"
    )
    assert "[0.485, 0.456, 0.406]" in note("timm/vit_small_patch16_224.dino")
    assert note("resnet50").endswith("export the network with them (onnx:FILE)")
    assert note("vit_small_patch16_224", "timm") == note("hf:a/b", "default") == ""


def test_a_prefix_is_what_most_names_share() -> None:
    tensor = torch.zeros(1)
    state = {"m.conv1.weight": tensor, "m.layer1.conv1.weight": tensor, "m.fc.bias": tensor}
    names = ["conv1.weight", "layer1.conv1.weight"]
    found, origin = choose_network(state, names)
    assert set(found) == {*names, "fc.bias"}
    assert origin == "m"
