"""A benchmark's own test part: which scenes it has, and where an evaluation differs from it."""

import ast
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from p2pkit.datasets.registry import DATASETS, OfficialTest
from p2pkit.errors import ConfigError
from p2pkit.evaluation.label_sets import STORED
from p2pkit.pipelines.evaluate.split import OFFICIAL, place_of
from p2pkit.store.manifest import GEOMETRY
from p2pkit.store.reading import Store


def is_official(names: Sequence[str]) -> bool:
    """Whether test scenes are named as `official` or `official:FILE`."""
    return len(names) == 1 and names[0].partition(":")[0] == OFFICIAL


def test_places(dataset: object, names: Sequence[str], scenes: Sequence[str]) -> tuple[str, ...]:
    """Patterns of the places that test scenes are in.

    Args:
        dataset: its name, as the store has it.
        names: patterns of sequences, `official`, or `official:FILE`.
        scenes: places of the store; those of an official part that it lacks are left out.

    Raises:
        ConfigError: the dataset has no official test part, the file that lists it is missing or
            not needed, or the store has no scene of it.
    """
    if not is_official(names):
        return tuple(place_of(dataset, name) for name in names)
    part, file = _part(dataset), names[0].partition(":")[2]
    if bool(file) != bool(part.listed_in):
        known = f"the scenes {', '.join(part.scenes)}: omit the file"
        needed = f"listed in {part.listed_in}: name {OFFICIAL}:FILE, with that file"
        raise ConfigError(
            f"the official test part of {dataset} is {needed if part.listed_in else known}"
        )
    wanted = [place_of(dataset, name) for name in (_listed(Path(file)) if file else part.scenes)]
    found = tuple(one for one in wanted if any(fnmatchcase(scene, one) for scene in scenes))
    if not found:
        shown = ", ".join(sorted(set(scenes))[:4])
        raise ConfigError(
            f"the store has no scene of the official test part of {dataset} ({wanted[0]}"
            f"{', …' if len(wanted) > 1 else ''}); it has {shown}"
        )
    return found


def differences_to_published(
    store: Store, frames: int, label_set: str, *, boxes: bool = False
) -> list[str]:
    """What keeps scores on an official test part from being the benchmark's own; empty if nothing.

    Args:
        store: that is tested on.
        frames: of the test part.
        label_set: its name.
        boxes: whether boxes are scored, rather than points.
    """
    part = _part(store.manifest.dataset.get("dataset"))
    size = store.layer(GEOMETRY).fingerprint.get("voxel_size")
    found: list[str] = []
    if boxes:
        found.append("boxes are scored as VoteNet does, by this head and its metric")
    elif part.scores:
        found.append(f"the benchmark scores {part.scores}")
    elif size != 0:
        kept = "some of the points" if size is None else f"one point per voxel of {size:g} m"
        found.append(f"the store keeps {kept} (extract with --voxel-size 0)")
    if part.frames is not None and frames != part.frames:
        found.append(f"{frames} of {part.frames} frames")
    if label_set != STORED:
        found.append(f"the label set {label_set}")
    return found


def _part(dataset: object) -> OfficialTest:
    row = DATASETS.get(str(dataset))
    if row is None or row.official_test is None:
        names = ", ".join(name for name, row in DATASETS.items() if row.official_test)
        raise ConfigError(f"{dataset} has no official test part; these have one: {names}")
    return row.official_test


def _listed(path: Path) -> list[str]:
    """Names from a text with one a line, or from the list `val` of a Python file, which is not run.

    Raises:
        ConfigError: the file cannot be read, or lists nothing.
    """
    try:
        text = path.read_text()
        names = _python_list(text, "val") if path.suffix == ".py" else text.split()
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a list of scenes: {error}") from error
    if not names:
        raise ConfigError(f"{path} lists no scene")
    return names


def _python_list(text: str, name: str) -> list[str]:
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return [str(one) for one in ast.literal_eval(node.value)]
    raise ValueError(f"it assigns no list to {name}")
