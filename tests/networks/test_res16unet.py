import pytest
import torch
from repeated_training import two_trainings

from p2pkit.errors import ConfigError, GeometryError
from p2pkit.networks import STUDENTS, build_student

# Names, shapes and count as printed by the reference implementation of Res16UNet34C.
PUBLISHED_34C = {
    "conv0p1s1.kernel": (125, 3, 32),
    "bn0.bn.weight": (32,),
    "bn0.bn.running_var": (32,),
    "conv1p1s2.kernel": (8, 32, 32),
    "block1.0.conv1.kernel": (27, 32, 32),
    "block1.1.norm2.bn.bias": (32,),
    "conv2p2s2.kernel": (8, 32, 32),
    "block2.0.conv1.kernel": (27, 32, 64),
    "block2.0.downsample.0.kernel": (32, 64),
    "block2.0.downsample.1.bn.weight": (64,),
    "block2.2.conv2.kernel": (27, 64, 64),
    "conv3p4s2.kernel": (8, 64, 64),
    "block3.3.conv1.kernel": (27, 128, 128),
    "conv4p8s2.kernel": (8, 128, 128),
    "block4.5.norm1.bn.running_mean": (256,),
    "convtr4p16s2.kernel": (8, 256, 256),
    "bntr4.bn.weight": (256,),
    "block5.0.conv1.kernel": (27, 384, 256),
    "block5.0.downsample.0.kernel": (384, 256),
    "convtr5p8s2.kernel": (8, 256, 128),
    "block6.0.conv1.kernel": (27, 192, 128),
    "convtr6p4s2.kernel": (8, 128, 96),
    "block7.0.conv1.kernel": (27, 128, 96),
    "convtr7p2s2.kernel": (8, 96, 96),
    "bntr7.bn.weight": (96,),
    "block8.0.conv1.kernel": (27, 128, 96),
    "block8.1.conv2.kernel": (27, 96, 96),
    "final.kernel": (96, 20),
    "final.bias": (1, 20),
}


def voxels(count: int = 400, channels: int = 3, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(2 * 16**3, generator=generator)[:count]
    parts = (cells // 16**3, cells // 256 % 16 - 8, cells // 16 % 16, cells % 16 + 5)
    coordinates = torch.stack(parts, dim=1).int()
    return coordinates, torch.randn(count, channels, generator=generator)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return build_student("Res16UNet14A", in_channels=3, conv1_kernel_size=3)


def published_names(layers: tuple[int, ...], widened: set[int]) -> set[str]:
    norm = [f"bn.{x}" for x in ("weight", "bias", "running_mean", "running_var")]
    norm.append("bn.num_batches_tracked")
    convs = ["conv0p1s1", "conv1p1s2", "conv2p2s2", "conv3p4s2", "conv4p8s2"]
    convs += ["convtr4p16s2", "convtr5p8s2", "convtr6p4s2", "convtr7p2s2"]
    norms = [f"bn{i}" for i in range(5)] + [f"bntr{i}" for i in range(4, 8)]
    for stage, blocks in enumerate(layers, start=1):
        for block in range(blocks):
            name = f"block{stage}.{block}"
            convs += [f"{name}.conv1", f"{name}.conv2"]
            norms += [f"{name}.norm1", f"{name}.norm2"]
            if block == 0 and stage in widened:
                convs.append(f"{name}.downsample.0")
                norms.append(f"{name}.downsample.1")
    names = {f"{conv}.kernel" for conv in convs}
    return names | {f"{name}.{field}" for name in norms for field in norm}


def test_parameters_are_those_of_the_published_res16unet34c():
    state = build_student("Res16UNet34C", in_channels=3, out_channels=20).state_dict()
    names = published_names((2, 3, 4, 6, 2, 2, 2, 2), widened={2, 3, 4, 5, 6, 7, 8})
    assert set(state) == names | {"final.kernel", "final.bias"}
    assert len(state) == 9 + 9 * 5 + 23 * 12 + 7 * 6 + 2
    assert {name: tuple(state[name].shape) for name in PUBLISHED_34C} == PUBLISHED_34C
    # 37.9 million parameters, as published.
    trained = sum(v.numel() for k, v in state.items() if "running" not in k and "num_" not in k)
    assert round(trained / 1e5) == 379


@pytest.mark.parametrize(("name", "width"), [("Res16UNet14A", 96), ("Res16UNet18A", 96)])
def test_the_width_that_a_head_needs_is_the_width_that_comes_out(name, width):
    student = build_student(name, in_channels=3, conv1_kernel_size=3)
    assert student.out_channels == width
    assert student(*voxels()).shape == (400, width)


def test_final_layer_gives_the_asked_width():
    student = build_student("Res16UNet14A", in_channels=3, out_channels=7, conv1_kernel_size=3)
    assert student.out_channels == 7
    assert student(*voxels()).shape == (400, 7)


def test_every_student_is_built_with_the_width_it_declares():
    for name in (name for name in STUDENTS if name.startswith("Res16UNet")):
        student = build_student(name, in_channels=1, conv1_kernel_size=1)
        last = list(student.get_submodule("block8").children())[-1]
        norms = [norm for norm in last.modules() if isinstance(norm, torch.nn.BatchNorm1d)]
        assert norms[-1].num_features == student.out_channels, name
        assert "final.kernel" not in student.state_dict()


def test_rows_stay_aligned_when_the_input_is_shuffled(small):
    coordinates, features = voxels()
    small.eval()
    order = torch.randperm(len(coordinates), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        straight = small(coordinates, features)
        shuffled = small(coordinates[order], features[order])
    assert straight.std() > 1e-3
    torch.testing.assert_close(shuffled, straight[order], rtol=1e-4, atol=1e-5)


def test_column_major_coordinates_give_the_same_as_contiguous_ones(small):
    coordinates, features = voxels()
    small.eval()
    with torch.no_grad():
        expected = small(coordinates, features)
        strided = small(coordinates.T.contiguous().T, features)
    torch.testing.assert_close(strided, expected, rtol=1e-4, atol=1e-5)


def test_samples_of_a_batch_do_not_see_each_other(small):
    coordinates, features = voxels()
    small.eval()
    alone = coordinates[:, 0] == 1
    with torch.no_grad():
        together = small(coordinates, features)[alone]
        separate = small(coordinates[alone], features[alone])
    torch.testing.assert_close(together, separate, rtol=1e-4, atol=1e-5)


def test_shifting_by_the_coarsest_stride_changes_nothing(small):
    coordinates, features = voxels()
    small.eval()
    shift = torch.tensor([0, 16, -32, 48], dtype=torch.int32)
    with torch.no_grad():
        shifted = small(coordinates + shift, features)
        torch.testing.assert_close(shifted, small(coordinates, features), rtol=1e-4, atol=1e-5)


def test_all_parameters_get_finite_gradients(small):
    small.train()
    small.zero_grad()
    small(*voxels()).square().mean().backward()
    for name, parameter in small.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert any(parameter.grad.abs().max() > 0 for parameter in small.parameters())


def test_directional_derivative_matches_finite_differences(small):
    """Float64, with running statistics and a smooth neighbourhood of a random input."""
    student = build_student("Res16UNet14A", in_channels=3, conv1_kernel_size=3).double().eval()
    coordinates, features = voxels(120)
    features = features.double().requires_grad_()
    direction = torch.randn(features.shape, dtype=torch.float64)
    student(coordinates, features).square().mean().backward()
    with torch.no_grad():
        ahead, behind = (
            student(coordinates, features + sign * 1e-7 * direction).square().mean()
            for sign in (1, -1)
        )
    expected = float((features.grad * direction).sum())
    assert float(ahead - behind) / 2e-7 == pytest.approx(expected, rel=1e-4)


def test_momentum_reaches_every_norm():
    student = build_student("Res16UNet14A", in_channels=3, conv1_kernel_size=1, bn_momentum=0.02)
    momenta = {m.momentum for m in student.modules() if isinstance(m, torch.nn.BatchNorm1d)}
    assert momenta == {0.02}


def test_a_voxel_given_twice_is_refused(small):
    coordinates, features = voxels()
    coordinates[7] = coordinates[3]
    with pytest.raises(GeometryError, match="1 of 400 voxels repeat"):
        small(coordinates, features)


def test_no_voxels_are_refused(small):
    with pytest.raises(GeometryError, match="no voxels"):
        small(torch.zeros(0, 4, dtype=torch.int32), torch.zeros(0, 3))


def test_wrong_settings_are_named():
    with pytest.raises(ConfigError, match=r"'resnet'.*; choose one of .*Res16UNet34C"):
        build_student("resnet", in_channels=3)
    with pytest.raises(ConfigError, match="conv1_kernel_size is 4"):
        build_student("Res16UNet14A", in_channels=3, conv1_kernel_size=4)


@pytest.mark.slow
@pytest.mark.minkowski
def test_two_trainings_with_one_thread_are_bit_identical():
    runs = two_trainings("minkowski")
    assert runs[0] == runs[1]
    assert len(runs[0].strip()) == 64
