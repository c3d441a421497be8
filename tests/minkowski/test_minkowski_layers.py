"""MinkowskiEngine's layers against dense torch, forward and gradient."""

import pytest
import torch
from torch.nn import functional

from p2pkit.minkowski.self_check import (
    BATCH,
    SIZE,
    batch_norm_error,
    coarser,
    convolution_error,
    gather,
    largest_difference,
    random_voxels,
    to_dense,
    transpose_error,
)
from p2pkit.networks.engines.minkowski_engine import minkowski_engine

pytestmark = pytest.mark.minkowski

DTYPES = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-4)]
)


@DTYPES
@pytest.mark.parametrize(
    ("kernel_size", "stride"), [(1, 1), (2, 2), (3, 1), (3, 2), (3, 3), (5, 1)]
)
def test_convolution_equals_dense(
    kernel_size: int, stride: int, dtype: torch.dtype, tolerance: float
) -> None:
    assert convolution_error(kernel_size, stride, dtype=dtype) <= tolerance


def test_dilated_convolution_equals_dense() -> None:
    assert convolution_error(3, 1, dtype=torch.float64, dilation=2) <= 1e-10


@DTYPES
@pytest.mark.parametrize("kernel_size", [2, 3])
def test_transposed_convolution_equals_dense(
    kernel_size: int, dtype: torch.dtype, tolerance: float
) -> None:
    assert transpose_error(kernel_size, dtype=dtype) <= tolerance


@DTYPES
def test_batch_norm_and_relu_equal_dense(dtype: torch.dtype, tolerance: float) -> None:
    assert batch_norm_error(dtype=dtype) <= tolerance


def test_a_wrong_layer_is_noticed() -> None:
    """The comparison that the tests above rest on sees one wrong gradient entry."""
    rows = torch.ones(3, 2, dtype=torch.float64)
    right, wrong = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    factor = torch.ones_like(rows)
    factor[1, 0] += 1e-6
    error = largest_difference(
        right * 1.0, wrong * factor, sparse_inputs=(right,), dense_inputs=(wrong,)
    )
    assert 1e-7 < error < 1e-5


@pytest.mark.parametrize("kind", ["Sum", "Avg", "Max"])
def test_pooling_equals_dense(kind: str) -> None:
    engine = minkowski_engine()
    voxels = random_voxels(4, dtype=torch.float64)
    sparse_input = voxels.features.clone().requires_grad_()
    pool = getattr(engine, f"Minkowski{kind}Pooling")(kernel_size=2, stride=2, dimension=3)
    output = pool(engine.SparseTensor(sparse_input, voxels.coordinates))
    dense_input = voxels.features.clone().requires_grad_()
    cube = to_dense(voxels.coordinates, dense_input)
    occupied = to_dense(voxels.coordinates, torch.ones_like(dense_input))
    total, count = (8 * functional.avg_pool3d(values, 2) for values in (cube, occupied))
    dense = {
        "Sum": total,
        "Avg": total / count.clamp(min=1),
        "Max": functional.max_pool3d(cube.masked_fill(occupied == 0, -1e9), 2),
    }[kind]
    error = largest_difference(
        output.F,
        gather(dense, coarser(output.C, 2)),
        sparse_inputs=(sparse_input,),
        dense_inputs=(dense_input,),
    )
    assert error <= 1e-10


def test_concatenation_keeps_rows() -> None:
    engine = minkowski_engine()
    voxels = random_voxels(3, dtype=torch.float64)
    first = engine.SparseTensor(voxels.features, voxels.coordinates)
    second = engine.SparseTensor(
        2 * voxels.features,
        coordinate_map_key=first.coordinate_map_key,
        coordinate_manager=first.coordinate_manager,
    )
    assert torch.equal(
        engine.cat(first, second).F, torch.cat([voxels.features, 2 * voxels.features], 1)
    )
    assert torch.equal((first + second).F, voxels.features + 2 * voxels.features)


def test_sum_over_different_voxels_is_the_union() -> None:
    engine = minkowski_engine()
    left, right = (random_voxels(3, dtype=torch.float64, seed=seed) for seed in (0, 1))
    first = engine.SparseTensor(left.features, left.coordinates)
    second = engine.SparseTensor(
        right.features, right.coordinates, coordinate_manager=first.coordinate_manager
    )
    total = first + second
    dense = to_dense(left.coordinates, left.features) + to_dense(right.coordinates, right.features)
    torch.testing.assert_close(total.F, gather(dense, total.C), rtol=0, atol=1e-12)
    union = torch.cat([left.coordinates, right.coordinates]).unique(dim=0)
    assert torch.equal(total.C.unique(dim=0), union)


def test_dense_is_the_inverse_of_gather() -> None:
    engine = minkowski_engine()
    voxels = random_voxels(3, dtype=torch.float64)
    cube = to_dense(voxels.coordinates, voxels.features)
    assert torch.equal(gather(cube, voxels.coordinates), voxels.features)
    sparse = engine.SparseTensor(voxels.features, voxels.coordinates)
    theirs, _, _ = sparse.dense(
        shape=torch.Size([BATCH, 3, SIZE, SIZE, SIZE]), min_coordinate=torch.IntTensor([0, 0, 0])
    )
    assert torch.equal(theirs, cube)


def test_state_dict_round_trip_gives_equal_output() -> None:
    engine = minkowski_engine()
    voxels = random_voxels(3, dtype=torch.float64)
    layers = [
        engine.MinkowskiConvolution(3, 4, kernel_size=3, dimension=3).double() for _ in range(2)
    ]
    outputs = [
        layer(engine.SparseTensor(voxels.features, voxels.coordinates)).F for layer in layers
    ]
    assert not torch.equal(*outputs)
    layers[1].load_state_dict(layers[0].state_dict())
    again = layers[1](engine.SparseTensor(voxels.features, voxels.coordinates)).F
    torch.testing.assert_close(again, outputs[0], rtol=0, atol=1e-12)
