"""export: write a run's student as a file that other code bases can load."""

import io
import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

import p2pkit
from p2pkit.errors import ConfigError, TrainingError
from p2pkit.files import canonical_json, write_atomic, write_json
from p2pkit.networks.pretrained import ABOUT, FORMAT, read_weights, sidecar
from p2pkit.networks.spunet import to_pointcept
from p2pkit.networks.students import WAFFLEIRON
from p2pkit.pipelines.evaluate.frames import trained_ups
from p2pkit.pipelines.settings import ExportConfig
from p2pkit.pipelines.train.checkpoints import chosen_checkpoint
from p2pkit.pipelines.train.model import WEIGHTS, embedding_width
from p2pkit.pipelines.train.run_folder import (
    read_config_for_use,
    read_init,
    read_provenance,
    student_settings,
)
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.settings.stream import Input
from p2pkit.stream.inputs import CHANNELS, Z_UP, described_inputs, input_channels

STUDENT, PROJECTION = "student.", "point_projection.linear."


def run(config: ExportConfig) -> Path:
    """Write the student's weights under the parameter names of the published networks.

    Returns:
        The file.

    Raises:
        ConfigError: the file exists, or the code that reads the form cannot load such a student.
        TrainingError: `run` holds no run, none with a checkpoint, or a damaged one.
    """
    train = read_config_for_use(config.run)
    check_form(config.form, train.student)
    check_loadable(config, train)
    written = [config.out, *([sidecar(config.out)] if config.form in BARE else [])]
    for path in written:
        if path.exists():
            raise ConfigError(f"{path} already exists; name another file, or delete it first")
    checkpoint = chosen_checkpoint(config.run, config.which)
    weights = read_weights(checkpoint.path / WEIGHTS)
    tensors = {
        name.removeprefix(STUDENT): value.contiguous()
        for name, value in weights.items()
        if name.startswith(STUDENT)
    }
    needed = [f"{PROJECTION}weight", f"{PROJECTION}bias"] if config.projection else []
    missing = [name for name in needed if name not in weights]
    if missing or not tensors:
        raise TrainingError(
            f"{checkpoint.path / WEIGHTS} lacks {', '.join(missing) or f'{STUDENT}*'}: it is not "
            "the checkpoint that training wrote"
        )
    if config.projection:
        tensors |= _final(train.student, weights)
    about = _about(config, train, checkpoint.step)
    if config.form in BARE:
        write_json(sidecar(config.out), about)
    write_atomic(config.out, FORMS[config.form](tensors, about))
    return config.out


def check_form(form: str, student: str) -> None:
    """Raise ConfigError, with the forms that fit, if the code of a form has no such student."""
    if student.startswith(BUILDS[form]):
        return
    fitting = [name for name, built in BUILDS.items() if student.startswith(built)]
    raise ConfigError(
        f"the code that reads --to {form} builds {' and '.join(BUILDS[form])}, not {student}: "
        f"export it with --to {' or '.join(fitting)}"
    )


@dataclass(frozen=True)
class Built:
    """The network that the code that reads a form builds by its default settings.

    Args:
        conv1_kernel_size: side of its first convolution (voxels).
        inputs: settings of a run whose inputs are as many; None where the user says how many.
        student: its name; None for any Res16UNet.
        embedding_channels: width of its last layer; None where that is new for each task.
    """

    conv1_kernel_size: int
    inputs: Input | None = None
    student: str | None = None
    embedding_channels: int | None = None


BUILT = {
    "slidr": Built(3, "intensity", "Res16UNet34C", 64),
    "pointcontrast": Built(3, "color"),
    "minkunet": Built(5),
    "pointcept": Built(5),
}


def check_loadable(config: ExportConfig, train: TrainConfig) -> None:
    """Raise ConfigError, with the settings to train with, if a form's code cannot load the run."""
    built = BUILT.get(config.form)
    if built is None:
        return
    wanted: dict[str, Any] = {"conv1_kernel_size": built.conv1_kernel_size}
    if train.student.startswith("PTv3"):
        wanted = {}
    if built.student is not None:
        wanted["student"] = built.student
    wrong = {name: value for name, value in wanted.items() if getattr(train, name) != value}
    found = [f"{name}={getattr(train, name)}" for name in wrong]
    width = embedding_width(train, read_provenance(config.run).teacher_channels)
    if config.projection and built.embedding_channels not in (None, width):
        is_fixed = train.pixel_head == "fixed"
        wrong |= {"pixel_head": "trained"} if is_fixed else {}
        wrong["embedding_channels"] = built.embedding_channels
        found.append(f"{width} embedding channels{' of a fixed pixel head' if is_fixed else ''}")
    channels = input_channels(train.stream.sample)
    if built.inputs is not None and channels != CHANNELS[built.inputs]:
        advised = _three_inputs(config.run, train) if built.inputs == "color" else built.inputs
        wrong["stream.sample.inputs"] = json.dumps([advised])
        found.append(f"{channels} input channels ({', '.join(train.stream.sample.inputs or ())})")
    if wrong:
        settings = " ".join(f"--set {shlex.quote(f'{k}={value}')}" for k, value in wrong.items())
        raise ConfigError(
            f"the code that reads --to {config.form} cannot load this run, which has "
            f"{' and '.join(found)}: train with {settings}, or export it with --to safetensors"
        )


def _three_inputs(run: Path, train: TrainConfig) -> Input:
    """An input of three channels: `color` brings `colored` along where cameras paint a sweep.

    A run on sweeps that has `color` has `colored`, too; without them the up axis tells sweeps, and
    fused frames with them, from depth images.
    """
    inputs = train.stream.sample.inputs or ()
    upright = any(use.up_axis == Z_UP for use in read_provenance(run).stores)
    return "position" if "colored" in inputs or ("color" not in inputs and upright) else "color"


def _final(student: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The point projection as the student's last layer.

    A linear layer on each voxel's features is a convolution of one voxel; WaffleIron calls it
    `classif`.
    """
    weight, bias = weights[f"{PROJECTION}weight"], weights[f"{PROJECTION}bias"]
    if student.startswith("PTv3"):
        return {"final.weight": weight.contiguous(), "final.bias": bias.contiguous()}
    if student.startswith(WAFFLEIRON):
        return {
            "classif.weight": weight[:, :, None].contiguous(),
            "classif.bias": bias.contiguous(),
        }
    return {"final.kernel": weight.T.contiguous(), "final.bias": bias[None].contiguous()}


def _about(config: ExportConfig, train: TrainConfig, step: int) -> dict[str, Any]:
    """Where the weights come from, and what a network needs to match them."""
    stores, sample = read_provenance(config.run).stores, train.stream.sample
    ups = trained_ups(sample.augment.up_axis, (use.up_axis for use in stores))
    begun = read_init(config.run)
    settings = student_settings(train)
    return settings | {
        "format": FORMAT,
        "p2pkit": p2pkit.__version__,
        "in_channels": input_channels(sample),
        **described_inputs(sample),
        "input_values": "of the voxel's first point; color is RGB, -1 to 1, 0 where unknown; "
        "height and range in m; normal towards the sensor",
        "up_axis": list(ups[0]) if len(ups) == 1 else None,
        "step": step,
        "fingerprints": [use.fingerprints for use in stores],
        "init": begun and {name: value for name, value in begun.items() if name != "path"},
    }


def _safetensors(tensors: dict[str, Tensor], about: dict[str, Any]) -> bytes:
    return safetensors_bytes(tensors, {ABOUT: canonical_json(about)})


def _torch_file(container: str | None) -> Callable[[dict[str, Tensor], dict[str, Any]], bytes]:
    """A torch file of tensors and plain data; the weights alone, or under a name."""

    def write(tensors: dict[str, Tensor], about: dict[str, Any]) -> bytes:
        content: dict[str, Any] = {container: tensors, ABOUT: about} if container else tensors
        data = io.BytesIO()
        torch.save(content, data)
        return data.getvalue()

    return write


def _pointcept_file(tensors: dict[str, Tensor], about: dict[str, Any]) -> bytes:
    """Pointcept's names and kernel layout; PTv3 has them already."""
    of_spunet = about["student"].startswith("SpUNet")
    named = to_pointcept(tensors) if of_spunet else tensors
    return _torch_file("state_dict")(named, about)


def _waffleiron_file(tensors: dict[str, Tensor], about: dict[str, Any]) -> bytes:
    """The containers of WaffleIron's and ScaLR's checkpoints; the tensors are stored once."""
    data = io.BytesIO()
    torch.save({"net": tensors, "model_points": tensors, ABOUT: about}, data)
    return data.getvalue()


FORMS: dict[str, Callable[[dict[str, Tensor], dict[str, Any]], bytes]] = {
    "safetensors": _safetensors,
    "pointcontrast": _torch_file("state_dict"),
    "slidr": _torch_file("model_points"),
    "minkunet": _torch_file(None),
    "pointcept": _pointcept_file,
    "waffleiron": _waffleiron_file,
}
"""Formats by name, under the names of the code that reads them. docs/export.md says how each is
loaded."""
BUILDS: dict[str, tuple[str, ...]] = {
    "safetensors": ("",),
    "pointcontrast": ("Res16UNet",),
    "slidr": ("Res16UNet",),
    "minkunet": ("Res16UNet",),
    "pointcept": ("SpUNet", "PTv3"),
    "waffleiron": (WAFFLEIRON,),
}
"""How the names of the students begin that the code of each form builds."""
BARE = ("minkunet",)
"""Formats that cannot hold the description of the file, which is written next to it."""
