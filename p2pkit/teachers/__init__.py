"""Frozen 2D networks whose features the 3D network learns from."""

from collections.abc import Callable

from p2pkit.errors import ConfigError
from p2pkit.memory import prefer_huge_pages
from p2pkit.settings.layers import TeacherOptions
from p2pkit.teachers.network_teacher import check_teacher_device
from p2pkit.teachers.teacher import Teacher

__all__ = [
    "TEACHERS",
    "Teacher",
    "TeacherOptions",
    "check_teacher_device",
    "kind_and_name",
    "normalisation_note",
    "open_teacher",
]


def _open_timm(options: TeacherOptions, name: str) -> Teacher:
    from p2pkit.teachers.network_teacher import NetworkTeacher
    from p2pkit.teachers.timm_network import build_network

    return NetworkTeacher(name, build_network(options, name), options)


def _open_hf(options: TeacherOptions, name: str) -> Teacher:
    from pathlib import Path

    from p2pkit.teachers.hf_network import build_network
    from p2pkit.teachers.network_teacher import NetworkTeacher

    # A folder is known by its own name: its path may be another one elsewhere.
    shown = f"hf:{Path(name).name if Path(name).is_dir() else name}"
    return NetworkTeacher(shown, build_network(options, name), options)


def _open_torchscript(options: TeacherOptions, name: str) -> Teacher:
    from pathlib import Path

    from p2pkit.teachers.network_teacher import NetworkTeacher
    from p2pkit.teachers.torchscript_network import build_network

    shown = f"torchscript:{Path(name).name}"
    return NetworkTeacher(shown, build_network(options, name), options)


def _open_onnx(options: TeacherOptions, name: str) -> Teacher:
    from pathlib import Path

    from p2pkit.teachers.network_teacher import NetworkTeacher
    from p2pkit.teachers.onnx_network import build_network

    return NetworkTeacher(f"onnx:{Path(name).name}", build_network(options, name), options)


TEACHERS: dict[str, Callable[[TeacherOptions, str], Teacher]] = {
    "timm": _open_timm,
    "hf": _open_hf,
    "torchscript": _open_torchscript,
    "onnx": _open_onnx,
}


def open_teacher(options: TeacherOptions) -> Teacher:
    """Load the network that `options` names, frozen and ready to run.

    Raises:
        ConfigError: the kind of teacher or the device is unknown, or the views make no sense.
        TeacherError: the model or layer does not exist, or the weights do not fit it.
    """
    kind, name = kind_and_name(options.name)
    if kind not in TEACHERS:
        raise ConfigError(
            f"teacher {options.name!r}: no kind {kind!r}; choose one of {', '.join(TEACHERS)}. A "
            "name without a kind is a timm model."
        )
    check_teacher_device(options)
    prefer_huge_pages()
    teacher = TEACHERS[kind](options, name)
    if not options.views:
        return teacher
    from p2pkit.teachers.views import ViewsTeacher

    return ViewsTeacher(teacher, options.views)


def normalisation_note(options: TeacherOptions) -> str:
    """How images are normalised for weights from a file, which does not say it; else empty.

    Raises:
        ConfigError: the name is of no model that can be read.
        TeacherError: timm has no such model.
    """
    kind, name = kind_and_name(options.name)
    if kind != "timm" or not options.has_weights_file:
        return ""
    from p2pkit.teachers.timm_network import normalisation

    return f"{options.weights}: {normalisation(name)}"


def kind_and_name(teacher: str) -> tuple[str, str]:
    """Split `kind:name`; timm's models on the hub are known by timm's spelling of them too."""
    kind, colon, name = teacher.partition(":")
    if not colon:
        kind, name = "timm", teacher
    if kind in ("timm", "hf", "hf_hub", "hf-hub") and name.startswith("timm/"):
        return "timm", name.removeprefix("timm/")
    if kind in ("hf_hub", "hf-hub"):
        raise ConfigError(
            f"teacher {teacher!r}: {kind}: reads only timm's own models from the hub, as "
            f"{kind}:timm/NAME; for a transformers model write hf:{name}"
        )
    return kind, name
