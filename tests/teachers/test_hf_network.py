"""Backbones of transformers, built small and read from folders that save_pretrained wrote."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from p2pkit.errors import TeacherError
from p2pkit.teachers import Teacher, TeacherOptions, open_teacher
from p2pkit.teachers.torchvision_shim import ensure_torchvision

ensure_torchvision()
transformers = pytest.importorskip("transformers")

VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
MODELS: dict[str, tuple[str, dict[str, Any], float, float]] = {
    # Name of the configuration, its settings, stride and offset of the last layer.
    "dinov2": ("Dinov2Config", {**VIT, "image_size": 56, "patch_size": 14}, 14.0, 6.5),
    "registers": (
        "Dinov2WithRegistersConfig",
        {**VIT, "image_size": 56, "patch_size": 14},
        14.0,
        6.5,
    ),
    "convnext": ("ConvNextConfig", STAGES, 32.0, 15.5),
    "resnet": ("ResNetConfig", {"embedding_size": 8, **STAGES}, 32.0, 0.0),
    "swin": (
        "SwinConfig",
        {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]},
        32.0,
        15.5,
    ),
    "vit": ("ViTConfig", {**VIT, "image_size": 64, "patch_size": 16}, 16.0, 7.5),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for each model, with weights and preprocessor_config.json."""
    root = tmp_path_factory.mktemp("models")
    for name, (kind, settings, *_) in MODELS.items():
        torch.manual_seed(0)
        config = getattr(transformers, kind)(**settings)
        transformers.AutoModel.from_config(config).save_pretrained(root / name)
        (root / name / "preprocessor_config.json").write_text(
            '{"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3], "resample": 3}'
        )
    return root


def opened(folders: Path, name: str, **options: Any) -> Teacher:
    return open_teacher(TeacherOptions(name=f"hf:{folders / name}", **options))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", MODELS)
def test_the_grid_is_the_familys(folders: Path, name: str) -> None:
    _, _, stride, offset = MODELS[name]
    teacher = opened(folders, name)
    size = (int(stride) * 7, int(stride) * 6)
    grid = teacher.grid(size)
    assert (grid.stride, grid.offset) == ((stride, stride), (offset, offset))
    maps = teacher.features([noise(size[1], size[0])])
    assert maps.shape == (1, *grid.cells[::-1], teacher.channels)
    assert maps.dtype == np.float16


def test_the_saved_weights_are_the_ones_that_run(folders: Path) -> None:
    teacher = opened(folders, "dinov2")
    image = noise(56, 70)
    network = transformers.AutoModel.from_pretrained(folders / "dinov2").eval()
    pixels = (torch.from_numpy(image).double() / 255 - torch.tensor([0.5, 0.4, 0.3])) / (
        torch.tensor([0.2, 0.25, 0.3])
    )
    with torch.inference_mode():
        hidden = network(pixels.float().permute(2, 0, 1)[None]).last_hidden_state[0, 1:]
    found = teacher.features([image])[0].reshape(20, 32).astype(np.float32)
    np.testing.assert_allclose(found, hidden.numpy(), atol=5e-3)


def test_tokens_that_are_no_patches_are_left_out(folders: Path) -> None:
    teacher, image = opened(folders, "vit"), noise(64, 64)
    network = transformers.AutoModel.from_pretrained(folders / "vit").eval()
    pixels = (torch.from_numpy(image).double() / 255 - torch.tensor([0.5, 0.4, 0.3])) / (
        torch.tensor([0.2, 0.25, 0.3])
    )
    with torch.inference_mode():
        hidden = network(pixels.float().permute(2, 0, 1)[None]).last_hidden_state[0]
    assert len(hidden) == 17
    found = teacher.features([image])[0].reshape(16, 32).astype(np.float32)
    np.testing.assert_allclose(found, hidden[1:].numpy(), atol=5e-3)


def test_layers_are_the_stages(folders: Path) -> None:
    channels = [opened(folders, "resnet", layer=layer).channels for layer in range(4)]
    assert channels == STAGES["hidden_sizes"]
    assert opened(folders, "resnet", layer=-2).fingerprint()["layer"] == 2
    with pytest.raises(TeacherError, match="valid are -4 to 3"):
        opened(folders, "resnet", layer=4)
    with pytest.raises(TeacherError, match="has one layer, its last"):
        opened(folders, "vit", layer=-3)


def test_the_fingerprint_knows_weights_and_not_the_path(folders: Path, tmp_path: Path) -> None:
    first = opened(folders, "convnext").fingerprint()
    moved = tmp_path / "convnext"
    moved.symlink_to(folders / "convnext")
    assert open_teacher(TeacherOptions(name=f"hf:{moved}")).fingerprint() == first
    assert first["name"] == "hf:convnext"
    assert first["library"].startswith("transformers ")
    assert first["preprocessing"] == {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.25, 0.3],
        "interpolation": "bicubic",
    }
    random = [opened(folders, "convnext", weights="random", seed=seed) for seed in (1, 1, 2)]
    digests = [teacher.weights_sha256 for teacher in random]
    assert digests[0] == digests[1] != digests[2] != first["weights_sha256"]


def test_what_cannot_be_read_is_told(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="cannot be read"):
        open_teacher(TeacherOptions(name=f"hf:{tmp_path / 'nothing'}"))
    with pytest.raises(TeacherError, match="'default' or 'random'"):
        opened(folders, "vit", weights="/some/file.pth")
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in (folders / "vit").iterdir():
        if file.name != "preprocessor_config.json":
            (bare / file.name).symlink_to(file)
    with pytest.raises(TeacherError, match=r"preprocessor_config\.json"):
        open_teacher(TeacherOptions(name=f"hf:{bare}"))
