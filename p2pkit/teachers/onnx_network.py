"""An ONNX file as a teacher, run by ONNX Runtime, with a JSON file beside it as for TorchScript.

    NETWORK.onnx        images [batch, 3, height, width] in; out a map [batch, channels, cells_v,
                        cells_u], or a ViT's tokens [batch, tokens, channels] with the patches last
    NETWORK.onnx.json   see `declared_use`; `output` names the map where the file has several

Where its cells sit is declared; an input that is changed there must change the map there.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from p2pkit.errors import MissingDependencyError, TeacherError, first_line
from p2pkit.files import utf8_path
from p2pkit.settings.layers import TeacherOptions
from p2pkit.teachers.declared_use import (
    DeclaredUse,
    map_channels,
    read_declared_use,
    refuse_other_options,
)
from p2pkit.teachers.network import TeacherNetwork
from p2pkit.weight_files import check_weight_file

_TYPES: dict[str, Any] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_CUDA = "CUDAExecutionProvider"


class OnnxLayer(nn.Module):
    """One output of an ONNX session as a map, channels-last.

    Args:
        session: of ONNX Runtime.
        output: name of the output.
        stride: distance of the cells (px); lays tokens out as rows and columns.
    """

    def __init__(self, session: Any, output: str, stride: float) -> None:
        super().__init__()
        self.session, self.output, self.stride = session, output, stride
        self.input = session.get_inputs()[0]

    def forward(self, images: Tensor) -> Tensor:
        """Maps [batch, cells_v, cells_u, channels]. A file of a fixed batch gets images one by one.

        Raises:
            ValueError: the input's size, or the output's shape, is not one that can be used.
            torch.OutOfMemoryError: the session's device has too little memory.
        """
        given = images.detach().numpy().astype(_TYPES[self.input.type])
        batches = np.split(given, len(given)) if isinstance(self.input.shape[0], int) else [given]
        return torch.from_numpy(np.concatenate([self._maps(batch) for batch in batches]))

    def _maps(self, images: np.ndarray) -> np.ndarray:
        batch, _, height, width = images.shape
        try:
            found = self.session.run([self.output], {self.input.name: images})[0]
        except Exception as error:
            # ONNX Runtime's errors have no base class but Exception.
            if "Failed to allocate memory" in str(error):
                raise torch.OutOfMemoryError(first_line(error)) from error
            raise ValueError(f"ONNX Runtime stops: {first_line(error)}") from error
        found = np.asarray(found, dtype=np.float32)
        if found.ndim == 4 and len(found) == batch:
            return np.ascontiguousarray(found.transpose(0, 2, 3, 1))
        rows, columns = (int(side / self.stride) for side in (height, width))
        if found.ndim == 3 and len(found) == batch and found.shape[1] >= rows * columns > 0:
            patches = found[:, found.shape[1] - rows * columns :]
            return patches.reshape(batch, rows, columns, found.shape[2])
        raise ValueError(
            f"its output {self.output!r} has shape {found.shape}; expected a map [{batch}, "
            f"channels, rows, columns], or [{batch}, tokens, channels] with at least {rows} x "
            f"{columns} tokens"
        )


def build_network(options: TeacherOptions, name: str) -> TeacherNetwork:
    """Load the file for the CPU, or for CUDA if `options.device` says so.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
        TeacherError: a file is missing or cannot be read, its input or output cannot be used by a
            teacher, ONNX Runtime lacks the device, or an option does not apply.
    """
    teacher = f"onnx:{name}"
    refuse_other_options(options, teacher, autocasts=False)
    runtime = _runtime()
    path = Path(name)
    use = read_declared_use(path, options.input_size)
    session = _load(runtime, path, options.device)
    _check_input(session, use, teacher)
    output = _output(session, use, path)
    layer = OnnxLayer(session, output, use.stride)
    return TeacherNetwork(
        layer=layer,
        layer_index=0,
        channels=map_channels(layer, use, teacher),
        nominal_stride=max(1, round(use.stride)),
        weights_sha256=_digest(path, output),
        preprocessing=use.preprocessing,
        library=f"onnxruntime {runtime.__version__}",
        on_host=True,
        declared_grid=(use.stride, use.offset),
        trust_offset=use.trust_offset,
    )


def _runtime() -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "onnx teachers need ONNX Runtime: pip install 'p2pkit[onnx]', or "
            "onnxruntime-gpu instead for CUDA"
        ) from error
    return onnxruntime


def _load(runtime: Any, path: Path, device: str) -> Any:
    """A session on one thread."""
    check_weight_file(path, TeacherError)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    try:
        providers = _providers(runtime, device, f"onnx:{path}")
        with utf8_path(path) as readable:
            return runtime.InferenceSession(str(readable), options, providers=providers)
    except TeacherError:
        raise
    except Exception as error:
        # ONNX Runtime's errors have no base class but Exception.
        raise TeacherError(f"teacher onnx:{path} cannot be read: {first_line(error)}") from error


def graph_sha256(model: Any, output: str) -> str:
    """Digest of the nodes and tensors that an output is computed from, whatever they are called.

    Unused tensors and outputs, names, comments and the exporter's notes decide no byte of a map.
    Nodes with inner graphs, and functions, refer to others by name: with them all names
    count.

    Args:
        model: an `onnx.ModelProto`, with its external data.
        output: name of the output.
    """
    nodes = _needed_nodes(model.graph, output)
    stored = {value.name: value for value in model.graph.initializer}
    named = bool(model.functions) or any(
        attribute.HasField("g") or attribute.graphs
        for node in nodes
        for attribute in node.attribute
    )
    numbers: dict[str, int] = {"": -1}
    digest = hashlib.sha256()
    for value in (*model.opset_import, *model.functions):
        digest.update(value.SerializeToString(deterministic=True))

    def known(name: str) -> int | str:
        if name not in numbers:
            numbers[name] = len(numbers)
            if name in stored:
                digest.update(_tensor_bytes(stored[name]))
        return name if named else numbers[name]

    for name in [value.name for value in model.graph.input if value.name not in stored]:
        known(name)
    if named:
        for name in sorted(stored):
            known(name)
    for node in nodes:
        places = [known(name) for name in (*node.input, *node.output)]
        digest.update(f"{node.domain} {node.op_type} {len(node.input)} {places}\n".encode())
        for attribute in sorted(node.attribute, key=lambda value: value.name):
            attribute.ClearField("doc_string")
            digest.update(attribute.SerializeToString(deterministic=True))
    digest.update(f"{known(output)}".encode())
    return digest.hexdigest()


def _needed_nodes(graph: Any, output: str) -> list[Any]:
    """The nodes that an output is computed from, in the graph's order; all with inner graphs."""
    needed, kept = {output}, []
    for node in reversed(graph.node):
        inner = any(value.HasField("g") or value.graphs for value in node.attribute)
        if inner:
            return list(graph.node)
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    return kept[::-1]


def _tensor_bytes(tensor: Any) -> bytes:
    from onnx import numpy_helper

    values = np.ascontiguousarray(numpy_helper.to_array(tensor))
    return f"{tensor.data_type} {values.shape}\n".encode() + values.tobytes()


def _digest(path: Path, output: str) -> str:
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "onnx teachers need the package onnx besides ONNX Runtime: pip install onnx"
        ) from error
    try:
        with utf8_path(path) as readable:
            model = onnx.load(readable)
    except Exception as error:
        # External data and damaged files end in errors of any kind.
        raise TeacherError(f"teacher onnx:{path} cannot be read: {first_line(error)}") from error
    return graph_sha256(model, output)


def _providers(runtime: Any, device: str, name: str) -> list[Any]:
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return ["CPUExecutionProvider"]
    available = runtime.get_available_providers()
    if kind != "cuda" or _CUDA not in available:
        raise TeacherError(
            f"teacher {name}: device {device!r}; this ONNX Runtime has {', '.join(available)}. Use "
            "cpu, or for cuda install onnxruntime-gpu instead of onnxruntime"
        )
    # TF32 keeps 10 bits of the mantissa only.
    return [(_CUDA, {"device_id": int(number or 0), "use_tf32": 0})]


def _check_input(session: Any, use: DeclaredUse, name: str) -> None:
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise TeacherError(f"teacher {name} has {len(inputs)} inputs ({names}); expected one")
    shape, kind = inputs[0].shape, inputs[0].type
    channels = shape[1] if len(shape) == 4 else None
    if kind not in _TYPES or len(shape) != 4 or (isinstance(channels, int) and channels != 3):
        raise TeacherError(
            f"teacher {name}: its input is {kind} {shape}; expected float or float16 [batch, 3, "
            "height, width]"
        )
    if isinstance(shape[0], int) and shape[0] != 1:
        raise TeacherError(
            f"teacher {name} takes batches of {shape[0]} only; export it for a batch of 1 or any"
        )
    size = use.preprocessing.input_size
    fixed = (shape[3], shape[2])
    wanted = tuple(side for side in fixed if isinstance(side, int))
    if len(wanted) == 2 and size != wanted:
        raise TeacherError(
            f"teacher {name} takes images of {wanted[0]} x {wanted[1]} px only and input_size is "
            f"{size}; set --input-size {wanted[0]} {wanted[1]}"
        )


def _output(session: Any, use: DeclaredUse, path: Path) -> str:
    names = [value.name for value in session.get_outputs()]
    if use.output is None and len(names) == 1:
        return names[0]
    if use.output is None or use.output not in names:
        said = "names none" if use.output is None else f"names {use.output!r}"
        raise TeacherError(
            f"teacher onnx:{path} has the outputs {', '.join(names)}, and {path}.json {said}: give "
            'one of them as "output"'
        )
    return use.output
