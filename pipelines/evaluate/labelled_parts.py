"""Which scenes have labels: draws are of those, and a part that has none is refused."""

from dataclasses import replace

import numpy as np

from p2pkit.errors import NoLabelsError
from p2pkit.evaluation.label_sets import IGNORE
from p2pkit.pipelines.evaluate.detect import read_boxes
from p2pkit.pipelines.evaluate.frames import BOXES, LabelledFrames
from p2pkit.pipelines.evaluate.inference import labels_of, read_cloud
from p2pkit.pipelines.evaluate.split import UNIT_WORDS


def with_labelled_scenes(data: LabelledFrames) -> LabelledFrames:
    """The same without the training scenes of which no frame is labelled.

    A draw of them would teach nothing, and a fraction would count labels that do not exist.

    Raises:
        NoLabelsError: no training scene is left.
    """
    frames: dict[str, list[int]] = {}
    for sample in data.parts["train"].tolist():
        frames.setdefault(data.scene_of[sample], []).append(sample)
    without = tuple(
        scene
        for scene, samples in frames.items()
        if not any(is_labelled(data, sample) for sample in samples)
    )
    if not without:
        return data
    if len(without) == len(frames):
        raise _unlabelled(data, "train")
    kept = [
        sample for scene, samples in frames.items() if scene not in without for sample in samples
    ]
    parts = {**data.parts, "train": np.array(kept, np.int64)}
    return replace(data, parts=parts, unlabelled=without)


def check_labelled(data: LabelledFrames, part: str) -> None:
    """Raise NoLabelsError if no frame of a part is labelled."""
    if not any(is_labelled(data, sample) for sample in data.parts[part].tolist()):
        raise _unlabelled(data, part)


def is_labelled(data: LabelledFrames, sample: int) -> bool:
    """Whether a frame has a point with a class or, for boxes, was annotated."""
    if data.other is not None and sample >= data.store.samples:
        return is_labelled(data.other, sample - data.store.samples)
    if data.labels.name == BOXES:
        return read_boxes(data.store, sample).annotated
    labels = labels_of(read_cloud(data.store, sample))
    return bool((data.labels.convert(labels) != IGNORE).any())


def _unlabelled(data: LabelledFrames, part: str) -> NoLabelsError:
    what = "annotated" if data.labels.name == BOXES else "labelled"
    scenes = data.scenes(part)
    named = ", ".join(scenes[:3]) + (", …" if len(scenes) > 3 else "")
    return NoLabelsError(
        f"no frame of the {part} part is {what}: {len(data.parts[part])} frames of {len(scenes)} "
        f"{UNIT_WORDS[data.split.unit]} ({named}); choose parts with labels, such as by "
        "--test-scenes"
    )
