"""Whether a teacher can run where it is asked to, and how torch gets its memory there."""

import os

from p2pkit.errors import ConfigError
from p2pkit.teachers.teacher import TeacherOptions


def check_teacher_device(options: TeacherOptions) -> None:
    """Raise ConfigError where torch cannot compute on a teacher's device.

    ONNX files run without torch and are not looked at: their runtime tells its own devices.
    """
    if options.name.startswith("onnx:"):
        return
    import torch

    try:
        torch.empty(0, device=options.device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"device {options.device!r} cannot be used: {reason}. Use --device cpu, or see "
            "`p2pkit doctor`"
        ) from None


def prefer_huge_pages() -> None:
    """Have torch ask the kernel for huge pages, unless the environment already decides that.

    A network's activations are mapped anew for each image, hundreds of megabytes for a large one.
    In pages of 4 KiB the kernel then works as long as the network; in pages of 2 MiB it does not,
    and the maps are the same to the bit. Torch looks at the variable when it first takes memory and
    never again; where there are no such pages it changes nothing.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
