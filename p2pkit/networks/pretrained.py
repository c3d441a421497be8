"""Loading a student's weights: our own, or published ones with the same parameter names."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from p2pkit.errors import TrainingError

CONTAINERS = ("state_dict", "model_state_dict", "model_points", "model")
WRAPPER = "module."


@dataclass(frozen=True)
class LoadReport:
    """Which parameters and buffers a checkpoint gave, by the student's names, sorted.

    Args:
        loaded: copied into the student.
        missing: in the student but not copied; they keep their values.
        unexpected: in the checkpoint but not copied.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def load_student_weights(
    student: nn.Module,
    source: Path | Mapping[str, Any],
    *,
    prefix: str = "",
    skip: tuple[str, ...] = ("final.",),
    strict: bool = True,
) -> LoadReport:
    """Copy a checkpoint into `student` by parameter name; the student is untouched on error.

    The containers `state_dict`, `model_state_dict`, `model_points` and `model` are opened, and a
    `module.` before every name is dropped. Nothing else is adapted: no kernel is cut, repeated or
    transposed.

    Args:
        student: the network to fill.
        source: a `.safetensors` file, a torch file of tensors, or such a mapping.
        prefix: read only names that begin with it, and drop it; for files with several networks.
        skip: names that begin with one of these are not loaded and may be absent on either side:
            by default the last layer, whose width belongs to the task it was trained for.
        strict: whether any other absent or additional name is an error.

    Raises:
        TrainingError: the file cannot be read, a shape differs, no name fits, or (`strict`) names
            are absent or additional.
    """
    weights = _select(_unwrap(read_weights(source) if isinstance(source, Path) else source), prefix)
    own = student.state_dict()
    wanted = {name for name in own if not name.startswith(skip)}
    offered = {name for name in weights if not name.startswith(skip)}
    loaded = sorted(wanted & offered)
    report = LoadReport(
        tuple(loaded), tuple(sorted(own.keys() - loaded)), tuple(sorted(weights.keys() - loaded))
    )
    _check_names(wanted, offered, strict=strict)
    for name in loaded:
        _check_shape(name, own[name], weights[name])
    student.load_state_dict({name: weights[name] for name in loaded}, strict=False)
    return report


def read_weights(path: Path) -> Mapping[str, Any]:
    """What a `.safetensors` or torch file holds, on the CPU; no code in the file is run.

    Raises:
        TrainingError: the file is absent, cut, or holds other objects than tensors and plain data.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise TrainingError(f"cannot read the weights {path}: {error}") from error
    except (SafetensorError, EOFError, RuntimeError) as error:
        raise TrainingError(f"the weights {path} are cut or not a checkpoint: {error}") from error
    except pickle.UnpicklingError as error:
        raise TrainingError(
            f"the weights {path} hold objects that could run code, or are no checkpoint; save the "
            "state_dict alone, where you trust its origin, as .safetensors"
        ) from error
    if not isinstance(content, Mapping):
        raise TrainingError(f"the weights {path} hold a {type(content).__name__}, not a state_dict")
    return content


def _unwrap(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors inside known containers, without `module.` where every name has it."""
    inner = next(
        (content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping)), None
    )
    if inner is not None:
        return _unwrap(inner)
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors and all(name.startswith(WRAPPER) for name in tensors):
        return {name.removeprefix(WRAPPER): value for name, value in tensors.items()}
    return tensors


def _select(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def _check_names(wanted: set[str], offered: set[str], *, strict: bool) -> None:
    if not wanted & offered:
        raise TrainingError(
            f"no parameter of the student is in the checkpoint: it holds {_some(offered)}, the "
            f"student wants {_some(wanted)}"
        )
    if strict and wanted != offered:
        raise TrainingError(
            f"the checkpoint is of another network: absent {_some(wanted - offered)}; additional "
            f"{_some(offered - wanted)}"
        )


def _some(names: set[str]) -> str:
    """The first three of `names` and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (", ".join(sorted(names)[:3]) or "none") + more


def _check_shape(name: str, own: Tensor, given: Tensor) -> None:
    if own.shape == given.shape:
        return
    message = f"{name} is {tuple(given.shape)} in the checkpoint but {tuple(own.shape)} here"
    if name == "conv0p1s1.kernel" and own.ndim == given.ndim:
        message += (
            ": build the student with the checkpoint's "
            f"in_channels={given.shape[-2]} and conv1_kernel_size={round(len(given) ** (1 / 3))}"
        )
    raise TrainingError(message)
