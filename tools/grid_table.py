"""Measure the grids of well-known networks and write the table in docs/teachers.md.

Random weights serve: where a cell sits does not depend on them.

Example: python tools/grid_table.py
"""

import re
from pathlib import Path

from p2pkit.teachers import TeacherOptions, open_teacher

PAGE = Path(__file__).parents[1] / "docs" / "teachers.md"
ROOM, SQUARE = (640, 480), (224, 224)
TEACHERS = {
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


def row(title: str, options: TeacherOptions, size: tuple[int, int]) -> str:
    """One line of the table."""
    weights = "default" if options == TeacherOptions(layer=options.layer) else "random"
    teacher = open_teacher(
        TeacherOptions(
            name=options.name,
            layer=options.layer,
            output_stride=options.output_stride,
            weights=weights,
        )
    )
    grid = teacher.grid(size)
    cells = f"{grid.cells[0]} × {grid.cells[1]}"
    offsets = ", ".join(f"{value:g}" for value in dict.fromkeys(grid.offset))
    return (
        f"| {title} | `{options.name}` | {teacher.channels} | {grid.stride[0]:g} | {offsets} "
        f"| {cells} |"
    )


def main() -> None:
    """Write the table between its two marks."""
    head = ["| network | timm name | channels | stride (px) | first centre (px) | cells |"]
    head += ["|---|---|---|---|---|---|"]
    rows = [row(title, *chosen) for title, chosen in TEACHERS.items()]
    table = "\n".join([*head, *rows])
    mark = re.compile(r"(<!-- grids: [^>]*-->\n).*?(<!-- /grids -->)", re.DOTALL)
    text, count = mark.subn(lambda found: f"{found[1]}{table}\n{found[2]}", PAGE.read_text())
    if count != 1:
        raise SystemExit(f"{PAGE} holds {count} marked tables; one is needed")
    PAGE.write_text(text)
    print(table)


if __name__ == "__main__":
    main()
