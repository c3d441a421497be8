"""The engine in plain torch equals MinkowskiEngine, and needs none of it."""

import subprocess
import sys

import pytest
import torch
from repeated_training import two_trainings

from p2pkit.errors import ConfigError, GeometryError
from p2pkit.networks import STUDENTS, build_student, load_student_weights
from p2pkit.networks.engines.minkowski_engine import minkowski_engine
from p2pkit.networks.engines.sparse_engine import ENGINES
from p2pkit.networks.engines.torch_engine import Convolution, SparseVoxels, TorchEngine, Upsampling
from p2pkit.networks.engines.voxel_maps import VoxelMaps


def scattered(count: int = 900, *, seed: int = 0, batch: int = 3, span: int = 14):
    """Shuffled voxels around the origin, in several samples, and three channels."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randint(-span, span, (count, 4), generator=generator)
    cells[:, 0] %= batch
    cells = cells.unique(dim=0)
    cells = cells[torch.randperm(len(cells), generator=generator)].int()
    return cells, torch.randn(len(cells), 3, generator=generator)


def both(name: str, *, out_channels: int | None = None, kernel: int = 3):
    students = []
    for engine in ENGINES:
        torch.manual_seed(0)
        students.append(
            build_student(
                name,
                in_channels=3,
                out_channels=out_channels,
                conv1_kernel_size=kernel,
                engine=engine,
            )
        )
    return students


SMALL = ("Res16UNet14A", "Res16UNet18B")


@pytest.mark.minkowski
@pytest.mark.parametrize("name", ["Res16UNet14A", "Res16UNet34C", "Res16UNet50"])
def test_initial_weights_are_the_same_numbers(name: str) -> None:
    theirs, ours = (student.state_dict() for student in both(name, out_channels=4))
    assert list(ours) == list(theirs)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.minkowski
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in SMALL else pytest.mark.slow)
        for name in STUDENTS
        if "UNet" in name
    ],
)
def test_all_students_give_equal_outputs_and_gradients(name: str) -> None:
    """Float64, in which a wrong neighbour cannot hide behind rounding."""
    coordinates, features = scattered(250, span=6)
    found = []
    for student in both(name):
        student.double()
        inputs = features.double().requires_grad_()
        output = student(coordinates, inputs)
        output.square().mean().backward()
        gradients = {key: value.grad for key, value in student.named_parameters()}
        found.append((output.detach(), inputs.grad, gradients, dict(student.named_buffers())))
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-10)


@pytest.mark.minkowski
@pytest.mark.parametrize("seed", range(3))
def test_float32_agrees_to_a_hundred_thousandth(seed: int) -> None:
    coordinates, features = scattered(3000, seed=seed, span=25)
    theirs, ours = (
        student.eval()(coordinates, features) for student in both("Res16UNet34C", kernel=5)
    )
    scale = theirs.abs().max()
    torch.testing.assert_close(ours / scale, theirs / scale, rtol=0, atol=1e-5)


@pytest.mark.minkowski
@pytest.mark.parametrize("shift", [0, -1, -7, 15, 100_000])
def test_one_voxel_and_a_line_of_voxels(shift: int) -> None:
    line = torch.zeros(20, 4, dtype=torch.int32)
    line[:, 2] = torch.arange(20) + shift
    for coordinates in (line[:1], line):
        features = torch.linspace(-1, 1, 3 * len(coordinates)).view(-1, 3)
        theirs, ours = (
            student.eval()(coordinates, features) for student in both("Res16UNet14A", kernel=5)
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.minkowski
@pytest.mark.parametrize(("kernel", "stride"), [(2, 1), (2, 2), (3, 1), (3, 2), (4, 2), (5, 1)])
def test_one_layer_equals_minkowski_engines(kernel: int, stride: int) -> None:
    coordinates, features = scattered()
    engine = minkowski_engine()
    theirs = engine.MinkowskiConvolution(
        3, 5, kernel_size=kernel, stride=stride, bias=True, dimension=3
    )
    ours = Convolution(3, 5, kernel_size=kernel, stride=stride, bias=True)
    ours.load_state_dict(theirs.state_dict())
    expected = theirs(engine.SparseTensor(features, coordinates))
    found = ours(TorchEngine().sparse_tensor(coordinates, features))
    order = torch.argsort(VoxelMaps(expected.C).order)
    torch.testing.assert_close(found.rows[order], expected.F, rtol=1e-4, atol=1e-5)


def test_upsampling_comes_back_to_the_same_voxels() -> None:
    coordinates, features = scattered()
    engine = TorchEngine()
    source = engine.sparse_tensor(coordinates, features)
    coarse = engine.convolution(3, 4, kernel_size=2, stride=2)(source)
    assert coarse.stride == 2
    assert len(coarse.rows) < len(source.rows)
    fine = Upsampling(4, 6)(coarse)
    assert fine.stride == 1
    assert engine.rows(fine).shape == (len(coordinates), 6)


def test_gradients_are_those_of_finite_differences() -> None:
    coordinates, features = scattered(60, span=3)
    maps = VoxelMaps(coordinates)
    down = Convolution(3, 2, kernel_size=2, stride=2, bias=False).double()
    same = Convolution(2, 2, kernel_size=3, stride=1, bias=True).double()
    up = Upsampling(2, 2).double()

    def run(rows: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        del weights
        return up(same(down(SparseVoxels(rows, 1, maps)))).rows

    inputs = (features.double().requires_grad_(), down.kernel, same.kernel, up.kernel)
    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.minkowski
def test_checkpoints_load_in_the_other_engine(tmp_path) -> None:
    theirs, ours = both("Res16UNet18A")
    with torch.no_grad():
        for value in theirs.parameters():
            value.add_(torch.randn_like(value))
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    report = load_student_weights(ours, tmp_path / "weights.pth")
    assert report.missing == report.unexpected == ()
    coordinates, features = scattered()
    outputs = [
        student.eval().double()(coordinates, features.double()) for student in (theirs, ours)
    ]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-9, atol=1e-9)


@pytest.mark.minkowski
def test_minkowski_engine_stays_in_float32_under_autocast() -> None:
    coordinates, features = scattered(300)
    student = build_student("Res16UNet14A", in_channels=3, engine="minkowski").eval()
    expected = student(coordinates, features)
    with torch.autocast("cpu", torch.bfloat16):
        found = student(coordinates, features)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["Res16UNet14A", "SpUNet"])
def test_half_precision_is_within_a_hundredth_of_float32(name: str, half: torch.dtype) -> None:
    coordinates, features = scattered(600, span=8)
    torch.manual_seed(0)
    student = build_student(name, in_channels=3, engine="torch").eval()
    expected = student(coordinates, features)
    with torch.autocast("cpu", half):
        found = student(coordinates, features)
    assert found.dtype == half
    assert (found.float() - expected).abs().max() < 1e-2 * expected.abs().max()


def test_half_precision_adds_up_and_stores_gradients_in_float32() -> None:
    """The same products of rounded factors, added in float64, are as near as rounding once."""
    coordinates, features = scattered(600, span=5)
    torch.manual_seed(0)
    layer = Convolution(3, 4, kernel_size=3, stride=1, bias=False)
    maps = VoxelMaps(coordinates)
    rows = features[maps.order]
    output = layer(SparseVoxels(rows.bfloat16(), 1, maps)).rows
    assert output.dtype == torch.bfloat16
    output.float().square().sum().backward()
    assert layer.kernel.grad is not None
    assert layer.kernel.grad.dtype == torch.float32
    double = Convolution(3, 4, kernel_size=3, stride=1, bias=False).double()
    double.kernel.data = layer.kernel.data.bfloat16().double()
    exact = double(SparseVoxels(rows.bfloat16().double(), 1, maps)).rows
    assert (output.double() - exact).abs().max() < 2**-7 * exact.abs().max()
    exact.square().sum().backward()
    assert double.kernel.grad is not None
    largest = double.kernel.grad.abs().max()
    assert (layer.kernel.grad - double.kernel.grad).abs().max() < 2e-2 * largest


def test_half_precision_keeps_features_in_half_the_memory() -> None:
    """What a layer keeps for its gradient: tensors of half precision, but for the kernel."""
    kept: dict[torch.dtype, int] = {}
    coordinates, features = scattered(600, span=8)
    student = build_student("Res16UNet14A", in_channels=3, engine="torch")
    own = {value.data_ptr() for value in student.parameters()}

    def keep(value: torch.Tensor) -> torch.Tensor:
        if value.data_ptr() not in own and value.is_floating_point():
            kept[value.dtype] = kept.get(value.dtype, 0) + value.nbytes
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        with torch.autocast("cpu", torch.bfloat16):
            student(coordinates, features)
        halved = kept.copy()
        kept.clear()
        student(coordinates, features)
    assert sum(halved.values()) < 0.65 * sum(kept.values())


def test_bad_voxels_and_names_are_refused() -> None:
    student = build_student("Res16UNet14A", in_channels=3, conv1_kernel_size=3, engine="torch")
    coordinates, features = scattered()
    with pytest.raises(GeometryError, match="no voxels"):
        student(coordinates[:0], features[:0])
    coordinates[5] = coordinates[9]
    with pytest.raises(GeometryError, match=f"1 of {len(coordinates)} voxels repeat"):
        student(coordinates, features)
    coordinates[:2, 1:] = torch.tensor([-(2**30), 2**30], dtype=torch.int32)[:, None]
    with pytest.raises(GeometryError, match=r"more than 2\^63 cells"):
        student(coordinates, features)
    with pytest.raises(ConfigError, match="'spconv'; choose one of auto, minkowski, torch"):
        build_student("Res16UNet14A", in_channels=3, engine="spconv")


@pytest.mark.slow
def test_training_needs_no_minkowski_engine_and_repeats_to_the_bit() -> None:
    runs = two_trainings("torch", 'import sys; sys.modules["MinkowskiEngine"] = None')
    assert runs[0] == runs[1]
    assert len(runs[0].strip()) == 64


def test_without_minkowski_engine_the_error_names_the_other_engine() -> None:
    code = (
        "import sys; sys.modules['MinkowskiEngine'] = None\n"
        "from p2pkit.networks import build_student\n"
        "build_student('Res16UNet14A', in_channels=3, engine='minkowski')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "--set engine=torch" in done.stderr
