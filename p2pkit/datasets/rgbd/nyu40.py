"""The 40 classes of NYU Depth V2 (Gupta et al., CVPR 2013), the first 37 of which SUN RGB-D has."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

NYU40 = (
    *("void", "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window"),
    *("bookshelf", "picture", "counter", "blinds", "desk", "shelves", "curtain", "dresser"),
    *("pillow", "mirror", "floor mat", "clothes", "ceiling", "books", "refridgerator"),
    *("television", "paper", "towel", "shower curtain", "box", "whiteboard", "person"),
    *("night stand", "toilet", "sink", "lamp", "bathtub", "bag", "otherstructure"),
    *("otherfurniture", "otherprop"),
)
"""Void and the classes by their numbers, in NYU Depth V2's spelling."""
SUN37 = NYU40[:38]
"""Void and SUN RGB-D's classes: all but what is made of other objects."""
_OTHER_SPELLINGS = {"fridge": "refridgerator", "refrigerator": "refridgerator", "tv": "television"}


def classes_by_name(names: Sequence[str]) -> UInt8[np.ndarray, " names"]:
    """The class of each object's name among `SUN37`; 0 (void) for names of other objects."""
    value_of = {name: value for value, name in enumerate(SUN37)}
    plain = [" ".join(name.lower().replace("_", " ").split()) for name in names]
    found = [value_of.get(_OTHER_SPELLINGS.get(name, name), 0) for name in plain]
    return np.array(found, dtype=np.uint8)
