"""A second device for tests on machines without a GPU: torch's `meta`, backed by CPU memory.

Within `second_device()` tensors on `meta` are computed by the CPU; but, as with CUDA, an operator
that mixes them with CPU tensors raises, and so does handing one to numpy. So a forgotten
`.to(device)` fails here, too. It says nothing of a GPU's own kernels, memory or speed.
"""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "meta"
aten = torch.ops.aten
# As on CUDA: copies cross devices, and indexes may lie on the CPU.
CROSS = {aten._to_copy.default, aten.copy_.default, aten._copy_from.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}


class _There(Tensor):
    """A tensor on the second device; `held` is its memory."""

    held: Tensor

    @staticmethod
    def __new__(cls: type["_There"], held: Tensor) -> "_There":
        there = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME),
        )
        there.held = held
        return there

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _computed(func, args, kwargs or {})

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Files hold values, to be put anywhere when they are read."""
        return self.held.__reduce_ex__(protocol)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"second device: {self.held!r}"


class _Mode(TorchDispatchMode):
    """Sees every operator of its thread, also those that make tensors."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _computed(func, args, kwargs or {})


class _FromData(TorchFunctionMode):
    """Tensors of Python data: torch would make them on the real `meta`, without their values."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.new_tensor:
            func, args, kwargs = (
                torch.tensor,
                args[1:],
                {"dtype": args[0].dtype, "device": args[0].device, **kwargs},
            )
        if func in (torch.tensor, torch.as_tensor) and _is_there(kwargs.get("device")):
            return func(*args, **{**kwargs, "device": "cpu"}).to(NAME)
        return func(*args, **kwargs)


def _is_there(device: str | torch.device | None) -> bool:
    return device is not None and torch.device(device).type == NAME


@contextmanager
def second_device() -> Generator[str]:
    """Makes `meta` a device that computes, in this thread and in those that start within; its name.

    Autocast, which has no settings for it, takes the CPU's; inference mode, which tensors of such a
    class do not bear, is `no_grad`.
    """
    run = threading.Thread.run

    def run_there(thread: threading.Thread) -> None:
        with _Mode(), _FromData():
            run(thread)

    def on_cpu(asked: Callable[..., Any]) -> Callable[..., Any]:
        def ask(kind: str, **options: Any) -> Any:
            return asked("cpu" if kind == NAME else kind, **options)

        return ask

    with (
        _Mode(),
        _FromData(),
        patch.object(threading.Thread, "run", run_there),
        patch.object(torch, "autocast", on_cpu(torch.autocast)),
        patch.object(torch, "is_autocast_enabled", on_cpu(torch.is_autocast_enabled)),
        patch.object(torch, "get_autocast_dtype", on_cpu(torch.get_autocast_dtype)),
        patch.object(torch, "inference_mode", torch.no_grad),
    ):
        yield NAME


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    leaves = tree_leaves((args, kwargs))
    wanted = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, _There)]
    if there and func not in CROSS:
        _refuse_mixed(func, args, tensors)
    wrapped: dict[int, _There] = {id(tensor.held): tensor for tensor in there}
    args, kwargs = tree_map(_held, (args, kwargs))
    result = func(*args, **kwargs)
    goes_there = bool(there) if wanted is None else _is_there(wanted)
    if func in CROSS and wanted is None:
        goes_there = id(args[0]) in wrapped
    if not goes_there:
        return result
    return tree_map(lambda leaf: _wrap(leaf, wrapped), result)


def _held(leaf: Any) -> Any:
    """What stands for an argument on the CPU."""
    if isinstance(leaf, torch.device):
        return torch.device("cpu")
    return leaf.held if isinstance(leaf, _There) else leaf


def _wrap(leaf: Any, known: dict[int, _There]) -> Any:
    """A result on the second device; an operator in place gives its own argument back."""
    if not isinstance(leaf, Tensor):
        return leaf
    return known[id(leaf)] if id(leaf) in known else _There(leaf)


def _refuse_mixed(func: Any, args: Any, tensors: list[Tensor]) -> None:
    """Raise as CUDA does; numbers wrapped in tensors of no dimension may lie anywhere."""
    if func in INDEXING:
        tensors = [leaf for leaf in (args[0], *args[2:]) if isinstance(leaf, Tensor)]
    alien = [one for one in tensors if not isinstance(one, _There) and one.dim() > 0]
    if alien and any(isinstance(one, _There) for one in tensors):
        raise RuntimeError(
            f"Expected all tensors on the same device: {func} got {list(alien[0].shape)} on cpu"
        )
