"""Loading a student's weights: our own, or published ones with the same parameter names."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from p2pkit.errors import TrainingError
from p2pkit.networks.engines.sparse_engine import AUTO
from p2pkit.networks.published_names import (
    FIRST_KERNELS,
    HEADS,
    differs_in_inputs_alone,
    fitted_inputs,
    input_layer_of,
    student_names,
)
from p2pkit.networks.students import Student, build_student, prepared_for, transformer_settings
from p2pkit.settings import config_from_json
from p2pkit.settings.students import InputLayer, WaffleIronConfig
from p2pkit.weight_files import EMA_CONTAINERS, read_metadata, read_weight_file

CONTAINERS = ("state_dict", "model_state_dict", "model_points", "model_point", "net", "model")
WRAPPER = "module."
ABOUT = "p2pkit"
"""Key of an exported file's description; torch files without metadata have it in a file beside."""
FORMAT = "p2pkit-student"
FINALS = ("final.bias", "classif.bias")
"""Of the last layers that exports may have."""


@dataclass(frozen=True, repr=False)
class LoadReport:
    """Which parameters and buffers a checkpoint gave, by the student's names, sorted.

    Args:
        loaded: copied into the student.
        missing: in the student but not copied; they keep their values.
        unexpected: in the checkpoint but not copied.
        origin: the container inside the checkpoint that was read, and those that were not; empty
            where it has none.
        averaged: of those loaded, the input layer's that were averaged over its channels.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    origin: str = ""
    averaged: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Counts, then the first few names."""
        source = f" from {self.origin}" if self.origin else ""
        parts = [f"{len(self.loaded)} loaded{source}"]
        for word, names in (("missing", self.missing), ("unexpected", self.unexpected)):
            parts.append(f"{len(names)} {word}" + (f" ({_some({*names})})" if names else ""))
        return f"LoadReport: {', '.join(parts)}"


@dataclass(frozen=True)
class PretrainedStudent:
    """A student from an exported file, and what it expects.

    Args:
        student: in evaluation mode, on the CPU; with the point projection as its last layer where
            the file has it.
        inputs: what its input channels are, in order, such as `color`.
        voxel_size_m: of pretraining (m), where `grid` is `cubic`.
        grid: shape of the voxels, `cubic` or `cylindrical`.
        cylindrical_size: radius (m), angle (degrees) and height (m) of a cylindrical voxel, or
            None.
        intensity_scale: factor of intensities that span 0 to 1.
        up_axis: unit vector that was up in the points; None where the run does not say.
        about: all that the file says about itself, JSON.
    """

    student: Student
    inputs: tuple[str, ...]
    voxel_size_m: float
    grid: str
    cylindrical_size: tuple[float, float, float] | None
    intensity_scale: float
    up_axis: tuple[float, float, float] | None
    about: dict[str, Any]

    def prepared(
        self, frames: Sequence[tuple[np.ndarray, np.ndarray]], device: str = "cpu"
    ) -> dict[str, Tensor]:
        """What the student takes by name beside coordinates and inputs; most take nothing.

        Args:
            frames: of each frame of the batch, x, y, z (m) of the point that stands for each voxel,
                float32, and the voxels' integer positions, int32.
            device: where the student runs.
        """
        return prepared_for(self.student, frames, device)


def load_pretrained(path: str | Path, *, engine: str | None = None) -> PretrainedStudent:
    """Build the student of a file that `p2pkit export` wrote, in any form, with its weights.

    Args:
        path: of the file.
        engine: a key of `ENGINES`; None takes MinkowskiEngine if it works, else torch.

    Raises:
        TrainingError: the file cannot be read, does not say what it is, or is of a PTv3 of another
            form.
        ConfigError: it is of a student that this version does not know.
    """
    content, about = _read_export(Path(path))
    own = transformer_settings(about["student"])
    if any(about.get(name) != value for name, value in own.items()):
        raise TrainingError(
            f"{path} is of a {about['student']} of another form: it has {about.get('ptv3')}, and "
            f"this version builds {own['ptv3']}; its weights would fit and mean something else"
        )
    tensors, _ = _unwrap(content)
    final = next((tensors[name] for name in FINALS if name in tensors), None)
    with torch.random.fork_rng(devices=[]):
        student = build_student(
            about["student"],
            in_channels=about["in_channels"],
            out_channels=None if final is None else final.numel(),
            conv1_kernel_size=about["conv1_kernel_size"],
            engine=engine or AUTO,
            waffleiron=config_from_json(WaffleIronConfig, about.get("waffleiron", {})),
        )
    load_student_weights(student, tensors, skip=())
    return PretrainedStudent(
        student=student.eval(),
        inputs=tuple(about["inputs"]),
        voxel_size_m=float(about["voxel_size_m"]),
        grid=about["grid"],
        cylindrical_size=_three(about.get("cylindrical_size")),
        intensity_scale=float(about.get("intensity_scale", 1.0)),
        up_axis=_three(about.get("up_axis")),
        about=about,
    )


def _three(numbers: Sequence[float] | None) -> tuple[float, float, float] | None:
    return None if numbers is None else (float(numbers[0]), float(numbers[1]), float(numbers[2]))


def _read_export(path: Path) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """The content of an exported file and its description."""
    content = read_weights(path)
    about = description_of(path, content)
    needed = ("student", "in_channels", "inputs", "conv1_kernel_size", "voxel_size_m", "grid")
    if about is None:
        raise TrainingError(
            f"{path} does not say which student it belongs to: it is not an export of p2pkit, or "
            f"{sidecar(path).name} is missing beside it. Build the network with build_student and "
            "fill it with load_student_weights"
        )
    missing = [name for name in needed if name not in about]
    if missing or not isinstance(about["inputs"], list):
        raise TrainingError(
            f"{path} was exported by p2pkit {about.get('p2pkit')}, which did not write "
            f"{', '.join(missing) or 'the list of inputs'}; export it again"
        )
    return content, about


def description_of(path: Path, content: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an exported file, or the one beside it, says about itself, JSON; None for other files.

    Args:
        path: of the file.
        content: the result of `read_weights`.

    Raises:
        TrainingError: the description cannot be read.
    """
    beside, about = sidecar(path), content.get(ABOUT)
    try:
        if about is None and beside.is_file():
            about = json.loads(beside.read_text())
        elif about is None and path.read_bytes()[8:9] == b"{":
            about = json.loads(read_metadata(path, TrainingError).get(ABOUT, "null"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"the description in {path} cannot be read: {error}") from None
    return about if isinstance(about, dict) and about.get("format") == FORMAT else None


def sidecar(path: Path) -> Path:
    """The JSON beside a file of weights that cannot store it."""
    return path.with_name(f"{path.name}.json")


def load_student_weights(
    student: nn.Module,
    source: str | Path | Mapping[str, Any],
    *,
    prefix: str = "",
    skip: tuple[str, ...] = HEADS,
    strict: bool = True,
    inputs: InputLayer = "exact",
) -> LoadReport:
    """Copy a checkpoint into `student` by parameter name; the student is untouched on error.

    Containers such as `state_dict`, `model_points` and `net` are opened, a running mean of the
    weights (`state_dict_ema`, `model_ema`, ...) before them, and a `module.` before every name is
    dropped. Of files with several networks the student's is read (`student.`, `backbone.`).
    Pointcept's SpUNet is brought into p2pkit's names and layout. Nothing else is adapted: no kernel
    is cut or repeated.

    Args:
        student: the network to fill.
        source: path of a `.safetensors` file or a torch file of tensors, or such a mapping.
        prefix: read only names that begin with it, and drop it; for files with several networks.
        skip: names that begin with one of these are not loaded and may be absent on either side:
            by default the last layer, whose width belongs to the task it was trained for.
        strict: whether any other absent or additional name is an error.
        inputs: what becomes of an input layer with another number of channels, see
            `published_names.fitted_inputs`; `exact` refuses it.

    Raises:
        TrainingError: the file cannot be read, a shape differs, no name fits, or (`strict`) names
            are absent or additional.
    """
    content = source if isinstance(source, Mapping) else read_weights(Path(source))
    tensors, origin = _unwrap(content)
    read, others = student_names(student, _select(tensors, prefix))
    weights, new = fitted_inputs(student, read, inputs)
    own = student.state_dict()
    wanted = {name for name in own if not name.startswith(skip) and name not in new}
    offered = {name for name in weights if not name.startswith(skip) and name not in new}
    loaded = sorted(wanted & offered)
    averaged = tuple(name for name in loaded if weights[name] is not read[name])
    report = LoadReport(
        tuple(loaded),
        tuple(sorted(own.keys() - loaded)),
        tuple(sorted({*weights.keys() - loaded, *others})),
        origin,
        averaged,
    )
    _check_names(wanted, offered, strict=strict)
    for name in loaded:
        _check_shape(name, own[name], weights[name], input_layer_of(student).get(name))
    student.load_state_dict({name: weights[name] for name in loaded}, strict=False)
    return report


def read_weights(path: Path) -> Mapping[str, Any]:
    """What a `.safetensors` or torch file contains, on the CPU; no code in the file is run.

    Raises:
        TrainingError: the file is absent, cut, a Git LFS pointer, or holds other objects than
            tensors and plain data.
    """
    return read_weight_file(path, TrainingError)


def _unwrap(content: Mapping[str, Any]) -> tuple[dict[str, Tensor], str]:
    """The tensors inside known containers, without `module.` where every name has it; and where.

    A container's own containers are opened too; the outermost says which others were not read.
    """
    found = [name for name in (*EMA_CONTAINERS, *CONTAINERS) if _is_container(content.get(name))]
    if found:
        tensors, inner = _unwrap(content[found[0]])
        where = f"{found[0]}.{inner}" if inner else found[0]
        return tensors, where + (f", not {', '.join(found[1:])}" if found[1:] else "")
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors and all(name.startswith(WRAPPER) for name in tensors):
        return {name.removeprefix(WRAPPER): value for name, value in tensors.items()}, ""
    return tensors, ""


def _is_container(value: Any) -> bool:
    """Whether a checkpoint's entry holds tensors, at whatever depth, and not settings alone."""
    return isinstance(value, Mapping) and any(
        isinstance(inner, Tensor) or _is_container(inner) for inner in value.values()
    )


def _select(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def _check_names(wanted: set[str], offered: set[str], *, strict: bool) -> None:
    if not wanted & offered:
        raise TrainingError(
            f"no parameter of the student is in the checkpoint: it contains {_some(offered)}, the "
            f"student needs {_some(wanted)}"
        )
    if strict and wanted != offered:
        raise TrainingError(
            f"the checkpoint belongs to another network: absent {_some(wanted - offered)}; "
            f"additional {_some(offered - wanted)}{_other_form(wanted, offered)}"
        )


def _other_form(wanted: set[str], offered: set[str]) -> str:
    """What is known of a checkpoint of another form of the student's network, for the message."""
    if "embedding.stem.conv.weight" in offered:
        return (
            "; it is Pointcept's PT-v3m1, whose stem is a convolution, while PTv3 here has the "
            "layers of PT-v3m2 and Sonata: take a file of these"
        )
    for absent, norm in ((wanted - offered, "layer"), (offered - wanted, "batch")):
        if absent and all(re.search(r"_mix\.\d+\.norm\.(running_|num_b)", name) for name in absent):
            return f"; its layers have other norms: set waffleiron.norm={norm}"
    return ""


def _some(names: set[str]) -> str:
    """The first three of `names` and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (", ".join(sorted(names)[:3]) or "none") + more


def _check_shape(name: str, own: Tensor, given: Tensor, input_axis: int | None) -> None:
    """Raise TrainingError if shapes differ; `input_axis` is that of the channels of an input."""
    if own.shape == given.shape:
        return
    message = f"{name} is {tuple(given.shape)} in the checkpoint but {tuple(own.shape)} here"
    if name in FIRST_KERNELS and given.ndim in (2, 3):
        side = 1 if given.ndim == 2 else round(len(given) ** (1 / 3))
        message += (
            ": build the student with the checkpoint's "
            f"in_channels={given.shape[-2]} and conv1_kernel_size={side}"
        )
    if input_axis is not None and differs_in_inputs_alone(own, given, input_axis):
        message += "; `train` can start from other inputs with init_inputs=average or random"
    raise TrainingError(message)
