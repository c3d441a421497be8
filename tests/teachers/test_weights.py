from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from safetensors.torch import save_file
from torch import nn

from p2pkit.errors import TeacherError
from p2pkit.teachers import Teacher, TeacherOptions, efficientnet_lite0, open_teacher
from p2pkit.teachers.network import Preprocessing
from p2pkit.teachers.timm_network import timm
from p2pkit.teachers.weights import read_weights, strip_prefix, weights_sha256

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


@pytest.mark.parametrize("form", ["plain", "moco", "nested", "safetensors", "other classes"])
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
    with pytest.raises(TeacherError, match="holds no tensor"):
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


def test_a_prefix_is_what_most_names_share() -> None:
    tensor = torch.zeros(1)
    state = {"m.conv1.weight": tensor, "m.layer1.conv1.weight": tensor, "m.fc.bias": tensor}
    names = ["conv1.weight", "layer1.conv1.weight"]
    assert set(strip_prefix(state, names)) == {*names, "fc.bias"}
