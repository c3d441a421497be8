from pathlib import Path

import numpy as np
import pytest

from p2pkit.errors import ConfigError
from p2pkit.evaluation.label_sets import IGNORE, open_label_set

NAMES = ("void", "wall", "floor", "box")


def test_stored_classes_move_up_past_void() -> None:
    found = open_label_set("stored", NAMES, 0)
    assert found.classes == ("wall", "floor", "box")
    assert found.convert(np.array([0, 1, 3, 2], np.uint8)).tolist() == [IGNORE, 0, 2, 1]
    assert open_label_set("stored", NAMES, None).classes == NAMES


def test_unknown_sets_and_absent_classes_are_named() -> None:
    with pytest.raises(ConfigError, match="choose one of stored, nyu13"):
        open_label_set("nyu14", NAMES, 0)
    with pytest.raises(ConfigError, match="needs the class 'bed'"):
        open_label_set("nyu13", NAMES, 0)


@pytest.mark.realdata
def test_nyu13_is_the_published_map(data_root: Path) -> None:
    folder = data_root / "nyuv2_half"
    rows = [line.split() for line in (folder / "map40to13.txt").read_text().splitlines()[1:]]
    classes = (folder / "classes40.txt").read_text().splitlines()
    stored = [line.split(" ", 1)[1].split("(")[0].strip() for line in classes]
    found = open_label_set("nyu13", stored, 0)
    for number, _, name in rows:
        assert found.classes[found.class_of[int(number)]] == name
    assert found.class_of[0] == IGNORE
