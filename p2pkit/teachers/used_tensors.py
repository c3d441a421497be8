"""Which tensors of a network its map depends on.

A network may hold more: poolers, mask tokens, heads, stages behind the chosen one. What they hold
decides no byte of a map, so they are neither required nor part of a layer's identity.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def used_tensors(layer: nn.Module, size: tuple[int, int]) -> set[str]:
    """Names in `layer.state_dict()` that the map depends on.

    A pass without values (on torch's meta device, else with the real ones) leaves the graph that
    gradients would take; what it does not reach cannot change the map. Buffers are used where the
    module that holds them is.

    Args:
        layer: gives one map of NCHW images.
        size: (width, height) of an input that it takes (px).

    Returns:
        All names where neither pass can be made; the error then comes from the first real image.
    """
    for device in ("meta", "cpu"):
        try:
            names = _reached(layer, size, device)
        except Exception:
            # Whatever a network's code raises where values are missing.
            continue
        if names:
            return names
    return set(layer.state_dict())


def _reached(layer: nn.Module, size: tuple[int, int], device: str) -> set[str]:
    parameters = dict(layer.named_parameters(remove_duplicate=False))
    twins = {
        id(value): value.detach().to(device).requires_grad_(value.is_floating_point())
        for value in parameters.values()
    }
    stand_ins = {name: twins[id(value)] for name, value in parameters.items()}
    buffers = {name: value.to(device) for name, value in layer.named_buffers()}
    called: set[str] = set()
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: called.add(name))
        for name, module in layer.named_modules()
    ]
    try:
        image = torch.zeros(1, 3, size[1], size[0], device=device)
        with torch.enable_grad():
            answer = torch.func.functional_call(layer, {**stand_ins, **buffers}, (image,))
    finally:
        for hook in hooks:
            hook.remove()
    leaves = _leaves(answer)
    used = {name for name, value in stand_ins.items() if id(value) in leaves}
    return used | set(_buffers_of(layer, called, used)) if used else set()


def _leaves(answer: Tensor) -> set[int]:
    """Ids of the tensors that a result was computed from."""
    waiting, seen, leaves = [answer.grad_fn], set(), set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            leaves.add(id(leaf))
        waiting += [parent for parent, _ in node.next_functions]
    return leaves


def _buffers_of(layer: nn.Module, called: set[str], used: set[str]) -> Iterable[str]:
    """Saved buffers of the modules that ran, where their parameters, if any, were used."""
    saved = layer.state_dict().keys()
    for name, module in layer.named_modules():
        dotted = f"{name}." if name else ""
        own = [f"{dotted}{key}" for key, _ in module.named_parameters(recurse=False)]
        if name in called and (not own or used.intersection(own)):
            for key, _ in module.named_buffers(recurse=False):
                if f"{dotted}{key}" in saved:
                    yield f"{dotted}{key}"
