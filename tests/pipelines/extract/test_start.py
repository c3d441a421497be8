"""How an extraction begins: refused before anything is written, each frame decoded once."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image
from store_files import tree
from tiny_recording import TEACHER, recording_config, write_recording
from tiny_sweeps import FOCAL, HEIGHT, WIDTH, sweeps_config, write_sweeps

from p2pkit.cli.main import commands
from p2pkit.datasets.frame import Frame, FrameSource, SourceOptions
from p2pkit.errors import ConfigError, DevelopmentStoreError, P2pkitError, StoreError
from p2pkit.files import write_json
from p2pkit.layers.features import FeatureConfig
from p2pkit.pipelines.extract import start
from p2pkit.pipelines.extract.mend import RepairConfig
from p2pkit.pipelines.extract.mend import run as repair
from p2pkit.pipelines.extract.run import run
from p2pkit.store import reading
from p2pkit.store.manifest import GEOMETRY
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


def test_a_frame_without_images_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_sweeps(tmp_path / "sweeps")
    without = "01_000000"

    class Blind(Counted):
        def load(self, key: str) -> Frame:
            frame = self.source.load(key)
            return replace(frame, views=()) if key == without else frame

    open_source = start.open_source
    monkeypatch.setattr(start, "open_source", lambda *given: Blind(open_source(*given)))
    store = open_store(run(sweeps_config(root, tmp_path / "out")))
    [failed] = [row for shard in store.records(GEOMETRY) for row in shard.failures]
    assert failed["key"] == without
    assert "neither views nor colours" in failed["reason"]


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


def test_a_rig_of_cameras_of_two_sizes_is_refused_before_a_store_begins(tmp_path: Path) -> None:
    root = write_sweeps(tmp_path / "drive", sequences=1)
    folder = root / "sequences" / "00"
    for path in sorted((folder / "image_2").iterdir()):
        (folder / "image_3").mkdir(exist_ok=True)
        with Image.open(path) as image:
            image.resize((WIDTH // 2, HEIGHT // 2)).save(folder / "image_3" / path.name)
    half = f"{FOCAL / 2} 0 {WIDTH / 4} 0 0 {FOCAL / 2} {HEIGHT / 4} 0 0 0 1 0"
    calib = (folder / "calib.txt").read_text().splitlines()
    (folder / "calib.txt").write_text("\n".join([calib[0], f"P3: {half}", calib[2]]))
    config = sweeps_config(root, tmp_path / "drive.store")
    with pytest.raises(StoreError, match=r"--input-size W H, or .* --features pixels"):
        run(config)
    assert not (tmp_path / "drive.store" / "p2pkit.json").exists()
    assert config.features is not None
    pixels = replace(config.features, layout="pixels")
    assert open_store(run(replace(config, features=pixels))).samples == 2
