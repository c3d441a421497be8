"""Training, validation and test part of labelled frames, cut by scene or, if need be, by time."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from jaxtyping import Bool

from p2pkit.errors import ConfigError
from p2pkit.pipelines.evaluate.settings import SplitConfig

PARTS = ("train", "validation", "test")
UNIT_WORDS = {"scene": "scenes", "time-block": "time blocks"}
SHOWN_SCENES = 6
_SCAN_OF_A_ROOM = re.compile(r"^(scene[0-9?*]+)_[0-9?*]+$")


@dataclass(frozen=True, eq=False)
class Parts:
    """Frames by part.

    Args:
        rows: of each of `PARTS`, rows of the frames in key order; none is empty.
        units: the scene or time block of every frame.
    """

    rows: dict[str, np.ndarray]
    units: list[str]


def place_of(dataset: object, sequence: str) -> str:
    """The place that a sequence shows: of ScanNet's scans of one room, `scene0000`.

    Args:
        dataset: its name, as the store has it.
        sequence: of a frame, or a pattern of sequences.
    """
    if dataset in ("scannet", "scannet200"):
        return _SCAN_OF_A_ROOM.sub(r"\1", sequence)
    return sequence


def cut_frames(
    scenes: Sequence[str], *, validation: float, test: float, split: SplitConfig
) -> Parts:
    """Cut frames into parts: the last `test` of them, before these `validation`, and the rest.

    Args:
        scenes: of each frame, in key order.
        validation: share of the frames; cuts move to the nearest change of scene.
        test: the same; not used where `split` names the test scenes.
        split: what the parts are made of.

    Raises:
        ConfigError: a part would be empty, a name fits no scene, or time blocks are asked for where
            a cut by scene is possible.
    """
    if split.unit == "time-block":
        parts = _by_time(scenes, validation, test, split)
    else:
        parts = _by_scene(scenes, validation, test, split)
    for name, rows in parts.rows.items():
        if len(rows) == 0:
            raise ConfigError(
                f"the {name} part is empty: {len(scenes)} frames of {len(set(scenes))} scenes, "
                f"validation {validation}, test {test}; {_advice(split)}"
            )
    return parts


def in_test_scenes(scenes: Sequence[str], patterns: Sequence[str]) -> Bool[np.ndarray, " frames"]:
    """Which frames are of a scene that one of the patterns names.

    Raises:
        ConfigError: a pattern fits no scene; the message lists some.
    """
    known = sorted(set(scenes))
    chosen: set[str] = set()
    for pattern in patterns:
        fitting = [scene for scene in known if fnmatchcase(scene, pattern)]
        if not fitting:
            more = ", …" if len(known) > SHOWN_SCENES else ""
            raise ConfigError(
                f"no scene is called {pattern!r}; there are {len(known)}: "
                f"{', '.join(known[:SHOWN_SCENES])}{more}"
            )
        chosen.update(fitting)
    return np.array([scene in chosen for scene in scenes], dtype=np.bool_)


def same_place(scenes: Sequence[str], split: SplitConfig) -> str | None:
    """What a figure on time blocks does not say, to be printed beside it; None for scenes."""
    if split.unit == "scene":
        return None
    names = ", ".join(dict.fromkeys(scenes))
    return (
        f"Not a split by scene: all parts are runs of frames of the same recording ({names}), with "
        f"{split.gap_frames} frames left out between them, and show the same place. The figures "
        "say how labels carry on along it, not how anything generalises to new scenes."
    )


def _advice(split: SplitConfig) -> str:
    if split.unit == "scene":
        return (
            "give a store with more scenes (a single recording can be cut by time with "
            "--split-unit time-block, which says nothing about new scenes)"
        )
    return f"with gaps of {split.gap_frames} frames more frames are needed"


def _by_scene(scenes: Sequence[str], validation: float, test: float, split: SplitConfig) -> Parts:
    rows = np.arange(len(scenes))
    if not split.test_scenes:
        first, second = _cuts(scenes, validation, test)
        cut = (rows[:first], rows[first:second], rows[second:])
    else:
        tests = in_test_scenes(scenes, split.test_scenes)
        rest = rows[~tests]
        wanted = len(rest) - validation * len(rows)
        changes = [i for i in range(1, len(rest)) if scenes[rest[i]] != scenes[rest[i - 1]]]
        first = min(changes, key=lambda change: abs(change - wanted), default=0)
        cut = (rest[:first], rest[first:], rows[tests])
    return Parts(dict(zip(PARTS, cut, strict=True)), list(scenes))


def _by_time(scenes: Sequence[str], validation: float, test: float, split: SplitConfig) -> Parts:
    count = len(set(scenes))
    if count >= len(PARTS):
        raise ConfigError(
            f"the store has {count} scenes, so it can be cut by scene: leave --split-unit out"
        )
    rows, gap = np.arange(len(scenes)), split.gap_frames
    usable = max(len(rows) - 2 * gap, 0)
    # Both shares may round up: a frame stays for each of the parts before.
    tested = max(1, min(round(test * usable), usable - 2))
    validated = max(1, min(round(validation * usable), usable - tested - 1))
    end = max(usable - tested - validated, 0)
    cut = (rows[:end], rows[end + gap :][:validated], rows[end + validated + 2 * gap :])
    units: list[str] = []
    for row, scene in enumerate(scenes):
        block = (row - scenes.index(scene)) // split.block_frames
        units.append(f"{scene}, block {block}")
    return Parts(dict(zip(PARTS, cut, strict=True)), units)


def _cuts(scenes: Sequence[str], validation: float, test: float) -> tuple[int, int]:
    """Where validation and test begin: changes of scene nearest to the shares, never equal."""
    changes = [i for i in range(1, len(scenes)) if scenes[i] != scenes[i - 1]]
    if len(changes) < 2:
        return 0, 0
    wanted = (len(scenes) * (1 - validation - test), len(scenes) * (1 - test))
    last = min(changes[1:], key=lambda change: abs(change - wanted[1]))
    earlier = [change for change in changes if change < last]
    return min(earlier, key=lambda change: abs(change - wanted[0])), last
