"""Training, validation and test part of labelled frames, cut by scene or, if necessary, by time."""

import re
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from jaxtyping import Bool, Float64, Int64

from p2pkit.errors import ConfigError
from p2pkit.pipelines.evaluate.settings import SplitConfig

PARTS = ("train", "validation", "test")
UNIT_WORDS = {"scene": "scenes", "time-block": "time blocks"}
SHOWN_SCENES = 6
OFFICIAL = "official"
"""Names a benchmark's own test part in place of its scenes."""
_SCAN_OF_A_ROOM = re.compile(r"^(scene[0-9?*]+)_[0-9?*]+$")


@dataclass(frozen=True, eq=False)
class Parts:
    """Frames by part.

    Args:
        rows: of each of `PARTS`, rows of the frames in key order; only the test part may be empty,
            if none is requested.
        units: the scene or time block of every frame.
    """

    rows: dict[str, np.ndarray]
    units: list[str]


def place_of(dataset: object, sequence: str) -> str:
    """The place that a sequence shows: `scene0000` for all of ScanNet's scans of that room.

    Args:
        dataset: its name, as the store has it; several, joined by `+`, after a merge.
        sequence: of a frame, or a pattern of sequences.
    """
    if {"scannet", "scannet200", "scannet-scenes"} & {*str(dataset).split("+")}:
        return _SCAN_OF_A_ROOM.sub(r"\1", sequence)
    return sequence


def cut_frames(
    scenes: Sequence[str], *, validation: float, test: float, split: SplitConfig
) -> Parts:
    """Cut frames into parts: the last `test` of them, before these `validation`, and the rest.

    Args:
        scenes: of each frame, in key order.
        validation: share of the frames; cuts move to the nearest change of scene.
        test: the same, 0 for no test part; not used where `split` names the test scenes.
        split: what the parts are made of.

    Raises:
        ConfigError: a part would be empty, a name matches no scene, or time blocks are requested
            though a cut by scene is possible.
    """
    if split.unit == "time-block":
        parts = _by_time(scenes, validation, test, split)
    else:
        parts = _by_scene(scenes, validation, test, split)
    for name, rows in parts.rows.items():
        if len(rows) == 0 and (name != "test" or test > 0):
            raise ConfigError(
                f"the {name} part is empty: {len(scenes)} frames of {len(set(scenes))} scenes, "
                f"validation {validation}, test {test}; {_advice(split)}"
            )
    return parts


def cut_at_scenes(
    scenes: Sequence[str], shares: Sequence[float]
) -> list[Int64[np.ndarray, " part"]]:
    """Cut frames into one part more than there are shares, so that no scene is in two parts.

    Scenes follow each other by their first frame. Each cut moves to the nearest change of scene
    that leaves every part a scene; with fewer scenes than parts all frames are in the last part.

    Args:
        scenes: of each frame.
        shares: of the frames, for each part but the first, in order.

    Returns:
        Rows of each part, ascending.
    """
    first = {scene: row for row, scene in reversed(list(enumerate(scenes)))}
    order = np.argsort([first[scene] for scene in scenes], kind="stable").astype(np.int64)
    changes = [i for i in range(1, len(order)) if scenes[order[i]] != scenes[order[i - 1]]]
    if len(changes) < len(shares):
        return [*[order[:0]] * len(shares), np.sort(order)]
    cuts: list[int] = []
    for later in range(len(shares)):
        earlier = len(shares) - later - 1
        wanted = len(order) * (1 - sum(shares[earlier:]))
        possible = [cut for cut in changes[earlier:] if not cuts or cut < cuts[-1]]
        cuts.append(min(possible, key=lambda cut, wanted=wanted: abs(cut - wanted)))
    return [np.sort(part) for part in np.split(order, cuts[::-1])]


def check_disjoint(parts: Mapping[str, Iterable[Hashable]], what: str) -> None:
    """Raise ConfigError if two parts have something in common.

    Args:
        parts: frames or scenes by the name of their part.
        what: the members are, for the message.
    """
    seen: dict[Hashable, str] = {}
    for name, members in parts.items():
        for member in dict.fromkeys(members):
            if member in seen:
                raise ConfigError(
                    f"{what} {member} is in the {seen[member]} part and in the {name} part; parts "
                    "must have nothing in common"
                )
            seen[member] = name


def drawn_scenes(total: int, count: int, draw: int) -> Int64[np.ndarray, " drawn"]:
    """Rows of `count` of `total` scenes for the draw with this number.

    The scenes are shuffled and dealt out, so that draws have no scene in common as long as they
    fit: draws 0 … floor(total / count) - 1. Later draws are dealt from further shuffles. No draw
    depends on how many there will be.
    """
    hands = max(total // count, 1)
    order = np.random.default_rng(draw // hands).permutation(total)
    start = draw % hands * count
    return order[start : start + count].astype(np.int64)


def shared_scenes(draws: Sequence[Collection[str]]) -> Float64[np.ndarray, "draws draws"]:
    """Share of the scenes that each two of several draws of equally many have in common."""
    drawn = [set(draw) for draw in draws]
    return np.array([[len(a & b) / max(len(a), len(b)) for a in drawn] for b in drawn], np.float64)


def in_test_scenes(scenes: Sequence[str], patterns: Sequence[str]) -> Bool[np.ndarray, " frames"]:
    """Which frames belong to a scene that matches one of the patterns.

    Raises:
        ConfigError: a pattern matches no scene; the message lists some.
    """
    known = sorted(set(scenes))
    chosen: set[str] = set()
    for pattern in patterns:
        fitting = [scene for scene in known if fnmatchcase(scene, pattern)]
        if not fitting:
            more = ", …" if len(known) > SHOWN_SCENES else ""
            raise ConfigError(
                f"no scene matches {pattern!r}; found {len(known)}: "
                f"{', '.join(known[:SHOWN_SCENES])}{more}"
            )
        chosen.update(fitting)
    return np.array([scene in chosen for scene in scenes], dtype=np.bool_)


def same_place(scenes: Sequence[str], split: SplitConfig) -> str | None:
    """What a figure on time blocks does not show, printed with it; None for scenes."""
    if split.unit == "scene":
        return None
    names = ", ".join(dict.fromkeys(scenes))
    return (
        f"Not a split by scene: all parts are runs of frames of the same recording ({names}), with "
        f"{split.gap_frames} frames left out between them, and show the same place. The figures "
        "say how far labels transfer along it, not how anything generalises to new scenes."
    )


def _advice(split: SplitConfig) -> str:
    if split.unit == "scene":
        return (
            "give a store with more scenes (a single recording can be cut by time with "
            "--split-unit time-block, which says nothing about new scenes)"
        )
    return f"use a recording with more frames, or a smaller gap than {split.gap_frames} frames"


def _by_scene(scenes: Sequence[str], validation: float, test: float, split: SplitConfig) -> Parts:
    rows = np.arange(len(scenes))
    if not split.test_scenes:
        shares = (validation, test) if test else (validation,)
        cut = [*cut_at_scenes(scenes, shares), rows[:0]][: len(PARTS)]
        return Parts(dict(zip(PARTS, cut, strict=True)), [*scenes])
    tests = in_test_scenes(scenes, split.test_scenes)
    rest = rows[~tests]
    others = [scene for scene, is_test in zip(scenes, tests, strict=True) if not is_test]
    share = validation * len(rows) / max(len(rest), 1)
    train, validated = cut_at_scenes(others, (share,))
    return Parts(
        {"train": rest[train], "validation": rest[validated], "test": rows[tests]}, [*scenes]
    )


def _by_time(scenes: Sequence[str], validation: float, test: float, split: SplitConfig) -> Parts:
    count = len(set(scenes))
    if count >= len(PARTS):
        raise ConfigError(
            f"the store has {count} scenes, so it can be cut by scene: omit --split-unit"
        )
    rows, gap = np.arange(len(scenes)), split.gap_frames
    usable = max(len(rows) - (2 if test else 1) * gap, 0)
    # Both shares may round up: leave a frame for each earlier part.
    tested = max(1, min(round(test * usable), usable - 2)) if test else 0
    validated = max(1, min(round(validation * usable), usable - tested - 1))
    end = max(usable - tested - validated, 0)
    rest = rows[end + validated + 2 * gap :] if test else rows[:0]
    cut = (rows[:end], rows[end + gap :][:validated], rest)
    units: list[str] = []
    for row, scene in enumerate(scenes):
        block = (row - scenes.index(scene)) // split.block_frames
        units.append(f"{scene}, block {block}")
    return Parts(dict(zip(PARTS, cut, strict=True)), units)
