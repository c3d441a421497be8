"""Files of weights as people have them: damaged, of another kind, and with settings beside them."""

import argparse
import collections
import os
import pathlib
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from p2pkit.errors import TeacherError
from p2pkit.weight_files import read_metadata, read_weight_file

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 88216496\n"
TENSORS = {"weight": torch.arange(6.0), "bias": torch.ones(2)}


def refusal(path: Path) -> str:
    with pytest.raises(TeacherError) as caught:
        read_weight_file(path, TeacherError)
    message = str(caught.value)
    assert "\n" not in message
    assert "weights_only" not in message, "torch's advice lets the file's code run"
    assert "trust the source" not in message
    return message


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.bin"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER, "Git LFS pointer.*run git lfs pull"),
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x08\x08\x12\x07pytorch" * 9, "damaged or not a"),
        (bytes(range(200)), "damaged or not a"),
    ],
    ids=["lfs", "empty", "html", "hdf5", "onnx", "noise"],
)
def test_other_content_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    found = refusal(path)
    assert str(path) in found
    assert re.search(message, found)


@pytest.mark.parametrize("form", ["safetensors", "zip", "pickle"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_cut_files_are_called_cut(tmp_path: Path, form: str, share: float) -> None:
    path = tmp_path / "w.pth"
    if form == "safetensors":
        save_file(TENSORS, path)
    else:
        torch.save(TENSORS, path, _use_new_zipfile_serialization=form == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "cut" in refusal(path)


def test_the_content_decides_what_a_file_is(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "really-safetensors.pth")
    torch.save(TENSORS, tmp_path / "really-torch.safetensors")
    for path in tmp_path.iterdir():
        torch.testing.assert_close(dict(read_weight_file(path, TeacherError)), TENSORS)


def training_settings() -> dict[str, Any]:
    return {
        "args": argparse.Namespace(lr=0.1, output=pathlib.PurePosixPath("/runs")),
        "simple": types.SimpleNamespace(lr=0.1),
        "counts": collections.defaultdict(list, {"a": [1]}),
        "metric": np.float64(0.5),
        "history": np.arange(3),
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_plain_data_beside_the_tensors_is_read_and_stays_inert(
    tmp_path: Path, zipped: bool
) -> None:
    path = tmp_path / "w.pth"
    content = {"state_dict": TENSORS, **training_settings()}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = read_weight_file(path, TeacherError)
    torch.testing.assert_close(found["state_dict"], TENSORS)
    assert found.keys() == content.keys()
    assert not isinstance(found["args"], argparse.Namespace)


def test_dictionaries_of_libraries_that_are_not_here_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {"__module__": "yacs.config", "__qualname__": "CfgNode"}
    kind: Any = type("CfgNode", (dict,), named)
    module = types.ModuleType("yacs.config")
    vars(module)["CfgNode"] = kind
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    settings = kind(lr=0.1)
    settings.frozen = True
    torch.save({"model": TENSORS, "config": settings}, tmp_path / "w.pth")
    monkeypatch.delitem(sys.modules, "yacs.config")
    found = read_weight_file(tmp_path / "w.pth", TeacherError)
    assert found["config"] == {"lr": 0.1}
    assert not isinstance(found["config"], kind)


class Command:
    """Runs a command when it is unpickled without care."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_by_name_and_never_run(tmp_path: Path, zipped: bool) -> None:
    path, ran = tmp_path / "w.pth", tmp_path / "ran"
    for payload, name in (
        (Command(open, str(ran), "w"), "io.open"),
        (Command(os.system, f"touch {ran}"), "system"),
        (Command(eval, f"open({str(ran)!r}, 'w')"), "eval"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ):
        content = {"state_dict": TENSORS, "args": payload}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        message = refusal(path)
        assert name in message
        assert "could run code" in message
    assert not ran.exists()


def test_a_list_a_folder_and_nothing_are_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    assert "expected a state_dict, found a list" in refusal(tmp_path / "list.pth")
    assert "Is a directory" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "absent.pth")


def test_metadata_of_damaged_files_is_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(TENSORS, path, metadata={"a": "b"})
    assert read_metadata(path, TeacherError) == {"a": "b"}
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(TeacherError, match="truncated or damaged"):
        read_metadata(path, TeacherError)
    path.write_bytes(POINTER)
    with pytest.raises(TeacherError, match="git lfs pull"):
        read_metadata(path, TeacherError)
