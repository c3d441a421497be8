"""WaffleIron equals the published network: a reference output, cells, neighbours, names, shapes."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from p2pkit.errors import ConfigError, GeometryError, TrainingError
from p2pkit.geometry.students.planes import PlanePreparation, nearest_points, plane_cells
from p2pkit.geometry.students.preparation import prepared_batch
from p2pkit.networks import STUDENTS, build_student, load_student_weights
from p2pkit.networks.waffleiron import WaffleIron
from p2pkit.settings import config_from_json
from p2pkit.settings.students import SCENES, WaffleIronConfig

TINY = WaffleIronConfig(fov=(-1.0, -1.0, -1.0, 1.0, 1.0, 1.0), cells=(4, 5, 3), neighbours=4)


def frames(
    *counts: int, spread_m: float = 0.9
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Coordinates, three inputs and prepared tensors of random frames, for `TINY`."""
    random = np.random.default_rng(0)
    clouds = [random.uniform(-spread_m, spread_m, (n, 3)).astype(np.float32) for n in counts]
    preparation = WaffleIron(3, depth=1, width=2, settings=TINY).preparation
    rows = [preparation.of_frame(cloud, (cloud / 0.01).astype(np.int32)) for cloud in clouds]
    voxels = [np.insert((cloud / 0.01).astype(np.int32), 0, i, 1) for i, cloud in enumerate(clouds)]
    inputs = torch.from_numpy(np.concatenate(clouds))
    coordinates = torch.from_numpy(np.concatenate(voxels))
    return coordinates, inputs, prepared_batch(preparation, rows)


def reference(published: Path) -> tuple[WaffleIron, dict[str, np.ndarray]]:
    case = dict(np.load(published / "waffleiron_small.npz"))
    config = json.loads(str(case["config"]))
    (nx, ny), (_, nz), _ = config["grid_shape"]
    fov = tuple(case["fov"].ravel().tolist())
    network = WaffleIron(
        config["input_channels"],
        config["nb_class"],
        depth=config["depth"],
        width=config["feat_channels"],
        settings=WaffleIronConfig(fov=fov, cells=(nx, ny, nz), neighbours=8),
    )
    weights = {n[2:]: torch.from_numpy(np.array(case[n])) for n in case if n[:2] == "w:"}
    network.load_state_dict(weights)
    return network.eval(), case


def test_it_gives_the_published_output(published: Path) -> None:
    network, case = reference(published)
    frame, point = np.divmod(np.arange(600), 300)
    is_real = case["occupied"].ravel() > 0
    # Padding counts in no mean, but may be a neighbour: it goes to cells of a third frame.
    frame = np.where(is_real, frame, 2)
    sizes = np.array([400, 120, 120])
    cells = case["cell_ind"].transpose(0, 2, 1).reshape(600, 3) + frame[:, None] * sizes
    neighbours = case["neighbors"].transpose(0, 2, 1) + np.array([0, 300])[:, None, None]
    prepared = {
        "inside": np.arange(600),
        "nearest": np.arange(600),
        "neighbours": neighbours.reshape(600, 9)[:, 1:],
        "cells": cells,
    }
    coordinates = torch.from_numpy(np.stack([frame, point, point, point], axis=1)).int()
    inputs = torch.from_numpy(case["feats"].transpose(0, 2, 1).reshape(600, 5))
    tensors = {name: torch.from_numpy(value) for name, value in prepared.items()}
    with torch.inference_mode():
        found = network(coordinates, inputs, **tensors).numpy()
        network.classif = None
        tokens = network(coordinates, inputs, **tensors).numpy()
    for name, rows in (("out", found), ("tokens", tokens)):
        expected = case[name].transpose(0, 2, 1).reshape(600, -1)
        assert np.abs(rows - expected)[is_real].max() < 1e-5 * np.abs(expected).max()


def test_cells_and_neighbours_are_the_published_ones(published: Path) -> None:
    network, case = reference(published)
    points = case["points"][0]
    found = network.preparation.of_frame(points, points.astype(np.int32))
    assert np.array_equal(found["inside"], np.arange(300))
    assert np.array_equal(found["cells"].T, case["cell_ind"][0])
    assert np.array_equal(found["neighbours"].T, case["neighbors"][0, 1:])


def test_the_published_shapes_load_strictly(published: Path) -> None:
    shapes = json.loads((published / "waffleiron_48_768_shapes.json").read_text())
    with torch.device("meta"):
        network = WaffleIron(
            5, shapes["classif.bias"][0], depth=48, width=768, settings=WaffleIronConfig()
        )
    own = {name: list(value.shape) for name, value in network.state_dict().items()}
    assert own == shapes


@pytest.mark.parametrize(
    ("name", "depth", "width"),
    [
        ("WaffleIron-12-256", 12, 256),
        ("WaffleIron-48-256", 48, 256),
        ("WaffleIron-48-768", 48, 768),
    ],
)
def test_names_say_depth_and_width(name: str, depth: int, width: int) -> None:
    assert name in STUDENTS
    with torch.device("meta"):
        student = build_student(name, in_channels=5)
    assert isinstance(student, WaffleIron)
    assert student.out_channels == width
    assert len(list(student.waffleiron.get_submodule("channel_mix").children())) == depth


def test_each_frame_of_a_batch_is_as_alone() -> None:
    torch.manual_seed(0)
    network = WaffleIron(3, 2, depth=3, width=4, settings=TINY).eval()
    coordinates, inputs, prepared = frames(40, 3, 25)
    with torch.inference_mode():
        together = network(coordinates, inputs, **prepared)
        first = coordinates[:, 0] == 0
        _, _, alone = frames(40)
        separate = network(coordinates[first], inputs[first], **alone)
    torch.testing.assert_close(together[first], separate)


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_gradients_are_those_of_finite_differences(norm: Literal["batch", "layer"]) -> None:
    torch.manual_seed(0)
    settings = WaffleIronConfig(fov=TINY.fov, cells=TINY.cells, neighbours=4, norm=norm)
    network = WaffleIron(3, 2, depth=3, width=4, settings=settings).double()
    coordinates, inputs, prepared = frames(9, 6, spread_m=1.3)
    rows = inputs.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: network(coordinates, x, **prepared), (rows,), rtol=1e-4
    )


def test_training_is_deterministic_on_one_thread() -> None:
    coordinates, inputs, prepared = frames(60, 30)

    def trained() -> list[torch.Tensor | None]:
        torch.manual_seed(0)
        network = WaffleIron(3, 2, depth=3, width=4, settings=TINY)
        network(coordinates, inputs, **prepared).square().mean().backward()
        return [parameter.grad for parameter in network.parameters()]

    assert torch.get_num_threads() == 1
    for one, other in zip(trained(), trained(), strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


def test_bfloat16_is_near_float32() -> None:
    torch.manual_seed(0)
    network = WaffleIron(3, 8, depth=3, width=16, settings=TINY).train()
    coordinates, inputs, prepared = frames(60, 30)
    exact = network(coordinates, inputs, **prepared)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = network(coordinates, inputs, **prepared)
    assert found.dtype == torch.bfloat16
    found.float().square().mean().backward()
    assert (found.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_points_outside_take_the_features_of_the_nearest_inside() -> None:
    points = np.array([[0, 0, 0], [0.5, 0, 0], [3, 0, 0], [-0.9, 0, 0], [-1, 0, 0]], np.float32)
    found = WaffleIron(3, depth=1, width=2, settings=TINY).preparation.of_frame(
        points, points.astype(np.int32)
    )
    assert found["inside"].tolist() == [0, 1, 3]
    assert found["nearest"].tolist() == [0, 1, 1, 2, 2]
    assert found["neighbours"].tolist() == [[1, 2, 0, 0], [0, 2, 1, 1], [0, 1, 2, 2]]


def test_batches_count_rows_and_cells_through() -> None:
    preparation = PlanePreparation((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), (4, 5, 3), 2)
    near = np.array([[0, 0, 0], [0.5, 0.5, 0.5]], np.float32)
    far = np.array([[2, 0, 0], [0.1, 0.1, 0.1]], np.float32)
    rows = [preparation.of_frame(cloud, cloud.astype(np.int32)) for cloud in (near, far)]
    found = preparation.joined(rows)
    assert found["inside"].tolist() == [0, 1, 3]
    assert found["nearest"].tolist() == [0, 1, 2, 2]
    assert found["neighbours"].tolist() == [[1, 0], [0, 1], [2, 2]]
    assert np.array_equal(found["cells"][2], rows[1]["cells"][0] + [20, 12, 15])


def test_neighbours_are_those_of_all_distances() -> None:
    points = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    points[7] = points[8]
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    found = nearest_points(points, 5)
    expected = np.sort(distance, axis=1)[:, :5]
    np.testing.assert_allclose(np.take_along_axis(distance, found, axis=1), expected, rtol=1e-5)


def test_cells_at_the_edges_are_on_the_grid() -> None:
    edge = np.nextafter(np.float32(1), np.float32(0))
    points = np.array([[edge, edge, edge], [-edge, -edge, -edge]], np.float32)
    found = plane_cells(points, (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), (4, 5, 3))
    assert found.tolist() == [[19, 11, 14], [0, 0, 0]]


def test_settings_and_frames_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(ConfigError, match="set both"):
        WaffleIronConfig(fov=(-1.0, -1.0, -1.0, 1.0, 1.0, 1.0))
    with pytest.raises(ConfigError, match="lowest x, y, z"):
        WaffleIronConfig(fov=(-1.0, 1.0, -1.0, 1.0, 1.0, 1.0), cells=(4, 4, 4))
    with pytest.raises(ConfigError, match="at least one per axis"):
        WaffleIronConfig(fov=(-1.0, -1.0, -1.0, 1.0, 1.0, 1.0), cells=(4, 0, 4))
    preparation = WaffleIron(3, depth=1, width=2, settings=TINY).preparation
    far = np.full((2, 3), 9, np.float32)
    with pytest.raises(GeometryError, match=r"between \[9.0, 9.0, 9.0\].*waffleiron.fov"):
        preparation.of_frame(far, far.astype(np.int32))
    coordinates, inputs, prepared = frames(3)
    prepared["nearest"] = prepared["nearest"][:0]
    with pytest.raises(GeometryError, match="no voxels"):
        WaffleIron(3, depth=1, width=2, settings=TINY)(coordinates[:0], inputs[:0], **prepared)


def test_every_scene_is_a_field_of_view_with_square_cells() -> None:
    for scene, (fov, cells) in SCENES.items():
        settings = config_from_json(WaffleIronConfig, {"scene": scene})
        assert settings.limits == (fov[:3], fov[3:])
        size = (np.array(fov[3:]) - np.array(fov[:3])) / np.array(cells)
        assert size[0] == size[1]
        assert abs(size[2] - size[0]) < 0.05


def test_weights_of_another_norm_are_refused_with_the_setting() -> None:
    layer = WaffleIronConfig(fov=TINY.fov, cells=TINY.cells, norm="layer")
    weights = WaffleIron(3, depth=1, width=2, settings=layer).state_dict()
    with pytest.raises(TrainingError, match=r"waffleiron\.norm=layer"):
        load_student_weights(WaffleIron(3, depth=1, width=2, settings=TINY), weights)
