"""What published files call a student's tensors, and how their input layer is fitted to a student.

Files of training programs hold the student under a prefix (`student.` of p2pkit and Sonata,
`backbone.` of Pointcept) beside heads and other networks.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from p2pkit.networks.ptv3 import PTv3
from p2pkit.networks.res16unet import Res16UNet
from p2pkit.networks.spunet import SpUNet, from_pointcept
from p2pkit.networks.waffleiron import WaffleIron
from p2pkit.settings.students import InputLayer

HEADS = ("final.", "classif.", "seg_head.", "cls_head.")
"""Last layers, whose width belongs to the task that they were trained for."""
PREFIXES = ("student.", "backbone.")

INPUT_LAYERS: dict[type[nn.Module], dict[str, int]] = {
    Res16UNet: {"conv0p1s1.kernel": -2},
    SpUNet: {"conv_input.0.kernel": -2},
    PTv3: {"embedding.stem.linear.weight": 1},
    WaffleIron: {"embed.conv1.weight": 1, "embed.conv2.1.weight": 1},
}
"""Weights that the inputs meet first, with the axis of the input channels."""
FIRST_KERNELS = ("conv0p1s1.kernel", "conv_input.0.kernel")
"""Of them, those whose size is the setting `conv1_kernel_size`."""
INPUT_NORMS = ("embed.norm.", "embed.conv2.0.")
"""WaffleIron's norms of the inputs themselves: each channel's belong to it alone."""


def student_names(
    student: nn.Module, weights: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """A file's tensors under the student's names and layouts, and the names of other networks.

    Args:
        student: decides the layout.
        weights: of a file, or of one network in it.
    """
    found, others = dict(weights), tuple[str, ...]()
    for prefix in PREFIXES:
        inside = {name for name in found if name.startswith(prefix)}
        if inside:
            others += tuple(found.keys() - inside)
            found = {name.removeprefix(prefix): found[name] for name in inside}
    if isinstance(student, SpUNet) and any(value.ndim == 5 for value in found.values()):
        heads = {name for name in found if name.startswith(HEADS) and name[:6] != "final."}
        others += tuple(heads)
        found = from_pointcept({name: found[name] for name in found.keys() - heads})
    return found, others


def input_layer_of(student: nn.Module) -> dict[str, int]:
    """The student's row of `INPUT_LAYERS`; empty for other networks."""
    return next((row for kind, row in INPUT_LAYERS.items() if isinstance(student, kind)), {})


def differs_in_inputs_alone(own: Tensor, given: Tensor, axis: int) -> bool:
    """Whether the number of input channels, along `axis`, is all that two shapes differ in."""
    one, other = list(own.shape), list(given.shape)
    if len(one) != len(other) or one[axis] == other[axis]:
        return False
    one[axis] = other[axis]
    return one == other


def fitted_inputs(
    student: nn.Module, weights: Mapping[str, Tensor], how: InputLayer
) -> tuple[dict[str, Tensor], frozenset[str]]:
    """Weights whose input layer takes the student's channels, and the names to leave as they are.

    Args:
        student: with its initial weights.
        weights: under the student's names.
        how: `exact` changes nothing; where the number of channels differs, and nothing more,
            `average` gives each of the student's channels the mean over the file's, times file /
            student, so that inputs of one value lead to the same output; `random` leaves the layer
            as it is.
    """
    own, found, left = student.state_dict(), dict(weights), set[str]()
    for name, axis in input_layer_of(student).items():
        if how == "exact" or name not in found:
            continue
        given, channels = found[name], own[name].shape[axis]
        if not differs_in_inputs_alone(own[name], given, axis):
            continue
        left |= {other for other in own if other.startswith(INPUT_NORMS)}
        if how == "random":
            left.add(name)
        else:
            shape = list(given.shape)
            shape[axis] = channels
            mean = given.mean(dim=axis, keepdim=True) * (given.shape[axis] / channels)
            found[name] = mean.expand(shape).contiguous()
    return found, frozenset(left)
