"""Detection of boxes: the student and a small head, trained on a few annotated frames."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int32, Int64
from torch import Tensor, nn

from p2pkit.datasets.registry import DATASETS
from p2pkit.errors import ConfigError
from p2pkit.evaluation.detection import (
    THRESHOLDS,
    ClassBoxes,
    Matches,
    average_precisions,
    grouped,
    match,
    mean_average_precision,
    suppressed,
)
from p2pkit.geometry.boxes import polygons
from p2pkit.geometry.gravity import rotation_to_z_up
from p2pkit.heads.detection import CellBoxes, DetectionHead
from p2pkit.layers.boxes import StoredBoxes, box_layer, decode_boxes
from p2pkit.losses.detection import TargetBoxes, assigned, detection_loss
from p2pkit.networks.cells import STRIDES
from p2pkit.networks.sparse_unet import SparseUNet
from p2pkit.networks.students import Student
from p2pkit.pipelines.evaluate.frames import LabelledFrames, network_inputs
from p2pkit.pipelines.evaluate.inference import read_cloud
from p2pkit.pipelines.evaluate.settings import DetectConfig
from p2pkit.store.reading import Store
from p2pkit.stream.augmentation import (
    NO_AUGMENTATION,
    AugmentConfig,
    Axis,
    random_linear_map,
)
from p2pkit.stream.inputs import see, unaugmented
from p2pkit.stream.order import locate

UP = (0.0, 0.0, 1.0)
"""Of the axes that boxes are in."""
CANDIDATES = 300
"""Most scores of a frame, by cell and class, that suppression looks at."""
LOWEST_SCORE = 0.01
KEYS = ("map25", "map50")
"""The cells' mean average precision at each of `THRESHOLDS`."""


@dataclass(frozen=True, eq=False)
class BoxFrame:
    """A frame as a detection network sees it.

    Args:
        coordinates: integer voxel positions in the network's axes, unique.
        points: x, y, z (m) of each voxel's first point.
        inputs: the student's channels of that point.
        boxes: annotated ones, in upright axes (m).
        annotated: whether somebody looked for boxes; other frames neither teach nor test.
    """

    coordinates: Int32[np.ndarray, "voxels 3"]
    points: Float32[np.ndarray, "voxels 3"]
    inputs: Float32[np.ndarray, "voxels channels"]
    boxes: ClassBoxes
    annotated: bool


@dataclass(frozen=True, eq=False)
class DetectionScores:
    """Which detections of a part are right, by scene.

    Args:
        matches: with the scenes as groups.
        scenes: their names.
    """

    matches: Matches
    scenes: tuple[str, ...]

    @property
    def value(self) -> float:
        """Mean average precision at the lower threshold, by which weights are chosen."""
        return float(mean_average_precision(self.matches)[0, 0])

    def row(self, classes: Sequence[str]) -> dict[str, Any]:
        """The entries of a cell: scores, and all that a bootstrap over scenes needs."""
        means = mean_average_precision(self.matches)[:, 0]
        row: dict[str, Any] = dict(zip(KEYS, means.tolist(), strict=True))
        for at, values in zip(THRESHOLDS, average_precisions(self.matches)[:, 0], strict=True):
            found = [None if value != value else float(value) for value in values]
            row[f"ap{100 * at:g}"] = dict(zip(classes, found, strict=True))
        matches = {name: getattr(self.matches, name).tolist() for name in vars(self.matches)}
        return row | {"matches": {"scenes": list(self.scenes), **matches}}


def stored_matches(row: dict[str, Any]) -> Matches:
    """The matches of a cell's row."""
    found = row["matches"]
    detections = len(found["score"])
    return Matches(
        group=np.array(found["group"], np.int64),
        class_id=np.array(found["class_id"], np.int64),
        score=np.array(found["score"], np.float32),
        hit=np.array(found["hit"], bool).reshape(detections, len(THRESHOLDS)),
        boxes=np.array(found["boxes"], np.int64),
    )


class DetectionNetwork(nn.Module):
    """The student's decoder at two strides and the head.

    Args:
        student: with a decoder.
        classes: number of classes.
        voxel_size: of the student (m).
        up_axis: up in the student's axes.

    Raises:
        ConfigError: the student has no decoder whose features can be read at two strides.
    """

    def __init__(self, student: Student, classes: int, voxel_size: float, up_axis: Axis) -> None:
        super().__init__()
        if not isinstance(student, SparseUNet):
            raise ConfigError(
                f"mode detect reads a sparse decoder at the strides {STRIDES}, which "
                f"{type(student).__name__} does not give; evaluate a run of a Res16UNet or SpUNet"
            )
        self.student, self._voxel_size = student, voxel_size
        self.head = DetectionHead(student.cell_channels, classes)
        self.register_buffer("_turn", torch.from_numpy(upright_from_network(up_axis)))

    def forward(self, frames: Sequence[BoxFrame]) -> CellBoxes:
        """What every cell predicts, in upright axes."""
        coordinates, inputs, _ = network_inputs(frames, self.student)
        turn: Any = self.get_buffer("_turn")
        return self.head(self.student.cells(coordinates, inputs), self._voxel_size, turn)


@dataclass(frozen=True, eq=False)
class Detection:
    """The task of finding boxes, for `finetune`.

    Args:
        data: frames with boxes.
        config: of the head's training and of suppression.
    """

    data: LabelledFrames
    config: DetectConfig

    def network(self, student: Student) -> DetectionNetwork:
        """The student with a new head; MissingDependencyError without what scores need later."""
        polygons()
        data, sample = self.data, self.data.sample
        if sample.grid != "cubic":
            raise ConfigError(
                f"mode detect places boxes by cubic voxels, and the student was pretrained on a "
                f"{sample.grid} grid; evaluate a run with stream.sample.grid=cubic"
            )
        return DetectionNetwork(student, len(data.labels.classes), sample.voxel_size, data.up_axis)

    def loss(
        self,
        network: nn.Module,
        samples: Int64[np.ndarray, " batch"],
        random: np.random.Generator,
        augment: AugmentConfig,
    ) -> Tensor | None:
        """Of augmented frames; without elastic distortion and tilt, which boxes cannot follow."""
        frames = [box_frame(self.data, int(sample), random, augment) for sample in samples]
        frames = [frame for frame in frames if frame.annotated]
        if not frames:
            return None
        device = str(next(network.parameters()).device)
        cells: CellBoxes = network(frames)
        boxes = targets([frame.boxes for frame in frames], device)
        answers = assigned(
            cells,
            boxes,
            edges_m=tuple(stride * self.data.sample.voxel_size for stride in STRIDES),
            nearest=self.config.cells_per_box,
            coarse=self.config.coarse_cells,
        )
        return detection_loss(cells, boxes, answers)

    def scores(self, network: nn.Module, samples: Int64[np.ndarray, " samples"]) -> DetectionScores:
        """Over all boxes of some frames; the network is in eval mode."""
        found: list[ClassBoxes] = []
        truth: list[ClassBoxes] = []
        names: list[str] = []
        for sample in samples.tolist():
            frame = box_frame(self.data, sample)
            if not frame.annotated:
                continue
            with torch.inference_mode():
                cells: CellBoxes = network([frame])
            found.append(detections(cells, self.config))
            truth.append(frame.boxes)
            names.append(self.data.scene_of[sample])
        scenes = tuple(dict.fromkeys(names))
        matches = match(found, truth, classes=len(self.data.labels.classes))
        groups = np.array([scenes.index(name) for name in names], np.int64)
        return DetectionScores(grouped(matches, groups), scenes)


def box_frame(
    data: LabelledFrames,
    sample: int,
    random: np.random.Generator | None = None,
    augment: AugmentConfig | None = None,
) -> BoxFrame:
    """Read a frame; with a generator points and boxes are augmented alike.

    Points are levelled: turned to the boxes' upright axes, then to the student's up axis. Where
    only what a camera sees was annotated, voxels without a point that it sees are left out.
    """
    if data.other is not None and sample >= data.store.samples:
        # Levelled points have the network's up axis, whichever the store has.
        other = replace(data.other, up_axis=data.up_axis)
        return box_frame(other, sample - data.store.samples, random, augment)
    cloud, stored = read_cloud(data.store, sample), read_boxes(data.store, sample)
    settings = NO_AUGMENTATION if augment is None else augment
    random = np.random.default_rng(0) if random is None else random
    change = random_linear_map(random, replace(settings, tilt_deg=0.0), UP)
    points = cloud.points.astype(np.float64) @ (change @ stored.upright_from_sensor).T
    if settings.jitter_m:
        points += settings.jitter_m * random.standard_normal(points.shape)
    turned = (points @ upright_from_network(data.up_axis)).astype(np.float32)
    plain = unaugmented(data.sample)
    names = ("color_jitter", "drop_color", "intensity_jitter", "intensity_gain")
    values = {name: getattr(settings, name) for name in names}
    config = replace(plain, augment=replace(plain.augment, **values))
    cloud = replace(cloud, points=turned)
    seen = see(cloud, config, random, up_axis=data.up_axis, blank=data.blank)
    boxes = moved_boxes(stored, change)
    rows = np.arange(len(seen.coordinates))
    if annotated_in_view(data.store):
        rows = np.unique(seen.voxel_of_point[cloud.seen])
    voxels = (seen.coordinates[rows], seen.points[rows], seen.inputs[rows])
    return BoxFrame(*voxels, boxes, stored.annotated)


def annotated_in_view(store: Store) -> bool:
    """Whether boxes of one of the store's datasets lie only where a camera sees them."""
    known = (DATASETS[name] for name in store.manifest.datasets if name in DATASETS)
    return any(row.boxes_in_view for row in known)


def read_boxes(store: Store, sample: int) -> StoredBoxes:
    """A frame's usable boxes by sample id."""
    layer = box_layer(store).name
    return decode_boxes(store.read(layer, *locate(store.sizes("geometry"), sample)))


def moved_boxes(boxes: StoredBoxes, change: Float64[np.ndarray, "3 3"]) -> ClassBoxes:
    """Boxes after a turn about up, a mirror and a scale."""
    scale = abs(float(np.linalg.det(change))) ** (1 / 3)
    along = np.stack([np.cos(boxes.yaw), np.sin(boxes.yaw)]).astype(np.float64)
    x, y = change[:2, :2] @ along
    return ClassBoxes(boxes.center @ change.T, boxes.size * scale, np.arctan2(y, x), boxes.class_id)


def upright_from_network(up_axis: Axis) -> Float64[np.ndarray, "3 3"]:
    """From the student's axes, where `up_axis` points up, to axes with z up."""
    return rotation_to_z_up(np.array(up_axis, np.float64))


def targets(boxes: Sequence[ClassBoxes], device: str) -> TargetBoxes:
    """The boxes of a batch's frames as tensors."""

    def tensor(rows: list[np.ndarray], dtype: type) -> Tensor:
        return torch.from_numpy(np.concatenate(rows).astype(dtype)).to(device)

    frames = [np.full(len(own.yaw), number) for number, own in enumerate(boxes)]
    return TargetBoxes(
        frame=tensor(frames, np.int64),
        center=tensor([own.center for own in boxes], np.float32),
        size=tensor([own.size for own in boxes], np.float32),
        yaw=tensor([own.yaw for own in boxes], np.float32),
        class_id=tensor([own.class_id for own in boxes], np.int64),
    )


def detections(cells: CellBoxes, config: DetectConfig) -> ClassBoxes:
    """The boxes of one frame: the best scores, without those that surer boxes overlap."""
    scores = cells.logits.sigmoid()
    best, place = scores.flatten().topk(min(CANDIDATES, scores.numel()))
    place = place[best > LOWEST_SCORE]
    row, class_id = place // scores.shape[1], place % scores.shape[1]

    def array(values: Tensor) -> np.ndarray:
        return values.cpu().numpy()

    found = ClassBoxes(
        center=array(cells.center[row]),
        size=array(cells.size[row]),
        yaw=array(cells.yaw[row]),
        class_id=array(class_id),
        score=array(scores.flatten()[place]),
    )
    return suppressed(found, overlap=config.overlap, most=config.most_boxes)
