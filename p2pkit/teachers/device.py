"""Whether a teacher can run where it is asked to."""

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
