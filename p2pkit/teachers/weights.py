"""Reading, matching and hashing the tensors of a teacher."""

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from p2pkit.errors import TeacherError, first_line
from p2pkit.weight_files import EMA_CONTAINERS, read_weight_file

ANSWER_SECONDS = 5.0

PAUSE_SECONDS = 2.0

NO_CONNECTION = (
    "ConnectError",
    "ConnectTimeout",
    "ConnectionError",
    "OfflineModeIsEnabled",
    "ProxyError",
)
"""Names of the errors before anything is sent: which library speaks HTTP for the hub's varies."""


def check_hub(teacher: str, model: str, files: Sequence[str], *, instead: str) -> None:
    """Raise soon where a model must come from the hub and no connection to it can be made.

    All else is left to the hub's library, which tries six times for each file that a model may
    have: hubs that answer late or refuse, and names that no model can have.

    Args:
        teacher: its name, for the message.
        model: OWNER/NAME on the hub, or OWNER/NAME@REVISION.
        files: where one of these was fetched before, nothing is asked.
        instead: what to do without a network.

    Raises:
        TeacherError: none of the files is here, and two tries to connect have failed.
    """
    from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    name, _, revision = model.partition("@")
    chosen = revision or None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return
    if any(isinstance(try_to_load_from_cache(name, file, revision=chosen), str) for file in files):
        return
    url = hf_hub_url(name, files[0], revision=chosen)
    if _no_connection(url) is None:
        return
    time.sleep(PAUSE_SECONDS)
    error = _no_connection(url)
    if error is not None:
        raise TeacherError(
            f"teacher {teacher}: its weights are not on this machine, and {constants.ENDPOINT} "
            f"cannot be reached ({first_line(error)}). {instead}"
        ) from error


def _no_connection(url: str) -> Exception | None:
    """Why no connection can be made; None where one can."""
    from huggingface_hub import get_hf_file_metadata

    try:
        get_hf_file_metadata(url, timeout=ANSWER_SECONDS)
    except Exception as error:
        return error if type(error).__name__ in NO_CONNECTION else None
    return None


State = dict[str, Tensor]

# Where a checkpoint holds the network twice, these are meant: MoCo's, DINO's, running means.
_PREFERRED = ("encoder_q", "teacher", *EMA_CONTAINERS)

PRETRAINING_HEADS = ("projection_head", "prototypes")
"""What SwAV's checkpoints hold beside the network, under the same prefix."""

# Counters of training steps; they change no feature and many files lack them.
_COUNTER = "num_batches_tracked"

_LISTED = 8


def read_weights(path: Path) -> State:
    """All tensors of a checkpoint under dotted names, however deep its dictionaries nest them.

    Raises:
        TeacherError: the file does not exist, cannot be read, contains no tensor, or contains
            objects other than plain data: loading those would run their code.
    """
    if not path.is_file():
        raise TeacherError(
            f"weights {str(path)!r}: the file does not exist; give a .pth, .pt or .safetensors "
            "state_dict, or one of 'default', 'timm' and 'random'"
        )
    state = dict(_tensors(read_weight_file(path, TeacherError), ""))
    if not state:
        raise TeacherError(f"weights {path}: contains no tensor; expected a state_dict")
    return state


def _tensors(value: Any, name: str) -> Iterable[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, child in value.items():
            yield from _tensors(child, f"{name}.{key}" if name else str(key))


def choose_network(state: State, wanted: Iterable[str]) -> tuple[State, str]:
    """The part of a checkpoint that is the network, and where in the file it was.

    Containers and wrappers (`state_dict.`, `module.`, `encoder_q.`, …) are prefixes that most of
    the wanted names share; tensors beside that prefix (a momentum encoder, a queue, an optimiser)
    are left out. Of several such parts a running mean (EMA), MoCo's query and DINO's teacher come
    first.

    Args:
        state: all tensors of the checkpoint.
        wanted: tensor names of the network.

    Returns:
        The tensors under the network's own names; and the prefix, with those of the parts that were
        not taken, empty where the file is the network alone.
    """
    names = list(wanted)
    first = next((name for name in names if _prefixes(state, name)), names[0])
    found = {
        prefix: sum(prefix + name in state for name in names)
        for prefix in _prefixes(state, first) | _prefixes(state, names[-1]) or {""}
    }
    most = max(found.values())
    whole = [prefix for prefix, count in found.items() if 2 * count > most] or [""]

    def rank(prefix: str) -> tuple[int, int, int, str]:
        preferred = sum(part in _PREFERRED for part in prefix.split("."))
        return -preferred, -found[prefix], len(prefix), prefix

    taken, *others = sorted(whole, key=rank)
    inside = {key.removeprefix(taken): state[key] for key in state if key.startswith(taken)}
    origin = taken.rstrip(".") or ("the file's top level" if others else "")
    beside = ", ".join(other.rstrip(".") or "the file's top level" for other in others)
    return inside, origin + (f", not {beside}" if beside else "")


def _prefixes(state: State, name: str) -> set[str]:
    """What stands before a name in a checkpoint."""
    holders = (key for key in state if key == name or key.endswith(f".{name}"))
    return {key.removesuffix(name) for key in holders}


def match_weights(
    state: State, expected: State, *, required: set[str], optional: tuple[str, ...], where: str
) -> State:
    """The tensors of `state` that the network needs, each checked.

    Args:
        state: tensors under the network's names.
        expected: all tensors of the whole network, classifier included.
        required: names that the chosen layer needs.
        optional: first parts of names that may be absent, new or of another shape: the classifier,
            and heads that only pretraining has.
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
            f"weights {where} belong to another network: {listing('missing', missing)}; "
            f"{listing('unexpected', unexpected)}"
        )
    matched = {name: state[name] for name in required if name in state}
    for name, tensor in matched.items():
        if tensor.shape != expected[name].shape:
            raise TeacherError(
                f"weights {where}: {name} has shape {tuple(tensor.shape)}; "
                f"expected {tuple(expected[name].shape)}"
            )
    return matched


def listing(word: str, names: Sequence[str]) -> str:
    """How many names there are, and the first of them."""
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
