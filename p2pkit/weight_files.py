"""Reading files of weights that come from anywhere: tensors and plain data, no code.

Checkpoints of training programs hold their settings beside the tensors. Containers that only hold
data (`argparse.Namespace`, OmegaConf, ...) are read as inert stand-ins, never as the class that the
file names; every other class is refused.
"""

import pickle
import pickletools
import re
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from p2pkit.errors import P2pkitError, first_line
from p2pkit.files import utf8_path

EMA_CONTAINERS = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "model_ema_state_dict",
    "ema_model",
    "ema",
)
"""Where checkpoints keep the running mean of the weights, which timm and their authors evaluate."""

HEAD_BYTES = 512
_LFS = b"version https://git-lfs"
_ADVICE = "copy or download it again"
_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"<", f"is a web page or XML, as left by a failed download; {_ADVICE}"),
    (b"\x89HDF", "is an HDF5 file; convert it to a torch state_dict or .safetensors first"),
    (b"\x93NUMPY", "is a numpy array; convert it to a torch state_dict or .safetensors first"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
    (b"\xfd7zXZ", "is compressed with xz; unpack it first"),
)

# Plain data of training programs. Some are dictionaries that pickle fills item by item.
_DICTIONARIES = (
    "collections.defaultdict",
    "addict.addict.Dict",
    "easydict.EasyDict",
    "fvcore.common.config.CfgNode",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning_utilities.core.rank_zero.AttributeDict",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
    "munch.Munch",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "yacs.config.CfgNode",
)
_OBJECTS = (
    "argparse.Namespace",
    "builtins.bool",
    "builtins.dict",
    "builtins.float",
    "builtins.frozenset",
    "builtins.int",
    "builtins.list",
    "builtins.str",
    "builtins.tuple",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    "decimal.Decimal",
    "mmcv.utils.config.Config",
    "mmengine.config.config.Config",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.BooleanNode",
    "omegaconf.nodes.FloatNode",
    "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.StringNode",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.PureWindowsPath",
    "pathlib.WindowsPath",
    "pathlib._local.Path",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "types.SimpleNamespace",
    "typing.Any",
    "uuid.UUID",
)


class InertData:
    """Stands for plain data that a checkpoint holds beside its tensors; keeps and does nothing."""

    def __new__(cls, *_: object, **__: object) -> "InertData":
        """Any arguments, none of them used."""
        return object.__new__(InertData)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        del state


class _InertDictionary:
    """Made as a Counter, which torch's reader may fill."""

    def __new__(cls, *_: object, **__: object) -> Any:
        return Counter()


def _stand_ins() -> list[Any]:
    """A class for each name above; torch's reader knows classes by module and name."""

    def named(full: str, base: type) -> type:
        module, _, name = full.rpartition(".")
        return type(name, (base,), {"__module__": module, "__qualname__": name})

    objects = [named(full, InertData) for full in _OBJECTS]
    return [
        InertData,
        Counter,
        *objects,
        *(named(full, _InertDictionary) for full in _DICTIONARIES),
    ]


def read_weight_file(path: Path, error: type[P2pkitError]) -> Mapping[str, Any]:
    """What a `.safetensors` or torch file contains, on the CPU; its content decides which it is.

    Args:
        path: of the file.
        error: what is raised, with a message of one line.

    Raises:
        P2pkitError: as `error`: the file is absent, empty, cut, a Git LFS pointer, of another kind,
            or holds objects that are neither tensors nor plain data.
    """
    head = check_weight_file(path, error)
    if _is_safetensors(head):
        return _read_safetensors(path, error)
    if path.suffix == ".safetensors" and not head.startswith((b"PK", b"\x80")):
        raise error(f"{path} is damaged or not a .safetensors file; {_ADVICE}")
    content = _read_torch(path, error)
    if not isinstance(content, Mapping):
        raise error(
            f"expected a state_dict, found a {type(content).__name__} in {path}; save the "
            "network's state_dict()"
        )
    return content


def check_weight_file(path: Path, error: type[P2pkitError]) -> bytes:
    """The first bytes of a file that may hold weights.

    Raises:
        P2pkitError: as `error`: it cannot be read, is empty, or is known to be of another kind.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror}") from None
    if not head:
        raise error(f"{path} is empty; {_ADVICE}")
    if head.startswith(_LFS):
        raise error(
            f"{path} is a Git LFS pointer, not the weights themselves: run git lfs pull in the "
            "repository that it comes from"
        )
    for start, message in _KINDS:
        if head.lstrip().startswith(start):
            raise error(f"{path} {message}")
    return head


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32


def _read_safetensors(path: Path, error: type[P2pkitError]) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        with utf8_path(path) as readable:
            return load_file(readable)
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as reason:
        raise error(f"{path} is truncated or damaged ({first_line(reason)}); {_ADVICE}") from None


def _read_torch(path: Path, error: type[P2pkitError]) -> Any:
    import torch

    try:
        # Opened here: given a name, torch decides by its suffix.
        with open(path, "rb") as file, torch.serialization.safe_globals(_stand_ins()):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as reason:
        # A damaged pickle may end in any error that its instructions lead to.
        raise error(_unreadable(path, reason)) from None


def _unreadable(path: Path, reason: Exception) -> str:
    """Why torch could not read a file, without its advice to let the file's code run."""
    text = str(reason)
    if "TorchScript" in text:
        return f"{path} is a TorchScript file; give it as --teacher torchscript:{path.name}"
    found = re.search(r"GLOBAL ([\w.]+) (?:was not|whose)|class '([\w.]+)'", text)
    if isinstance(reason, pickle.UnpicklingError) and found and not _is_cut(path):
        what = found[1] or found[2]
        return (
            f"{path} cannot be read as plain tensors: it contains {what}, which could run code. "
            "Save the network's state_dict() alone, if you trust the file's origin, as .safetensors"
        )
    return (
        f"{path} is truncated, damaged or not a checkpoint of torch; {_ADVICE}, or save the "
        "network's state_dict() with torch.save"
    )


def _is_cut(path: Path) -> bool:
    """Whether a file of torch's older form, four pickles and then the bytes, ends in a pickle."""
    with open(path, "rb") as file:
        if file.read(2) == b"PK":
            return False
        file.seek(0)
        try:
            for _ in range(4):
                deque(pickletools.genops(file), maxlen=0)
        except ValueError:
            return True
    return False


def read_metadata(path: Path, error: type[P2pkitError]) -> dict[str, str]:
    """The metadata of a `.safetensors` file; empty where it has none.

    Raises:
        P2pkitError: as `error`; see `read_weight_file`.
    """
    from safetensors import SafetensorError, safe_open

    check_weight_file(path, error)
    try:
        with utf8_path(path) as readable, safe_open(readable, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as reason:
        raise error(f"{path} is truncated or damaged ({first_line(reason)}); {_ADVICE}") from None
