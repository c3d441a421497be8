import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from p2pkit.errors import MissingDependencyError, TeacherError
from p2pkit.teachers import Teacher, TeacherOptions, open_teacher
from p2pkit.teachers.onnx_network import OnnxLayer, build_network

USE = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "stride": 8, "offset": 3.5}
FREE = ["batch", 3, "height", "width"]


def patches() -> nn.Sequential:
    """Patches of 8 px, so the first centre is at 3.5 px, and a layer on each."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 12, 8, stride=8), nn.ReLU(), nn.Conv2d(12, 6, 1)).eval()


def saved(
    folder: Path,
    *,
    size: list[Any] = FREE,
    kind: int = TensorProto.FLOAT,
    outputs: tuple[str, ...] = ("map",),
    inputs: int = 1,
    **use: Any,
) -> Path:
    """`patches` as a graph; `tokens` is its map with a row for a class in front."""
    network, path = patches(), folder / "network.onnx"
    dtype = np.float16 if kind == TensorProto.FLOAT16 else np.float32
    weights = {
        f"{name}{index}": getattr(network[index], name).detach().numpy().astype(dtype)
        for index in (0, 2)
        for name in ("weight", "bias")
    }
    weights |= {"rows": np.array([1, 6, -1]), "class": np.zeros((1, 1, 6), dtype)}
    nodes = [
        helper.make_node("Conv", ["images", "weight0", "bias0"], ["first"], strides=[8, 8]),
        helper.make_node("Relu", ["first"], ["active"]),
        helper.make_node("Conv", ["active", "weight2", "bias2"], ["map"]),
        helper.make_node("Reshape", ["map", "rows"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["patches"], perm=[0, 2, 1]),
        helper.make_node("Concat", ["class", "patches"], ["tokens"], axis=1),
    ]
    given = [helper.make_tensor_value_info("images", kind, size)]
    given += [helper.make_tensor_value_info(f"mask{i}", kind, [1]) for i in range(1, inputs)]
    made = [helper.make_tensor_value_info(name, kind, None) for name in outputs]
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "patches", given, made, stored)
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    (folder / "network.onnx.json").write_text(json.dumps({**USE, **use}))
    return path


def opened(path: Path, **options: Any) -> Teacher:
    return open_teacher(TeacherOptions(name=f"onnx:{path}", **options))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def expected(image: np.ndarray) -> np.ndarray:
    pixels = (torch.from_numpy(image).double() / 255 - torch.tensor(USE["mean"])) / (
        torch.tensor(USE["std"])
    )
    with torch.inference_mode():
        found = patches()(pixels.float().permute(2, 0, 1)[None])
    return found[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("output", ["map", "tokens"])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_a_file_gives_what_its_network_gives(tmp_path: Path, output: str, kind: int) -> None:
    path = saved(tmp_path, kind=kind, outputs=("map", "tokens"), output=output)
    teacher, images = opened(path), [noise(40, 56), noise(40, 56)[::-1].copy()]
    grid = teacher.grid((56, 40))
    assert (grid.stride, grid.offset, grid.cells) == ((8.0, 8.0), (3.5, 3.5), (7, 5))
    for image, found in zip(images, teacher.features(images), strict=True):
        np.testing.assert_allclose(found.astype(np.float32), expected(image), atol=5e-3)
    assert teacher.channels == 6
    assert teacher.fingerprint()["name"] == "onnx:network.onnx"


@pytest.mark.parametrize("batch", [1, "batch"])
def test_batches_go_to_the_session_where_the_file_takes_them(
    tmp_path: Path, batch: int | str
) -> None:
    path = saved(tmp_path, size=[batch, 3, "height", "width"])
    layer = build_network(TeacherOptions(), str(path)).layer
    images = torch.rand(3, 3, 40, 56)
    together = layer(images)
    for image, found in zip(images, together, strict=True):
        torch.testing.assert_close(layer(image[None])[0], found)


def test_an_allocation_that_fails_is_too_little_memory(tmp_path: Path) -> None:
    class Session:
        def get_inputs(self) -> list[Any]:
            return [SimpleNamespace(name="images", shape=["batch"], type="tensor(float)")]

        def run(self, outputs: list[str], given: dict[str, np.ndarray]) -> None:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 99")

    with pytest.raises(torch.OutOfMemoryError, match="buffer of size 99"):
        OnnxLayer(Session(), "map", 8.0)(torch.rand(2, 3, 8, 8))


def test_identity_is_what_the_map_is_computed_from(tmp_path: Path) -> None:
    path = saved(tmp_path, outputs=("map", "tokens"), output="map")
    first = opened(path).fingerprint()
    model = onnx.load(path)
    model.producer_name = "another exporter"
    model.metadata_props.add(key="source", value="export.py, line 3")
    model.graph.initializer.append(numpy_helper.from_array(np.random.rand(3), "unused"))
    for node in model.graph.node:
        node.doc_string = "line 3"
        for names in (node.input, node.output):
            renamed = ["inner" if name == "active" else name for name in names]
            del names[:]
            names.extend(renamed)
    onnx.save(model, path)
    assert opened(path).fingerprint() == first
    (tmp_path / "network.onnx.json").write_text(json.dumps({**USE, "output": "tokens"}))
    assert opened(path).weights_sha256 != first["weights_sha256"]
    model.graph.node[0].attribute[0].ints[:] = [4, 4]
    onnx.save(model, path)
    (tmp_path / "network.onnx.json").write_text(json.dumps({**USE, "output": "map"}))
    assert opened(path).weights_sha256 != first["weights_sha256"]


def test_other_weights_have_another_digest(tmp_path: Path) -> None:
    path = saved(tmp_path)
    digest = opened(path).weights_sha256
    assert opened(path).weights_sha256 == digest
    model = onnx.load(path)
    onnx.save(
        model, path, save_as_external_data=True, location="network.onnx.data", size_threshold=64
    )
    data = tmp_path / "network.onnx.data"
    digest = opened(path).weights_sha256
    values = bytearray(data.read_bytes())
    values[10] ^= 1
    data.write_bytes(values)
    assert opened(path).weights_sha256 != digest
    data.rename(tmp_path / "elsewhere")
    with pytest.raises(TeacherError, match="cannot be read"):
        opened(path)


@pytest.mark.parametrize("offset", [27.5, 7.5, -0.5])
def test_a_wrong_declared_grid_is_refused(tmp_path: Path, offset: float) -> None:
    """By cells or by half a cell; half of one stands where the file says that it is known."""
    teacher = opened(saved(tmp_path, offset=offset))
    with pytest.raises(TeacherError, match=rf"declares the first centre at {offset} px .* as if"):
        teacher.grid((56, 56))
    teacher = opened(saved(tmp_path, offset=offset, trust_offset=True))
    if offset > 8:
        with pytest.raises(TeacherError, match=r"the measured grid .* is wrong"):
            teacher.grid((56, 56))
    else:
        assert teacher.grid((56, 56)).offset == (offset, offset)


def test_a_fixed_size_must_be_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path, size=[1, 3, 48, 64])
    with pytest.raises(TeacherError, match=r"64 x 48 px only .* set --input-size 64 48"):
        opened(path)
    assert opened(path, input_size=(64, 48)).features([noise(96, 128)]).shape == (1, 6, 8, 6)
    with pytest.raises(TeacherError, match="batches of 2 only"):
        opened(saved(tmp_path, size=[2, 3, "height", "width"]))
    with pytest.raises(TeacherError, match="ONNX Runtime stops"):
        opened(saved(tmp_path, size=[1, 3, 48, "width"]), input_size=(64, 40))


def test_what_cannot_be_used_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TeacherError, match="do not apply"):
        opened(saved(tmp_path), layer=2)
    with pytest.raises(TeacherError, match=r"precision bfloat16; a file computes as"):
        opened(saved(tmp_path), precision="bfloat16")
    with pytest.raises(TeacherError, match="2 inputs"):
        opened(saved(tmp_path, inputs=2))
    with pytest.raises(
        TeacherError, match=r"expected float or float16 \[batch, 3, height, width\]"
    ):
        opened(saved_nhwc(tmp_path))
    with pytest.raises(TeacherError, match=r"outputs map, tokens, and .* names none"):
        opened(saved(tmp_path, outputs=("map", "tokens")))
    with pytest.raises(TeacherError, match="names 'head'"):
        opened(saved(tmp_path, output="head"))
    with pytest.raises(TeacherError, match=r"'rows' has shape"):
        opened(saved(tmp_path, outputs=("map", "rows"), output="rows"))
    with pytest.raises(TeacherError, match="device 'cuda'; this ONNX Runtime has"):
        opened(saved(tmp_path), device="cuda")
    path = saved(tmp_path)
    path.write_bytes(b"no network")
    with pytest.raises(TeacherError, match="cannot be read"):
        opened(path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'p2pkit\[onnx\]'"):
        opened(path)


def saved_nhwc(folder: Path) -> Path:
    path = folder / "network.onnx"
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 8, 8, 3])
    made = helper.make_tensor_value_info("map", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Relu", ["images"], ["map"])], "g", [given], [made])
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    return path
