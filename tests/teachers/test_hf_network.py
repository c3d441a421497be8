"""Backbones of transformers, built small and read from folders that save_pretrained wrote."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from p2pkit.errors import TeacherError
from p2pkit.geometry.maps.grid import FeatureGrid
from p2pkit.teachers import Teacher, TeacherOptions, open_teacher
from p2pkit.teachers.network import Preprocessing
from p2pkit.teachers.timm_network import timm
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
    with pytest.raises(TeacherError, match="expected -4 to 3"):
        opened(folders, "resnet", layer=4)
    assert np.array_equal(  # the backbone's own norm is on its last stage alone
        opened(folders, "dinov2", layer=0, final_norm="none").features([noise(56, 56)]),
        opened(folders, "dinov2", layer=0).features([noise(56, 56)]),
    )
    with pytest.raises(TeacherError, match="has one layer, its last"):
        opened(folders, "vit", layer=-3)
    with pytest.raises(TeacherError, match="has no final norm"):
        opened(folders, "convnext", final_norm="all")


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


PREPARED = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]}


def preparation(folders: Path, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What a teacher reads of an image processor's settings."""
    shutil.copytree(folders / "convnext", folder, dirs_exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return open_teacher(TeacherOptions(name=f"hf:{folder}")).preprocessing


@pytest.mark.parametrize(
    "name", ["Bit", "ViT", "ConvNext", "Segformer", "Beit", "CLIP", "Siglip", "Sam", "Detr"]
)
def test_the_settings_of_published_models_are_read(
    folders: Path, tmp_path: Path, name: str
) -> None:
    processor = getattr(transformers, f"{name}ImageProcessor")()
    found = preparation(folders, tmp_path, json.loads(processor.to_json_string()))
    assert found["mean"] == pytest.approx(processor.image_mean)
    assert found["interpolation"] == {2: "bilinear", 3: "bicubic"}[int(processor.resample)]


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("do_normalize", False, r"has \{'do_normalize': False\}; expected"),
        ("do_rescale", False, r"has \{'do_rescale': False\}; expected"),
        ("rescale_factor", 1.0, r"has \{'rescale_factor': 1.0\}; expected"),
        ("rescale_offset", True, r"has \{'rescale_offset': True\}; expected"),
        ("do_flip_channel_order", True, r"has \{'do_flip_channel_order': True\}; expected"),
        ("image_mean", [123.7, 116.3, 103.5], "divide both by 255"),
        ("resample", 4, "in resample, found 4"),
    ],
)
def test_another_preparation_is_refused(
    folders: Path, tmp_path: Path, setting: str, value: Any, message: str
) -> None:
    with pytest.raises(TeacherError, match=message):
        preparation(folders, tmp_path, {**PREPARED, setting: value})


def test_a_preparation_may_leave_settings_out(folders: Path, tmp_path: Path) -> None:
    some = {"do_rescale": None, "rescale_factor": 0.00392157, "do_pad": True}
    assert preparation(folders, tmp_path, PREPARED | some)["interpolation"] == "bilinear"
    assert preparation(folders, tmp_path, PREPARED | {"resample": 0})["interpolation"] == "nearest"


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


def copied(source: Path, target: Path, **changes: Any) -> Path:
    """A folder like another one, with another config.json; weights to be replaced by the test."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    for name in ("out_features", "out_indices", "stage_names"):  # follow from the size
        config.pop(name, None)
    (target / "config.json").write_text(json.dumps({**config, **changes}))
    return target


def rewritten(folder: Path, change: Callable[[str, torch.Tensor], dict[str, torch.Tensor]]) -> Path:
    """Replace a folder's tensors, each by what `change` makes of it."""
    path = folder / "model.safetensors"
    changed: dict[str, torch.Tensor] = {}
    for name, value in load_file(path).items():
        changed |= change(name, value)
    save_file(changed, path, metadata={"format": "pt"})
    return folder


def refused(folder: Path, **options: Any) -> str:
    with pytest.raises(TeacherError) as caught:
        open_teacher(TeacherOptions(name=f"hf:{folder}", **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_tensors_that_the_map_needs_are_never_filled_in(folders: Path, tmp_path: Path) -> None:
    for name in ("vit", "dinov2"):
        prefixed = copied(folders / name, tmp_path / f"{name}-prefixed")
        rewritten(prefixed, lambda key, value: {f"model.net.{key}": value})
        assert "missing (embeddings.cls_token, " in refused(prefixed)
        lacking = copied(folders / name, tmp_path / f"{name}-lacking")
        rewritten(lacking, lambda key, value: {} if "embeddings.cls" in key else {key: value})
        assert "1 missing (embeddings.cls_token)" in refused(lacking)


def test_a_configuration_of_another_size_is_refused(folders: Path, tmp_path: Path) -> None:
    for name in ("vit", "dinov2"):
        deeper = copied(folders / name, tmp_path / f"{name}-deeper", num_hidden_layers=3)
        assert " missing (" in refused(deeper)
        shallow = copied(folders / name, tmp_path / f"{name}-shallow", num_hidden_layers=1)
        assert " unexpected (" in refused(shallow)
        wider = copied(folders / name, tmp_path / f"{name}-wider", hidden_size=64)
        assert "of another shape (embeddings.cls_token (1, 1, 32), not (1, 1, 64)" in refused(wider)


def test_what_the_map_does_not_use_is_not_asked_for_and_no_identity(
    folders: Path, tmp_path: Path
) -> None:
    first = opened(folders, "vit").fingerprint()
    bare = copied(folders / "vit", tmp_path / "one" / "vit", architectures=["ViTModel"])
    rewritten(bare, lambda key, value: {} if key.startswith("pooler.") else {key: value})
    other = copied(folders / "vit", tmp_path / "two" / "vit", hidden_dropout_prob=0.3)
    rewritten(other, lambda key, value: {key: value + 1 if key.startswith("pooler.") else value})
    for folder in (bare, bare, other):  # without a pooler the library draws one each time
        assert open_teacher(TeacherOptions(name=f"hf:{folder}")).fingerprint() == first
    heads = copied(folders / "vit", tmp_path / "three" / "vit", num_attention_heads=4)
    assert open_teacher(TeacherOptions(name=f"hf:{heads}")).fingerprint() != first


def test_half_precision_files_give_the_maps_of_the_same_numbers(
    folders: Path, tmp_path: Path
) -> None:
    half = copied(folders / "vit", tmp_path / "half" / "vit", dtype="float16")
    rewritten(half, lambda key, value: {key: value.half()})
    full = copied(folders / "vit", tmp_path / "full" / "vit")
    rewritten(full, lambda key, value: {key: value.half().float()})
    first, second = (open_teacher(TeacherOptions(name=f"hf:{folder}")) for folder in (half, full))
    np.testing.assert_array_equal(first.features([noise(64, 64)]), second.features([noise(64, 64)]))
    assert first.fingerprint() == second.fingerprint()


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_damaged_files_of_a_folder_are_one_line(folders: Path, tmp_path: Path, file: str) -> None:
    folder = copied(folders / "vit", tmp_path / "vit")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if file.endswith("bin"):
        torch.save(tensors, folder / file)
    else:
        save_file(tensors, folder / file)
    whole = (folder / file).read_bytes()
    for content, message in (
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"", "is empty"),
        (whole[:3000], "is truncated"),
    ):
        (folder / file).write_bytes(content)
        assert message in refused(folder)
    torch.save({"a": Preprocessing((0.5,) * 3, (0.5,) * 3, "bicubic", None)}, folder / file)
    assert "weights_only" not in refused(folder)


TOWER = {**VIT, "intermediate_size": 64, "image_size": 64, "patch_size": 16}
WORDS = {**VIT, "intermediate_size": 64, "vocab_size": 50}


@pytest.mark.parametrize("family", ["CLIP", "Siglip"])
@pytest.mark.parametrize("alone", [True, False], ids=["tower", "pair"])
def test_vision_towers_give_normed_patches(tmp_path: Path, family: str, alone: bool) -> None:
    """Of image and text models, as their own code projects them: after the tower's last norm."""
    torch.manual_seed(4)
    vision = getattr(transformers, f"{family}VisionConfig")(**TOWER)
    if alone:
        model = getattr(transformers, f"{family}VisionModel")(vision)
    else:
        text = getattr(transformers, f"{family}TextConfig")(**WORDS)
        pair = getattr(transformers, f"{family}Config")
        config = pair(text_config=text.to_dict(), vision_config=vision.to_dict())
        model = getattr(transformers, f"{family}Model")(config)
    norm = next(m for key, m in model.named_modules() if key.endswith("post_layernorm"))
    torch.nn.init.normal_(norm.weight)
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]}'
    )
    teacher = open_teacher(TeacherOptions(name=f"hf:{tmp_path}"))
    assert teacher.grid((64, 64)) == FeatureGrid((16.0, 16.0), (7.5, 7.5), (4, 4), (64, 64))
    image = noise(64, 64)
    tower = model if alone else model.vision_model
    pixels = (torch.from_numpy(image).float() / 255).permute(2, 0, 1)[None]
    with torch.inference_mode():
        tokens = tower.eval()(pixels).last_hidden_state[0, -16:]
        expected = norm(tokens) if family == "CLIP" else tokens
    found = teacher.features([image])[0].reshape(16, 32).astype(np.float32)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-2)
    assert teacher.fingerprint()["final_norm"] is True


def test_mae_sees_all_patches_in_their_order(tmp_path: Path) -> None:
    """MAE's encoder without masks is a ViT of the same weights."""
    torch.manual_seed(4)
    decoder = {"decoder_num_hidden_layers": 1, "decoder_hidden_size": 16}
    decoder |= {"decoder_num_attention_heads": 2, "decoder_intermediate_size": 16}
    config = transformers.ViTMAEConfig(**TOWER, **decoder)
    model = transformers.ViTMAEForPreTraining(config)
    vit = transformers.ViTModel(transformers.ViTConfig(**TOWER), add_pooling_layer=False).eval()
    vit.load_state_dict(model.vit.state_dict(), strict=True)
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]}'
    )
    teacher, image = open_teacher(TeacherOptions(name=f"hf:{tmp_path}")), noise(64, 64)
    pixels = (torch.from_numpy(image).float() / 255).permute(2, 0, 1)[None]
    with torch.inference_mode():
        expected = vit(pixels).last_hidden_state[0, 1:].numpy()
    found = teacher.features([image])[0].reshape(16, 32).astype(np.float32)
    np.testing.assert_allclose(found, expected, atol=1e-2)
    np.testing.assert_array_equal(teacher.features([image]), teacher.features([image]))


def test_equal_weights_give_equal_maps_by_timm_and_transformers(tmp_path: Path) -> None:
    """timm's test_vit under the names that ViT weights are published with."""
    torch.manual_seed(6)
    state = timm.create_model("test_vit").state_dict()
    for name in ("norm.weight", "norm.bias"):
        torch.nn.init.normal_(state[name])
    torch.save(state, tmp_path / "timm.pth")
    torch_names = {
        "norm1": "layernorm_before",
        "attn.proj": "attention.output.dense",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    published = {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.position_embeddings": state["pos_embed"],
    }
    for end in ("weight", "bias"):
        patches = state[f"patch_embed.proj.{end}"]
        published[f"embeddings.patch_embeddings.projection.{end}"] = patches
        published[f"layernorm.{end}"] = state[f"norm.{end}"]
        for block in range(6):
            layer = f"encoder.layer.{block}"
            parts = state[f"blocks.{block}.attn.qkv.{end}"].chunk(3)
            for kind, part in zip(("query", "key", "value"), parts, strict=True):
                published[f"{layer}.attention.attention.{kind}.{end}"] = part.clone()
            for ours, theirs in torch_names.items():
                published[f"{layer}.{theirs}.{end}"] = state[f"blocks.{block}.{ours}.{end}"]
    folder = tmp_path / "vit"
    config = transformers.ViTConfig(
        hidden_size=64,
        num_hidden_layers=6,
        num_attention_heads=2,
        intermediate_size=192,
        image_size=160,
        patch_size=16,
        layer_norm_eps=1e-6,
    )
    config.save_pretrained(folder)
    save_file(published, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 3}'
    )
    ours = open_teacher(TeacherOptions(name="test_vit", weights=str(tmp_path / "timm.pth")))
    theirs, image = open_teacher(TeacherOptions(name=f"hf:{folder}")), noise(160, 160)
    assert ours.fingerprint()["final_norm"] is theirs.fingerprint()["final_norm"] is True
    found, expected = (
        teacher.features([image])[0].astype(np.float32) for teacher in (ours, theirs)
    )
    np.testing.assert_allclose(found, expected, atol=2e-2, rtol=2e-3)
    assert float(np.abs(found).mean()) > 0.3


def test_models_without_patches_say_what_is_supported(tmp_path: Path) -> None:
    config = transformers.BertConfig(**WORDS)
    transformers.BertModel(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]}'
    )
    assert "neither a backbone nor a model with square patches" in refused(tmp_path)
