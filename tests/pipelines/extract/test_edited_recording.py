"""A recording that was edited, its files of equal sizes, is recognised by its samples' digests."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_recording import TEACHER, recording_config

from p2pkit.errors import FingerprintError, SourceError
from p2pkit.geometry.maps.superpixels import SuperpixelConfig
from p2pkit.layers.digests import INPUTS
from p2pkit.layers.features import FeatureConfig
from p2pkit.pipelines.extract.mend import RepairConfig, SourceConfig
from p2pkit.pipelines.extract.mend import run as repair
from p2pkit.pipelines.extract.run import run
from p2pkit.store.reading import open_store

SCENE, FRAME = "scene-1", "frame-000001"


def same_size(path: Path, change: Callable[[Path], object]) -> None:
    size = path.stat().st_size
    change(path)
    data = path.read_bytes()
    assert len(data) <= size
    path.write_bytes(data + bytes(size - len(data)))


def paint(value: int, mode: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        color = value if mode == "L" else (value, 0, 0)
        Image.new(mode, (64, 48), color).save(path)

    return change


def move(path: Path) -> None:
    text = path.read_text()
    path.write_text(text.replace(text.split()[3], "9" + text.split()[3][1:], 1))


EDITS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "images": ("color.png", paint(255, "RGB")),
    "pose": ("pose.txt", move),
    "labels": ("label.png", paint(1, "L")),
}


@pytest.fixture(params=EDITS)
def edited(
    request: pytest.FixtureRequest, room_recording: Path, tmp_path: Path
) -> tuple[str, Path]:
    root = shutil.copytree(room_recording, tmp_path / "edited")
    suffix, change = EDITS[request.param]
    same_size(root / SCENE / f"{FRAME}.{suffix}", change)
    return request.param, root


def shards_of(store: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(store.rglob("0*")) if path.is_file()}


def shard_of_the_edited_frame(store: Path) -> int:
    opened = open_store(store)
    for shard in range(opened.manifest.plan.shards):
        if any(SCENE in key and FRAME in key for key in opened.keys(shard)):
            return shard
    raise AssertionError("the frame is in no shard")


def lose(store: Path, layer: str, shard: int) -> None:
    for path in [*store.glob(f"{layer}/**/{shard:06d}.*")]:
        path.unlink()


def message(part: str) -> str:
    return f"frame .*{SCENE}.*{FRAME} differs in its {part} from what its samples"


@pytest.mark.parametrize("kind", ["teacher", "superpixels"])
def test_an_edited_frame_gets_no_further_layer(
    edited: tuple[str, Path], room_store: Path, tmp_path: Path, kind: str
) -> None:
    part, root = edited
    out = shutil.copytree(room_store, tmp_path / "out")
    before, shard = shards_of(out), shard_of_the_edited_frame(out)
    config = recording_config(root, out)
    if kind == "teacher":
        config = replace(config, features=FeatureConfig(teacher=replace(TEACHER, layer=1)))
    else:
        config = replace(config, superpixels=SuperpixelConfig())
    with pytest.raises(SourceError, match=message(part)):
        run(config)
    after = shards_of(out)
    assert {name: after[name] for name in before} == before
    assert not [name for name in after if f"{shard:06d}" in name and name not in before]


def test_a_recording_edited_throughout_gets_no_layer_in_the_manifest(
    room_recording: Path, room_store: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(room_recording, tmp_path / "edited")
    for path in root.glob("*/*.color.png"):
        same_size(path, paint(255, "RGB"))
    out = shutil.copytree(room_store, tmp_path / "out")
    before = (out / "p2pkit.json").read_bytes()
    with pytest.raises(SourceError, match="differs in its images from what its samples"):
        run(recording_config(root, out, features=FeatureConfig(teacher=replace(TEACHER, layer=1))))
    assert (out / "p2pkit.json").read_bytes() == before
    assert open_store(out).feature_layers == open_store(room_store).feature_layers


def test_resuming_beside_the_geometry_refuses_an_edited_frame(
    edited: tuple[str, Path], room_store: Path, tmp_path: Path
) -> None:
    part, root = edited
    out = shutil.copytree(room_store, tmp_path / "out")
    lose(out, "features", shard_of_the_edited_frame(out))
    before = shards_of(out)
    with pytest.raises(SourceError, match=message(part)):
        run(recording_config(root, out))
    assert shards_of(out) == before


@pytest.mark.parametrize("layer", ["geometry", "features"])
def test_repair_refuses_an_edited_frame(
    edited: tuple[str, Path], room_store: Path, tmp_path: Path, layer: str
) -> None:
    part, root = edited
    out = shutil.copytree(room_store, tmp_path / "out")
    lose(out, layer, shard_of_the_edited_frame(out))
    before = shards_of(out)
    with pytest.raises(SourceError, match=message(part)):
        repair(RepairConfig(out, SourceConfig(root=root)))
    assert shards_of(out) == before


def test_every_layer_names_the_inputs_of_its_samples(room_store: Path) -> None:
    store = open_store(room_store)
    found = [store.read(layer, 0, 0).meta[INPUTS] for layer in ("geometry", *store.feature_layers)]
    assert all(inputs == found[0] for inputs in found)
    assert sorted(found[0]) == ["calibration", "depth", "images", "labels", "pose"]
    assert json.loads((room_store / "p2pkit.json").read_text())["layers"][0]["details"][INPUTS]
    assert all(len(digest) == 16 and int(digest, 16) >= 0 for digest in found[0].values())
    assert len(np.unique([*found[0].values()])) == 5


def cut(store: Path, shard: int) -> None:
    """Damage every layer's shard beyond reading; their records stay."""
    for path in store.rglob(f"{shard:06d}.tar"):
        path.write_bytes(path.read_bytes()[:700])


def lose_all(store: Path, shard: int) -> None:
    for layer in ("geometry", "features"):
        lose(store, layer, shard)


def test_a_shard_that_is_cut_in_all_layers_must_get_the_bytes_of_its_record(
    edited: tuple[str, Path], room_store: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(room_store, tmp_path / "out")
    cut(out, shard_of_the_edited_frame(out))
    before = shards_of(out)
    with pytest.raises(FingerprintError, match="bytes other than its record says: the recording"):
        repair(RepairConfig(out, SourceConfig(root=edited[1])))
    assert shards_of(out) == before
    assert not [*out.rglob(".tmp-*")]


@pytest.mark.parametrize("damage", [lose_all, cut])
def test_the_former_recording_brings_it_back(
    room_recording: Path, room_store: Path, tmp_path: Path, damage: Callable[[Path, int], None]
) -> None:
    out = shutil.copytree(room_store, tmp_path / "out")
    damage(out, 1)
    assert repair(RepairConfig(out, SourceConfig(root=room_recording))).verified
    assert shards_of(out) == {
        name.replace(str(room_store), str(out)): data
        for name, data in shards_of(room_store).items()
    }
