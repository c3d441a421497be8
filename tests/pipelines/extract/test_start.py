"""How an extraction begins: refused before anything is written, each frame decoded once."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from store_files import tree
from tiny_recording import TEACHER, recording_config, write_recording

from p2pkit.cli.main import commands
from p2pkit.datasets.frame import Frame, FrameSource, SourceOptions
from p2pkit.errors import ConfigError, DevelopmentStoreError, P2pkitError
from p2pkit.files import write_json
from p2pkit.layers.features import FeatureConfig
from p2pkit.pipelines.extract import start
from p2pkit.pipelines.extract.mend import RepairConfig
from p2pkit.pipelines.extract.mend import run as repair
from p2pkit.pipelines.extract.run import run
from p2pkit.store import reading
from p2pkit.store.reading import open_store
from p2pkit.store.strict_json import read_sealed, sealed
from p2pkit.store.verifying import verify_store

WRONG = {
    "no such teacher": FeatureConfig(teacher=replace(TEACHER, name="resnet10x")),
    "no such layer": FeatureConfig(teacher=replace(TEACHER, layer=17)),
    "no such weights": FeatureConfig(teacher=replace(TEACHER, weights="nothing.pth")),
    "more components than channels": FeatureConfig(teacher=TEACHER, map="pca:5000"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_refused_start_leaves_nothing(name: str, room_recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = recording_config(room_recording, out, limit=4, features=WRONG[name])
    with pytest.raises(P2pkitError):
        run(config)
    assert not out.exists()
    assert run(replace(config, features=None)) == out


def test_a_refused_layer_leaves_the_store_as_it_was(room_recording: Path, tmp_path: Path) -> None:
    config = recording_config(room_recording, tmp_path / "out", limit=4, features=None)
    out = run(config)
    before = tree(out)
    with pytest.raises(ConfigError):
        run(replace(config, features=WRONG["more components than channels"]))
    assert tree(out) == before


class Counted:
    """A recording that counts how often each frame is decoded."""

    def __init__(self, source: FrameSource) -> None:
        self.source, self.loads = source, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def load(self, key: str) -> Frame:
        self.loads[key] += 1
        return self.source.load(key)


@pytest.mark.parametrize("coding", ["float16", "pca:4"])
def test_each_frame_is_decoded_once_and_the_manifest_read_once(
    coding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_recording(tmp_path / "rooms", 12)
    (root / "frame-000000.color.png").write_bytes(b"no picture")
    made: list[Counted] = []

    def opened(dataset: str, options: SourceOptions) -> Counted:
        made.append(Counted(open_source(dataset, options)))
        return made[-1]

    open_source = start.open_source
    monkeypatch.setattr(start, "open_source", opened)
    monkeypatch.setattr(reading, "read_manifest", None)
    features = FeatureConfig(teacher=TEACHER, map=coding)
    run(recording_config(root, tmp_path / "out", features=features, shard_size=2))
    [source] = made
    assert source.loads == Counter(source.source.keys())


def test_settings_stand_in_the_manifest_without_paths(room_recording: Path, tmp_path: Path) -> None:
    out = run(recording_config(room_recording, tmp_path / "out", limit=4))
    assert str(tmp_path) not in (out / "p2pkit.json").read_text()
    assert str(room_recording.parent) not in (out / "p2pkit.json").read_text()
    geometry, features = open_store(out).manifest.layers
    assert geometry.settings["root"] == room_recording.name
    assert geometry.settings["limit"] == 4
    assert geometry.settings["geometry"]["voxel_size"] == 0.02
    assert features.settings["teacher"]["layer"] == TEACHER.layer
    assert "device" not in features.settings["teacher"]


def test_a_development_store_is_named_as_one(room_recording: Path, tmp_path: Path) -> None:
    config = recording_config(room_recording, tmp_path / "out", limit=4, features=None)
    out = run(config)
    manifest = read_sealed(out / "p2pkit.json")
    del manifest["layers"][0]["settings"]
    write_json(out / "p2pkit.json", sealed(manifest))
    before = tree(out)
    for read in (
        lambda: open_store(out),
        lambda: verify_store(out, deep=True),
        lambda: repair(RepairConfig(out, drop=True)),
        lambda: run(config),
    ):
        with pytest.raises(DevelopmentStoreError, match="written by a development version of p2p"):
            read()
    result = CliRunner().invoke(commands, ["shards", "verify", str(out), "--json"])
    assert isinstance(result.exception, DevelopmentStoreError)
    assert tree(out) == before
    assert json.loads((out / "p2pkit.json").read_text())["format_version"] == 1
