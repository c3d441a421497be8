"""Complete parameter lists of the published Res16UNets, from a rule written out of public code.

The rule restates `network_initialization` and `_make_layer` of SpatioTemporalSegmentation,
PointContrast (pretrain and downstream) and SLidR, which agree; 1x1x1 kernels are (in, out) in
MinkowskiEngine 0.4 and 0.5 alike. PointContrast's pretraining config has conv1_kernel_size 3 and
32 outputs; SLidR's has kernel_size 3 and 64 outputs, and its code one input channel. A kernel of 5
is p2pkit's default.
"""

import pytest
import torch

from p2pkit.networks import STUDENTS, build_student, load_student_weights
from p2pkit.networks.engines.sparse_engine import ENGINES

Shapes = dict[str, tuple[int, ...]]

PLANES = {
    "": (32, 64, 128, 256, 256, 256, 256, 256),
    "14A": (32, 64, 128, 256, 128, 128, 96, 96),
    "14B": (32, 64, 128, 256, 128, 128, 128, 128),
    "14C": (32, 64, 128, 256, 192, 192, 128, 128),
    "14D": (32, 64, 128, 256, 384, 384, 384, 384),
    "18A": (32, 64, 128, 256, 128, 128, 96, 96),
    "18B": (32, 64, 128, 256, 128, 128, 128, 128),
    "18D": (32, 64, 128, 256, 384, 384, 384, 384),
    "34A": (32, 64, 128, 256, 256, 128, 64, 64),
    "34B": (32, 64, 128, 256, 256, 128, 64, 32),
    "34C": (32, 64, 128, 256, 256, 128, 96, 96),
}
LAYERS = {
    "14": (1, 1, 1, 1, 1, 1, 1, 1),
    "18": (2, 2, 2, 2, 2, 2, 2, 2),
    "34": (2, 3, 4, 6, 2, 2, 2, 2),
    "50": (2, 3, 4, 6, 2, 2, 2, 2),
    "101": (2, 3, 4, 23, 2, 2, 2, 2),
}
STRIDED = ("conv1p1s2", "conv2p2s2", "conv3p4s2", "conv4p8s2")
TRANSPOSED = ("convtr4p16s2", "convtr5p8s2", "convtr6p4s2", "convtr7p2s2")


def norm(name: str, channels: int) -> Shapes:
    fields = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.bn.{field}": (channels,) for field in fields} | {
        f"{name}.bn.num_batches_tracked": ()
    }


def stage(name: str, inputs: int, planes: int, blocks: int, *, bottleneck: bool) -> Shapes:
    expansion = 4 if bottleneck else 1
    width, shapes = planes * expansion, {}
    for index in range(blocks):
        block = f"{name}.{index}"
        if bottleneck:
            kernels = [(inputs, planes), (27, planes, planes), (planes, width)]
        else:
            kernels = [(27, inputs, planes), (27, planes, planes)]
        for number, kernel in enumerate(kernels, start=1):
            shapes[f"{block}.conv{number}.kernel"] = kernel
            shapes |= norm(f"{block}.norm{number}", kernel[-1])
        if inputs != width:
            shapes[f"{block}.downsample.0.kernel"] = (inputs, width)
            shapes |= norm(f"{block}.downsample.1", width)
        inputs = width
    return shapes


def published(name: str, *, inputs: int, outputs: int, kernel: int) -> Shapes:
    """Names and shapes of a network of the reference code, `final` included."""
    short = name.removeprefix("Res16UNet")
    planes, layers = PLANES.get(short, PLANES[""]), LAYERS[short.rstrip("ABCD")]
    bottleneck = short in ("50", "101")
    expansion = 4 if bottleneck else 1
    shapes: Shapes = {"conv0p1s1.kernel": (kernel**3, inputs, 32)} | norm("bn0", 32)
    width = 32
    for level, conv in enumerate(STRIDED):
        shapes[f"{conv}.kernel"] = (8, width, width)
        shapes |= norm(f"bn{level + 1}", width)
        shapes |= stage(
            f"block{level + 1}", width, planes[level], layers[level], bottleneck=bottleneck
        )
        width = planes[level] * expansion
    skips = (planes[2] * expansion, planes[1] * expansion, planes[0] * expansion, 32)
    for level, (conv, skip) in enumerate(zip(TRANSPOSED, skips, strict=True), start=4):
        shapes[f"{conv}.kernel"] = (8, width, planes[level])
        shapes |= norm(f"bntr{level}", planes[level])
        shapes |= stage(
            f"block{level + 1}",
            planes[level] + skip,
            planes[level],
            layers[level],
            bottleneck=bottleneck,
        )
        width = planes[level] * expansion
    return shapes | {"final.kernel": (width, outputs), "final.bias": (1, outputs)}


def shapes_of(student: torch.nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in student.state_dict().items()}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", [name for name in STUDENTS if name.startswith("Res16UNet")])
def test_every_student_has_the_published_names_and_shapes(name: str, engine: str) -> None:
    student = build_student(name, in_channels=3, out_channels=20, engine=engine)
    assert shapes_of(student) == published(name, inputs=3, outputs=20, kernel=5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "container"),
    [(3, 32, 3, "state_dict"), (3, 20, 5, "state_dict"), (1, 64, 3, "model_points")],
    ids=["PointContrast pretraining", "first kernel of 5, 20 classes", "SLidR"],
)
def test_published_res16unet34c_loads_strictly(
    tmp_path, inputs: int, outputs: int, kernel: int, container: str, engine: str
) -> None:
    layout = published("Res16UNet34C", inputs=inputs, outputs=outputs, kernel=kernel)
    weights = {
        name: torch.tensor(7) if shape == () else torch.randn(shape)
        for name, shape in layout.items()
    }
    torch.save({container: weights, "epoch": 1}, tmp_path / "model.pt")
    student = build_student(
        "Res16UNet34C",
        in_channels=inputs,
        out_channels=outputs,
        conv1_kernel_size=kernel,
        engine=engine,
    )
    report = load_student_weights(student, tmp_path / "model.pt", skip=())
    assert report.missing == report.unexpected == ()
    assert sorted(report.loaded) == sorted(layout)
    torch.testing.assert_close(dict(student.state_dict()), weights, rtol=0, atol=0)
