"""Reading, matching and hashing the tensors of a teacher."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from p2pkit.errors import TeacherError, first_line

State = dict[str, Tensor]

# Where a checkpoint holds the network twice, under equal names, this one is meant (MoCo, DINO).
_PREFERRED = ("encoder_q", "teacher")
# Counters of training steps; they change no feature and many files lack them.
_COUNTER = "num_batches_tracked"
_LISTED = 8


def read_weights(path: Path) -> State:
    """All tensors of a checkpoint under dotted names, however deep its dictionaries nest them.

    Raises:
        TeacherError: no such file, no tensor in it, or it holds objects other than plain data:
            loading those would run their code.
    """
    if not path.is_file():
        raise TeacherError(
            f"weights {str(path)!r}: no such file; give a .pth, .pt or .safetensors state_dict, or "
            "one of 'default', 'timm' and 'random'"
        )
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise TeacherError(
            f"weights {path}: cannot be read as plain tensors ({first_line(error)}). Only "
            "state_dicts are loaded: save the network's state_dict() alone, with torch.save or "
            "safetensors"
        ) from error
    state = dict(_tensors(content, ""))
    if not state:
        raise TeacherError(f"weights {path}: holds no tensor; a state_dict is needed")
    return state


def _tensors(value: Any, name: str) -> Iterable[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, child in value.items():
            yield from _tensors(child, f"{name}.{key}" if name else str(key))


def strip_prefix(state: State, wanted: Iterable[str]) -> State:
    """The part of a checkpoint that is the network, under the network's own names.

    Containers and wrappers (`state_dict.`, `module.`, `encoder_q.`, …) are prefixes that most of
    the wanted names share; tensors beside that prefix (a momentum encoder, a queue, an optimiser)
    are left out.

    Args:
        state: all tensors of the checkpoint.
        wanted: tensor names of the network.
    """
    names = list(wanted)
    first = names[0]
    holders = (key for key in state if key == first or key.endswith(f".{first}"))
    prefixes = {key.removesuffix(first) for key in holders} or {""}

    def rank(prefix: str) -> tuple[int, bool, int, str]:
        found = sum(prefix + name in state for name in names)
        preferred = any(part in prefix.split(".") for part in _PREFERRED)
        return -found, not preferred, len(prefix), prefix

    prefix = min(prefixes, key=rank)
    inside = (key for key in state if key.startswith(prefix))
    return {key.removeprefix(prefix): state[key] for key in inside}


def match_weights(
    state: State, expected: State, *, required: set[str], optional: tuple[str, ...], where: str
) -> State:
    """The tensors of `state` that the network needs, each checked.

    Args:
        state: tensors under the network's names.
        expected: all tensors of the whole network, classifier included.
        required: names that the chosen layer needs.
        optional: first parts of names that may be absent, new or of another shape: the classifier.
        where: what the messages call the source.

    Raises:
        TeacherError: a required tensor is missing or of another shape, or a tensor is unknown.
    """

    def is_optional(name: str) -> bool:
        return name.endswith(_COUNTER) or any(
            name == part or name.startswith(f"{part}.") for part in optional
        )

    missing = [name for name in required if name not in state and not is_optional(name)]
    unexpected = [name for name in state if name not in expected and not is_optional(name)]
    if missing or unexpected:
        raise TeacherError(
            f"weights {where} are of another network: {_listing('missing', missing)}; "
            f"{_listing('unexpected', unexpected)}"
        )
    matched = {name: state[name] for name in required if name in state}
    for name, tensor in matched.items():
        if tensor.shape != expected[name].shape:
            raise TeacherError(
                f"weights {where}: {name} has shape {tuple(tensor.shape)}; "
                f"the network needs {tuple(expected[name].shape)}"
            )
    return matched


def _listing(word: str, names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:_LISTED])
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)} {word}" + (f" ({shown}{rest})" if names else "")


def weights_sha256(state: State) -> str:
    """Digest of the tensors' names, types, shapes and bytes, independent of order and container."""
    digest = hashlib.sha256()
    for name in sorted(name for name in state if not name.endswith(_COUNTER)):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
