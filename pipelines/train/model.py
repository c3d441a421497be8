"""The networks that pretraining trains together, built from a config or read from a run."""

import json
import shlex
import warnings
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import nn

from p2pkit.errors import TrainingError
from p2pkit.files import sha256_file
from p2pkit.heads import FixedPixels, PixelProjection, PointProjection
from p2pkit.losses import ContrastBatch
from p2pkit.networks import build_student, load_student_weights
from p2pkit.networks.pretrained import description_of, read_weights
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.settings.students import InputLayer
from p2pkit.stream.batches import Batch
from p2pkit.stream.inputs import described_inputs, input_channels
from p2pkit.weight_files import read_weight_file

WEIGHTS = "weights.safetensors"
"""A checkpoint's weight file."""
LONGEST = 400
"""Most characters shown of torch's list of mismatches."""


class PretrainingModel(nn.Module):
    """Student, point projection and pixel projection (UPL).

    Args:
        config: of the run.
        teacher_channels: width of the teacher's features.

    `described` says what the student takes, for checkpoints.
    """

    def __init__(self, config: TrainConfig, teacher_channels: int) -> None:
        super().__init__()
        self.described = described_inputs(config.stream.sample)
        self.student = build_student(
            config.student,
            in_channels=input_channels(config.stream.sample),
            conv1_kernel_size=config.conv1_kernel_size,
            engine=config.engine,
            waffleiron=config.waffleiron,
        )
        width = embedding_width(config, teacher_channels)
        self.point_projection = PointProjection(self.student.out_channels, width)
        self.pixel_projection = (
            FixedPixels()
            if config.pixel_head == "fixed"
            else PixelProjection(teacher_channels, width)
        )

    def forward(self, batch: Batch) -> ContrastBatch:
        """Both embeddings of each pair of the batch."""
        features = self.student(batch.coordinates, batch.inputs, **batch.prepared)
        return ContrastBatch(
            point_embedding=self.point_projection(features[batch.pair_voxel]),
            pixel_embedding=self.pixel_projection(batch.pair_feature),
            cell_id=batch.pair_cell,
            voxel_id=batch.pair_voxel,
            confidence=batch.pair_confidence,
            teacher_feature=batch.pair_feature,
            superpixel_id=batch.pair_superpixel,
        )


def embedding_width(config: TrainConfig, teacher_channels: int) -> int:
    """Channels of the space in which points and pixels are compared."""
    return teacher_channels if config.pixel_head == "fixed" else config.embedding_channels


def build_model(config: TrainConfig, teacher_channels: int, *, seed: int) -> PretrainingModel:
    """A model with initial weights that depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PretrainingModel(config, teacher_channels)


def start_from(path: Path, model: PretrainingModel, inputs: InputLayer) -> dict[str, Any]:
    """Copy the weights of a file into a model's student; say which, JSON.

    Last layers are left out, everything else must fit, except for the input layer as `inputs` says.
    Warns where the file's inputs are as many as the model's but others.

    Args:
        path: see `load_student_weights`.
        model: with its random weights.
        inputs: see `TrainConfig.init_inputs`.

    Returns:
        file as given, its absolute path, sha256; numbers of tensors loaded; names of the averaged,
        of those left random and of those of the file that were not used; the file's inputs where it
        was warned of, else none.

    Raises:
        TrainingError: the file cannot be read or belongs to another network.
    """
    content = read_weights(path)
    report = load_student_weights(model.student, content, inputs=inputs)
    about, own = description_of(path, content) or {}, model.described["inputs"]
    theirs = about.get("inputs", own)
    other = theirs != own and not report.averaged and not report.missing
    if other:
        warnings.warn(
            f"{path} was trained on other inputs ({', '.join(theirs)}) than this run has "
            f"({', '.join(own)}), though on as many channels; unless that is meant, train with "
            f"--set {shlex.quote(f'stream.sample.inputs={json.dumps(theirs)}')}",
            RuntimeWarning,
            stacklevel=1,
        )
    return {
        "file": str(path),
        "path": str(path.absolute()),
        "sha256": sha256_file(path),
        "container": report.origin,
        "loaded": len(report.loaded),
        "averaged": list(report.averaged),
        "random": list(report.missing),
        "not_used": list(report.unexpected),
        "other_inputs": theirs if other else [],
    }


def load_weights(model: PretrainingModel, checkpoint: Path) -> None:
    """Read a checkpoint's `weights.safetensors` into the model, strictly.

    Raises:
        TrainingError: the file is missing or damaged, or belongs to another architecture.
    """
    path = checkpoint / WEIGHTS
    if not path.is_file():
        raise TrainingError(f"{path} does not exist; is {checkpoint} a checkpoint folder?")
    try:
        weights = read_weight_file(path, TrainingError)
    except TrainingError as error:
        raise TrainingError(f"{error}; or delete {checkpoint} to use an older one") from None
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        differences = " ".join(str(error).split())
        raise TrainingError(
            f"{path} does not fit this model: {shorten(differences, LONGEST)}"
        ) from None
