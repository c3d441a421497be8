"""Teachers out of files and folders, which a store knows by their last name only."""

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from tiny_recording import recording_config

from p2pkit.cli.main import commands
from p2pkit.errors import FingerprintError
from p2pkit.layers.features import FeatureConfig
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.extract.mend import RepairConfig, SourceConfig, run
from p2pkit.teachers import TeacherOptions
from p2pkit.teachers.torchvision_shim import ensure_torchvision

ensure_torchvision()
USE = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "stride": 8, "offset": 3.5}


def scripted(folder: Path) -> Path:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 8, stride=8)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(network).save(str(folder / "net.pt"))
    (folder / "net.pt.json").write_text(json.dumps(USE))
    return folder / "net.pt"


def graph(folder: Path) -> Path:
    weight = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["b", 3, "h", "w"])
    made = helper.make_tensor_value_info("map", TensorProto.FLOAT, None)
    node = helper.make_node("Conv", ["images", "weight"], ["map"], strides=[8, 8])
    stored = [numpy_helper.from_array(weight, "weight")]
    model = helper.make_model(
        helper.make_graph([node], "g", [given], [made], stored),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.save(model, folder / "net.onnx")
    (folder / "net.onnx.json").write_text(json.dumps(USE))
    return folder / "net.onnx"


def saved_folder(folder: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ConvNextConfig(hidden_sizes=[4, 4, 4, 8], depths=[1, 1, 1, 1])
    transformers.AutoModel.from_config(config).save_pretrained(folder / "net")
    (folder / "net" / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3], "resample": 3}'
    )
    return folder / "net"


@pytest.mark.parametrize(
    ("kind", "made", "size"),
    [("torchscript", scripted, None), ("onnx", graph, None), ("hf", saved_folder, (160, 128))],
)
def test_a_moved_file_is_named(
    kind: str, made: object, size: tuple[int, int] | None, room_recording: Path, tmp_path: Path
) -> None:
    assert callable(made)
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    path = made(here)
    teacher = TeacherOptions(name=f"{kind}:{path}", input_size=size)
    config = recording_config(
        room_recording, tmp_path / "store", features=FeatureConfig(teacher=teacher), limit=4
    )
    store = extract.run(config)
    here.rename(there)
    [shard] = store.glob("features/*/000000.tar")
    whole = shard.read_bytes()
    shard.unlink()
    with pytest.raises(
        FingerprintError, match=rf"Name the path of {path.name} with --teacher {kind}"
    ):
        run(RepairConfig(store, SourceConfig(root=room_recording)))
    named = f"{kind}:{there / path.name}"
    # Names of other teachers beside it do no harm.
    source = ["--source", str(room_recording), "--teacher", "onnx:other", "--teacher", named]
    result = CliRunner().invoke(commands, ["shards", "repair", str(store), *source])
    assert result.exit_code == 0, result.output
    assert shard.read_bytes() == whole
