"""The 3D networks that are pretrained, on either of two engines for sparse convolutions."""

from p2pkit.networks.engines.sparse_engine import AUTO, ENGINES, EngineChoice, choose_engine
from p2pkit.networks.pretrained import (
    LoadReport,
    PretrainedStudent,
    load_pretrained,
    load_student_weights,
)
from p2pkit.networks.res16unet import Res16UNet
from p2pkit.networks.students import STUDENTS, Student, build_student, prepared_for

__all__ = [
    "AUTO",
    "ENGINES",
    "STUDENTS",
    "EngineChoice",
    "LoadReport",
    "PretrainedStudent",
    "Res16UNet",
    "Student",
    "build_student",
    "choose_engine",
    "load_pretrained",
    "load_student_weights",
    "prepared_for",
]
