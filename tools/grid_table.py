"""Measure the grids of well-known networks and write the tables in docs/teacher-grids.md.

Random weights suffice: where a cell sits does not depend on them. Networks of transformers and in
files are built small, with the windows, strides and patches that their families have by default.

Example: python tools/grid_table.py
"""

import json
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from p2pkit.geometry.maps.grid import FeatureGrid
from p2pkit.teachers import TeacherOptions, onnx_network, open_teacher, torchscript_network
from p2pkit.teachers.grid_probe import DECLARED_TOLERANCE, answer_shift
from p2pkit.teachers.torchvision_shim import ensure_torchvision

PAGE = Path(__file__).parents[1] / "docs" / "teacher-grids.md"
ROOM, SQUARE = (640, 480), (224, 224)
TIMM = {
    "EfficientNet-Lite0, last": (TeacherOptions(), ROOM),
    "EfficientNet-Lite0, `--layer -2`": (TeacherOptions(layer=-2), ROOM),
    "ResNet-50, last": (TeacherOptions("resnet50"), ROOM),
    "ResNet-50, `--layer -2`": (TeacherOptions("resnet50", layer=-2), ROOM),
    "ResNet-50 dilated to stride 8": (TeacherOptions("resnet50", output_stride=8), ROOM),
    "ConvNeXt-T": (TeacherOptions("convnext_tiny"), ROOM),
    "Swin-T": (TeacherOptions("swin_tiny_patch4_window7_224"), SQUARE),
    "ViT-S/16": (TeacherOptions("vit_small_patch16_224"), SQUARE),
    "DINOv2 ViT-S/14 with registers": (TeacherOptions("vit_small_patch14_reg4_dinov2"), SQUARE),
}
TOKENS = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
WINDOWS = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]}
DINO = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14}
TRANSFORMERS: dict[str, tuple[str, dict[str, Any], int, tuple[int, int]]] = {
    "DINOv2, patches of 14": ("Dinov2Config", DINO, -1, SQUARE),
    "DINOv2 with registers": ("Dinov2WithRegistersConfig", DINO, -1, SQUARE),
    "ViT, patches of 16": ("ViTConfig", TOKENS, -1, ROOM),
    "ConvNeXt, last": ("ConvNextConfig", STAGES, -1, ROOM),
    "ConvNeXt, `--layer -2`": ("ConvNextConfig", STAGES, -2, ROOM),
    "ResNet, last": ("ResNetConfig", {"embedding_size": 8, **STAGES}, -1, ROOM),
    "ResNet, `--layer -2`": ("ResNetConfig", {"embedding_size": 8, **STAGES}, -2, ROOM),
    "Swin, last": ("SwinConfig", WINDOWS, -1, ROOM),
    "Swin, `--layer -2`": ("SwinConfig", WINDOWS, -2, ROOM),
}
FILES = {
    "ResNet (`resnet18`)": ("resnet18", 32.0, 0.0),
    "the same, declared half a stride off": ("resnet18", 32.0, 15.5),
    "ConvNeXt (`convnext_atto`)": ("convnext_atto", 32.0, 15.5),
}
KINDS = {"torchscript": ("pt", torchscript_network), "onnx": ("onnx", onnx_network)}


def cells_text(grid: FeatureGrid) -> str:
    """Stride, first centre and cells, as the columns of a table."""
    offsets = ", ".join(f"{value:g}" for value in dict.fromkeys(grid.offset))
    return f"{grid.stride[0]:g} | {offsets} | {grid.cells[0]} × {grid.cells[1]} |"


def timm_rows() -> Iterator[str]:
    """The table of timm's networks."""
    yield "| network | timm name | channels | stride (px) | first centre (px) | cells |"
    yield "|---|---|---|---|---|---|"
    for title, (options, size) in TIMM.items():
        weights = "default" if options == TeacherOptions(layer=options.layer) else "random"
        teacher = open_teacher(
            TeacherOptions(
                name=options.name,
                layer=options.layer,
                output_stride=options.output_stride,
                weights=weights,
            )
        )
        grid = cells_text(teacher.grid(size))
        yield f"| {title} | `{options.name}` | {teacher.channels} | {grid}"


def transformers_rows() -> Iterator[str]:
    """The table of transformers' networks, each saved and read as a user's would be."""
    ensure_torchvision()
    import transformers

    yield "| network | configuration | input (px) | stride (px) | first centre (px) | cells |"
    yield "|---|---|---|---|---|---|"
    for title, (kind, settings, layer, size) in TRANSFORMERS.items():
        torch.manual_seed(0)
        config = getattr(transformers, kind)(**settings)
        with tempfile.TemporaryDirectory() as folder:
            transformers.AutoModel.from_config(config).save_pretrained(folder)
            use = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 3}
            (Path(folder) / "preprocessor_config.json").write_text(json.dumps(use))
            grid = open_teacher(TeacherOptions(f"hf:{folder}", layer=layer)).grid(size)
        yield f"| {title} | `{kind}` | {size[0]} × {size[1]} | {cells_text(grid)}"


class LastMap(nn.Module):
    """The last map of a timm network, channels first, as required of a file."""

    def __init__(self, name: str) -> None:
        super().__init__()
        ensure_torchvision()
        import timm

        torch.manual_seed(0)
        self.network = timm.create_model(name, features_only=True).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Maps [batch, channels, cells_v, cells_u]."""
        return self.network(images)[-1]


def write_file(kind: str, path: Path, name: str, stride: float, offset: float) -> None:
    """A network as a TorchScript or ONNX file, and the declaration beside it."""
    network, image = LastMap(name), torch.zeros(1, 3, 96, 128)
    sides = {"images": {2: "height", 3: "width"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "torchscript":
            torch.jit.trace(network, image).save(str(path))  # pyright: ignore[reportAttributeAccessIssue]
        else:
            torch.onnx.export(
                network, (image,), path, input_names=["images"], dynamic_axes=sides, dynamo=False
            )
    use = {"mean": [0.5] * 3, "std": [0.25] * 3, "stride": stride, "offset": offset}
    path.with_name(f"{path.name}.json").write_text(json.dumps(use))


def file_rows() -> Iterator[str]:
    """The table of files: the declared grid, and the first centre measured by the responses."""
    yield "| network | file | declared stride, first centre (px) | | centre by the answers (px) |"
    yield "|---|---|---|---|---|"
    for title, (name, stride, offset) in FILES.items():
        for kind, (suffix, library) in KINDS.items():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"network.{suffix}"
                write_file(kind, path, name, stride, offset)
                layer = library.build_network(TeacherOptions(f"{kind}:{path}"), str(path)).layer
                rows, columns = layer(torch.zeros(1, 3, *ROOM[::-1])).shape[1:3]
                grid = FeatureGrid((stride, stride), (offset, offset), (columns, rows), ROOM)
                shift = answer_shift(layer, grid, name=title)
            seen = ", ".join(f"{offset - stride * value:.1f}" for value in shift)
            verdict = "accepted" if max(map(abs, shift)) < DECLARED_TOLERANCE else "refused"
            yield f"| {title} | `{kind}:` | {stride:g}, {offset:g} | {verdict} | {seen} |"


TABLES = {
    "grids": timm_rows,
    "grids of transformers": transformers_rows,
    "grids of files": file_rows,
}


def with_table(page: str, name: str, table: str) -> str:
    """The page with a table between the two marks of this name."""
    mark = re.compile(rf"(<!-- {name}: [^>]*-->\n).*?(<!-- /{name} -->)", re.DOTALL)
    found = mark.findall(page)
    if len(found) != 1:
        raise SystemExit(f"{PAGE} holds {len(found)} marked tables of {name}; expected one")
    return mark.sub(lambda marks: f"{marks[1]}{table}\n{marks[2]}", page)


def main() -> None:
    """Write each table between its two marks."""
    for name, rows in TABLES.items():
        table = "\n".join(rows())
        PAGE.write_text(with_table(PAGE.read_text(), name, table))
        print(f"{table}\n")


if __name__ == "__main__":
    main()
