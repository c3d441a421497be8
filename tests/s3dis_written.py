"""S3DIS rooms in the form of `Stanford3dDataset_v1.2_Aligned_Version`, small."""

from pathlib import Path

import numpy as np

NUMBERS_OF = {
    "ceiling": 1,
    "floor": 2,
    "wall": 3,
    "beam": 4,
    "column": 5,
    "window": 6,
    "door": 7,
    "table": 8,
    "chair": 9,
    "sofa": 10,
    "bookcase": 11,
    "board": 12,
    "clutter": 13,
    "stairs": 13,
}
"""Each spelling of the files' names, and its class."""


def write_rooms(root: Path, rooms: tuple[str, ...], *, end: str = "\n") -> Path:
    """Rooms such as `Area_1/office_1`, 4 x 3 x 2.5 m, at places of their own in their area."""
    for number, room in enumerate(rooms):
        write_room(root / room, np.array([10.0 * number, -20.0, 0.5]), seed=number, end=end)
        write_rows(root / room / f"{Path(room).name}.txt", np.zeros((2, 6)), end=end)
        (root / Path(room).parts[0] / f"{Path(room).parts[0]}_alignmentAngle.txt").write_text("0")
    return root


def write_room(folder: Path, corner: np.ndarray, *, seed: int = 0, end: str = "\n") -> None:
    """Floor, ceiling, two walls, a table and a chair whose colours tell their class."""
    random = np.random.default_rng(seed)
    boxes = {
        "floor_1": ((0, 4), (0, 3), (0, 0)),
        "ceiling_1": ((0, 4), (0, 3), (2.5, 2.5)),
        "wall_1": ((0, 0), (0, 3), (0, 2.5)),
        "wall_2": ((0, 4), (0, 0), (0, 2.5)),
        "table_1": ((1, 2), (1, 2), (0.7, 0.7)),
        "chair_1": ((2.5, 3), (1, 1.5), (0, 0.9)),
    }
    for name, ranges in boxes.items():
        low, high = np.array(ranges, float).T
        points = corner + random.uniform(low, high, (300, 3))
        shade = 18 * NUMBERS_OF[name.partition("_")[0]] + random.integers(0, 9, (300, 3))
        write_rows(folder / "Annotations" / f"{name}.txt", np.hstack([points, shade]), end=end)


def write_rows(path: Path, rows: np.ndarray, *, end: str = "\n") -> None:
    """Rows `x y z r g b` as published: three decimals, whole colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        " ".join([*(f"{x:.3f}" for x in row[:3]), *(f"{x:.0f}" for x in row[3:])]) for row in rows
    ]
    path.write_bytes((end.join(lines) + end).encode())
