"""Pairs of a report's frames, with all that shows whether two of them are of the same thing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32, Int64

from p2pkit.evaluation.label_sets import IGNORE
from p2pkit.layers.features import pair_cells, pair_features
from p2pkit.losses import ContrastBatch
from p2pkit.pipelines.report.frames import FrameView
from p2pkit.pipelines.report.networks import NetworkName, RunNetworks
from p2pkit.pipelines.train.model import PretrainingModel
from p2pkit.settings.stream import PairSelection, SampleConfig
from p2pkit.stream.inputs import cloud_up, unaugmented, voxelised
from p2pkit.stream.samples import draw_pairs


@dataclass(frozen=True, eq=False)
class ReportPairs:
    """Pairs drawn from several frames, without augmentation; row i of each field is pair i.

    Args:
        frame: row in the list of frames.
        pixel_uv: in the frame's image (px).
        teacher: the teacher's upsampled feature of the pixel.
        student: by kind of network, its feature of the point before the projection.
        cell, voxel: ids that no two frames share.
        label: class, `IGNORE` for void; None in stores without labels.
    """

    frame: Int64[np.ndarray, " pairs"]
    pixel_uv: Float32[np.ndarray, "pairs 2"]
    teacher: Float32[np.ndarray, "pairs channels"]
    student: dict[str, Float32[np.ndarray, "pairs student_channels"]]
    cell: Int64[np.ndarray, " pairs"]
    voxel: Int64[np.ndarray, " pairs"]
    label: Int64[np.ndarray, " pairs"] | None

    def label_of(self, pair: int) -> int | None:
        """Class of a pair; None for void and without labels."""
        value = IGNORE if self.label is None else int(self.label[pair])
        return None if value == IGNORE else value

    def hit_or_miss(self, query: int, found: int) -> str:
        """`hit` if two pairs are of one class, `miss` if of two; empty if one is void."""
        one, other = self.label_of(query), self.label_of(found)
        return "" if one is None or other is None else "hit" if one == other else "miss"

    def with_labels(self) -> "ReportPairs":
        """Pairs with a label; all pairs in stores without labels."""
        if self.label is None:
            return self
        keep = np.flatnonzero(self.label != IGNORE)
        return ReportPairs(
            frame=self.frame[keep],
            pixel_uv=self.pixel_uv[keep],
            teacher=self.teacher[keep],
            student={name: values[keep] for name, values in self.student.items()},
            cell=self.cell[keep],
            voxel=self.voxel[keep],
            label=self.label[keep],
        )


@dataclass(frozen=True)
class _Sought:
    sample: SampleConfig
    names: Sequence[NetworkName]
    ignore_label: int | None


def read_pairs(
    views: Sequence[FrameView],
    networks: RunNetworks,
    *,
    names: Sequence[NetworkName],
    pairs_per_frame: int,
    selection: PairSelection,
    ignore_label: int | None,
) -> ReportPairs:
    """Draw pairs of each view; the draw depends only on the view's place in the list.

    Args:
        views: one of each frame, at least one.
        networks: of the run.
        names: the networks whose point features are computed.
        pairs_per_frame: most pairs of each view.
        selection: how pairs are drawn, see `SampleConfig.pairs`.
        ignore_label: stored label that means void.
    """
    sample = replace(
        unaugmented(networks.config.stream.sample),
        pairs=selection,
        pairs_per_frame=pairs_per_frame,
    )
    sought = _Sought(sample, names, ignore_label)
    parts = [_read_view(number, view, networks, sought) for number, view in enumerate(views)]
    has_labels = all(part.label is not None for part in parts)
    return ReportPairs(
        frame=np.concatenate([part.frame for part in parts]),
        pixel_uv=np.concatenate([part.pixel_uv for part in parts]),
        teacher=np.concatenate([part.teacher for part in parts]),
        student={name: np.concatenate([part.student[name] for part in parts]) for name in names},
        cell=_unique_ids([part.cell for part in parts]),
        voxel=_unique_ids([part.voxel for part in parts]),
        label=np.concatenate([part.label for part in parts if part.label is not None])
        if has_labels
        else None,
    )


def _read_view(number: int, view: FrameView, networks: RunNetworks, sought: _Sought) -> ReportPairs:
    cloud = view.cloud
    voxel = voxelised(cloud.points, sought.sample, cloud_up(cloud)).voxel_of_point
    random = np.random.default_rng(number)
    rows = draw_pairs(cloud, view.features, voxel, view.rows, sought.sample, random)
    points, alignment = cloud.pair_point[rows], sought.sample.alignment
    return ReportPairs(
        frame=np.full(len(rows), number, dtype=np.int64),
        pixel_uv=cloud.pixels[rows],
        teacher=pair_features(
            view.features, cloud, rows, alignment=alignment, basis=networks.basis
        ),
        student={name: networks.point_features(name, cloud)[points] for name in sought.names},
        cell=pair_cells(view.features, cloud, rows),
        voxel=voxel[points],
        label=None if cloud.labels is None else _classes(cloud.labels[points], sought.ignore_label),
    )


def _classes(labels: np.ndarray, ignore_label: int | None) -> Int64[np.ndarray, " pairs"]:
    values = labels.astype(np.int64)
    return values if ignore_label is None else np.where(values == ignore_label, IGNORE, values)


def _unique_ids(parts: Sequence[np.ndarray]) -> Int64[np.ndarray, " pairs"]:
    """The parts' ids, each part's above those of the parts before it."""
    first, found = 0, []
    for part in parts:
        found.append(part + first)
        first += int(part.max(initial=-1)) + 1
    return np.concatenate(found)


def contrast(pairs: ReportPairs, model: PretrainingModel, device: str) -> ContrastBatch:
    """The pairs as one batch that a loss sees of the pretrained network."""
    with torch.inference_mode():
        student = torch.from_numpy(pairs.student["pretrained"]).to(device)
        teacher = torch.from_numpy(pairs.teacher).to(device)
        return ContrastBatch(
            point_embedding=model.point_projection(student).cpu(),
            pixel_embedding=model.pixel_projection(teacher).cpu(),
            cell_id=torch.from_numpy(pairs.cell),
            voxel_id=torch.from_numpy(pairs.voxel),
            teacher_feature=teacher.cpu(),
        )
