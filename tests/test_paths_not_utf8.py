"""Folders whose names are bytes that are not UTF-8: every stage works in them."""

import os
import warnings
from pathlib import Path

import pytest
from command_line import p2pkit
from tiny_recording import write_recording

from p2pkit.errors import ConfigError, P2pkitError
from p2pkit.files import printable, utf8_path, write_json, write_text
from p2pkit.pipelines.settings import CheckConfig
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.settings import config_from_json, config_to_json, settings_from_toml
from p2pkit.weight_files import read_metadata, read_weight_file

CAFE = os.fsdecode(b"caf\xe9")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / CAFE
    try:
        made.mkdir()
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    return made


def test_settings_keep_such_a_path() -> None:
    checked = config_from_json(CheckConfig, {"source": f"/a/{CAFE}", "frames": 3})
    assert checked == CheckConfig(source=Path(f"/a/{CAFE}"), frames=3)
    trained = TrainConfig(store=f"/a/{CAFE}", more_stores=(f"/b/{CAFE}",))
    assert config_from_json(TrainConfig, config_to_json(trained)) == trained


def test_settings_beside_such_a_path_are_checked_all_the_same() -> None:
    with pytest.raises(ConfigError, match="frames is '3'; should be a valid integer"):
        config_from_json(CheckConfig, {"source": CAFE, "frames": "3"})


def test_pages_show_the_bytes_as_escapes(tmp_path: Path) -> None:
    assert printable(f"Küche/{CAFE}") == r"Küche/caf\xe9"
    write_text(tmp_path / "page.html", f"Küche/{CAFE}")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == r"Küche/caf\xe9"
    write_json(tmp_path / "run.json", {"store": CAFE})
    assert (tmp_path / "run.json").read_text(encoding="ascii") == '{\n "store": "caf\\udce9"\n}\n'


def test_a_path_of_utf8_leads_to_the_same_file(folder: Path) -> None:
    with utf8_path(folder) as link:
        str(link).encode()
        (link / "weights").write_text("1")
    assert (folder / "weights").read_text() == "1"
    assert not link.exists()
    named = folder / f"{CAFE}.onnx"
    named.write_text("2")
    for path, text in ((folder / "weights", "1"), (named, "2")):
        with utf8_path(path) as link:
            str(link).encode()
            assert (link.suffix, link.read_text()) == (path.suffix, text)


def test_a_usual_path_is_left_alone(tmp_path: Path) -> None:
    with utf8_path(tmp_path / "Küche") as path:
        assert path == tmp_path / "Küche"


def test_weights_are_read_there(folder: Path) -> None:
    import torch
    from safetensors.torch import save

    data = save({"weight": torch.ones(2)}, metadata={"student": "Res16UNet14A"})
    (folder / "w.safetensors").write_bytes(data)
    assert read_weight_file(folder / "w.safetensors", P2pkitError)["weight"].tolist() == [1, 1]
    assert read_metadata(folder / "w.safetensors", P2pkitError) == {"student": "Res16UNet14A"}


def test_a_torchscript_teacher_is_read_there(folder: Path) -> None:
    import torch

    from p2pkit.teachers.torchscript_network import _load

    with open(folder / "t.pt", "wb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Conv2d(1, 3, 1)), file)
    assert _load(folder / "t.pt")(torch.ones(1, 1, 2, 2)).shape == (1, 3, 2, 2)


def test_init_writes_settings_that_extract_reads(folder: Path) -> None:
    recording, settings = write_recording(folder / "recording", 2), folder / "extract.toml"
    p2pkit("init", recording, "--out", settings)
    assert settings_from_toml(settings)["root"] == str(recording)
    assert str(recording).encode(errors="surrogateescape") in settings.read_bytes()
    printed = p2pkit("extract", "--config", settings, "--print-config").stdout_bytes
    assert f'root = "{recording}"'.encode(errors="surrogateescape") in printed


def test_every_stage_works_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For most commands the only real run in `make test`."""
    monkeypatch.chdir(folder)
    recording = write_recording(folder / CAFE, 12, sequences=3)
    store, run = folder / "s.store", folder / "run"
    small = ("--teacher", "resnet10t", "--weights", "random", "--shard-size", 4)
    p2pkit("plan", recording, "--out", store, *small)
    checking = ("--out", folder / "check", "--frames", 4, "--json")
    report = p2pkit("check", recording, *checking).stdout
    assert r"caf\udce9" in report
    assert r"caf\xe9" in (folder / "check" / "check.html").read_text(encoding="utf-8")
    extracted = p2pkit("extract", recording, "--out", store, *small)
    assert f"{store}\n".encode(errors="surrogateescape") in extracted.stdout_bytes
    training = ("--preset", "cpu-small", "--steps", 2, "--set", "holdout=4")
    p2pkit("train", store, "--out", run, *training, "--stop-after", 1)
    p2pkit("train", "--out", run, "--resume")
    assert list((run / "tensorboard").glob("events.*"))
    p2pkit("evaluate", run, "--preset", "probe")
    p2pkit("evaluate", run, "--on", store, "--out", folder / "scores", "--seeds", 1)
    p2pkit("retrieval", run, store)
    p2pkit("report", run)
    p2pkit("report", store)
    p2pkit("export", run, "--out", folder / "w.safetensors")
    p2pkit("view", store, "--run", run, "--png", folder / "view.png")
    p2pkit("view", store, "--ply", folder / "view.ply")
    p2pkit("shards", "convert", store, "--format", "zarr", "--out", folder / "z.store")
    merged = ("--prefix", "a", "--prefix", "b", "--out", folder / "m.store")
    p2pkit("shards", "merge", store, store, *merged)
    p2pkit("shards", "info", folder / "m.store")
    p2pkit("shards", "verify", folder / "z.store")


@pytest.mark.slow
def test_the_doctor_works_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    p2pkit("doctor")
