"""Label sets of the field: which stored class belongs to which class of a task, by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, Integer

from p2pkit.errors import ConfigError

IGNORE = -1


@dataclass(frozen=True, eq=False)
class LabelSet:
    """A task's classes.

    Args:
        name: of the task.
        classes: names, class 0 first.
        class_of: class of each stored label value, `IGNORE` where it does not count.
    """

    name: str
    classes: tuple[str, ...]
    class_of: Int64[np.ndarray, " values"]

    def convert(self, labels: Integer[np.ndarray, " points"]) -> Int64[np.ndarray, " points"]:
        """Stored labels as classes; `IGNORE` for void."""
        return self.class_of[labels.astype(np.int64)]


NYU13: dict[str, tuple[str, ...]] = {
    "bed": ("bed",),
    "books": ("books",),
    "ceiling": ("ceiling",),
    "chair": ("chair",),
    "floor": ("floor", "floor mat"),
    "furniture": (
        *("cabinet", "bookshelf", "counter", "shelves", "dresser", "refridgerator"),
        *("night stand", "otherfurniture"),
    ),
    "objects": (
        *("pillow", "mirror", "clothes", "paper", "towel", "shower curtain", "box", "whiteboard"),
        *("person", "toilet", "sink", "lamp", "bathtub", "bag", "otherstructure", "otherprop"),
    ),
    "picture": ("picture",),
    "sofa": ("sofa",),
    "table": ("table", "desk"),
    "tv": ("television",),
    "wall": ("wall", "door"),
    "window": ("window", "blinds", "curtain"),
}
"""The 13 classes of Couprie et al. 2013 (arXiv 1301.3572) from NYU40's names, as in
map40to13.txt of ankurhanda/nyuv2-meta-data."""

STORED = "stored"
LABEL_SETS: dict[str, dict[str, tuple[str, ...]] | None] = {STORED: None, "nyu13": NYU13}
"""The stored classes as they are (NYUv2's 40, SemanticKITTI's 19, nuScenes' 16, ScanNet's 20, ...),
or classes made of them, by name. Readers have merged raw labels already."""


def open_label_set(name: str, stored: Sequence[str], ignore: int | None) -> LabelSet:
    """The label set of this name for a store whose label values have the names `stored`.

    Raises:
        ConfigError: the label set is unknown, or the store lacks one of its classes.
    """
    if name not in LABEL_SETS:
        raise ConfigError(f"no label set is called {name!r}; choose one of {', '.join(LABEL_SETS)}")
    merged = LABEL_SETS[name]
    if merged is None:
        return _stored(stored, ignore)
    return LabelSet(name, tuple(merged), _class_of(merged, name, stored))


def _stored(stored: Sequence[str], ignore: int | None) -> LabelSet:
    values = [value for value in range(len(stored)) if value != ignore]
    class_of = np.full(256, IGNORE, np.int64)
    class_of[values] = np.arange(len(values))
    return LabelSet(STORED, tuple(stored[value] for value in values), class_of)


def _class_of(
    merged: Mapping[str, Sequence[str]], name: str, stored: Sequence[str]
) -> Int64[np.ndarray, " values"]:
    class_of = np.full(256, IGNORE, np.int64)
    for number, parts in enumerate(merged.values()):
        for part in parts:
            if part not in stored:
                raise ConfigError(
                    f"label set {name} needs the class {part!r}; the store has {', '.join(stored)}"
                )
            class_of[list(stored).index(part)] = number
    return class_of
