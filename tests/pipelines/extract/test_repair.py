import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from store_files import tree
from tiny_recording import TEACHER, recording_config, write_recording

from p2pkit.cli.main import commands
from p2pkit.errors import ConfigError, FingerprintError, SourceError, StoreError
from p2pkit.layers.features import FeatureConfig
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.extract.mend import (
    RepairConfig,
    RepairReport,
    SourceConfig,
    run,
    weights_by_layer,
)
from p2pkit.pipelines.shards.merge import MergeConfig, merge_stores
from p2pkit.store.reading import open_store
from p2pkit.store.verifying import verify_store
from p2pkit.store.writing import StoreWriter
from p2pkit.stream.batches import BatchStream, StreamConfig, StreamSource
from p2pkit.stream.samples import SampleConfig


def times(store: Path) -> dict[str, int]:
    return {name: (store / name).stat().st_mtime_ns for name in tree(store)}


def repair(store: Path, recording: Path | None = None, **changes: object) -> RepairReport:
    source = SourceConfig(root=recording, **changes)  # pyright: ignore[reportArgumentType]
    return run(RepairConfig(store, source))


def whats(report: RepairReport) -> set[tuple[str, int, str]]:
    return {(a.layer.split("/")[0], a.shard, a.what) for a in report.actions}


@pytest.fixture
def store(room_store: Path, tmp_path: Path) -> Path:
    """A copy of the extracted recording, to be damaged."""
    return shutil.copytree(room_store, tmp_path / "store")


def files(store: Path, layer: str, name: str) -> Path:
    [path] = store.glob(f"{layer}/**/{name}")
    return path


def flip_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def swap(store: Path) -> None:
    for suffix in ("tar", "json"):
        first, second = (store / "geometry" / f"00000{number}.{suffix}" for number in (0, 1))
        data = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], set[tuple[str, int, str]]]] = {
    "a byte of the geometry": (
        lambda store: flip_middle(files(store, "geometry", "000001.tar")),
        {("geometry", 1, "extract")},
    ),
    "a byte of the features": (
        lambda store: flip_middle(files(store, "features", "000002.tar")),
        {("features", 2, "extract")},
    ),
    "a cut shard": (
        lambda store: os.truncate(files(store, "features", "000000.tar"), 1000),
        {("features", 0, "extract")},
    ),
    "a lost shard": (
        lambda store: files(store, "geometry", "000002.tar").unlink(),
        {("geometry", 2, "extract")},
    ),
    "a lost record": (
        lambda store: files(store, "features", "000001.json").unlink(),
        {("features", 1, "extract")},
    ),
    "a damaged record": (
        lambda store: flip_middle(files(store, "geometry", "000000.json")),
        {("geometry", 0, "extract")},
    ),
    "a damaged tar header": (
        lambda store: files(store, "features", "000000.tar").write_bytes(
            b"x" + files(store, "features", "000000.tar").read_bytes()[1:]
        ),
        {("features", 0, "extract")},
    ),
    "swapped shards": (swap, {("geometry", 0, "extract"), ("geometry", 1, "extract")}),
    "lost failures": (lambda store: (store / "failures.jsonl").unlink(), set()),
    "damaged failures": (lambda store: (store / "failures.jsonl").write_bytes(b"\xff"), set()),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_broken_is_extracted_to_the_same_bytes(
    name: str, store: Path, room_store: Path, room_recording: Path
) -> None:
    damage, expected = DAMAGES[name]
    damage(store)
    before = times(store)
    report = repair(store, room_recording)
    assert whats(report) == expected
    assert report.failures_file == (name in ("lost failures", "damaged failures"))
    assert report.verified is not None
    assert report.verified.ok
    assert tree(store) == tree(room_store)
    changed = {Path(file).stem for file, time in times(store).items() if before.get(file) != time}
    assert changed <= {f"{shard:06d}" for _, shard, _ in expected} | {"failures"}


def test_all_at_once_and_again_finds_nothing(
    store: Path, room_store: Path, room_recording: Path
) -> None:
    shutil.rmtree(store / "geometry")
    for path in store.glob("features/*/*.tar"):
        flip_middle(path)
    report = repair(store, room_recording)
    assert len(report.actions) == 6
    assert tree(store) == tree(room_store)
    assert repair(store, room_recording).actions == ()


def test_frames_that_an_earlier_repair_dropped_come_back(
    store: Path, room_store: Path, room_recording: Path
) -> None:
    flip_middle(files(store, "features", "000001.tar"))
    files(store, "geometry", "000002.tar").unlink()
    before = tree(store)
    assert {what for *_, what in whats(repair(store))} == {"leave"}
    assert tree(store) == before
    report = run(RepairConfig(store, drop=True))
    assert {what for *_, what in whats(report)} == {"drop"}
    rows = [json.loads(line) for line in (store / "failures.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in rows} == {"repair"}
    thinned = open_store(store)
    assert thinned.samples == 12 - len(rows) < 12
    assert 0 in thinned.sizes()
    samples = np.arange(thinned.samples)
    stream = StreamConfig(batch_size=2, sample=SampleConfig(voxel_size=0.2, pairs_per_frame=20))
    batches = BatchStream(
        [StreamSource(thinned, thinned.feature_layers[0], samples)], config=stream
    )
    assert [batch.frames for batch in batches.batches(0, 8)] == [2] * 8
    assert verify_store(store, deep=True).ok
    back = repair(store, room_recording)
    assert {(shard, what) for _, shard, what in whats(back)} == {(1, "extract"), (2, "extract")}
    assert "left out by an earlier repair" in back.actions[0].reason
    assert tree(store) == tree(room_store)


def test_a_repair_that_was_cut_off_between_layers_is_finished(
    store: Path, room_store: Path, room_recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip_middle(files(store, "features", "000001.tar"))
    run(RepairConfig(store, drop=True))
    whole = StoreWriter.write

    def full(writer: StoreWriter, layer: str, *given: Any, **named: Any) -> Any:
        if layer.startswith("features"):
            raise StoreError("no space left")
        return whole(writer, layer, *given, **named)

    monkeypatch.setattr(StoreWriter, "write", full)
    with pytest.raises(StoreError, match="no space left"):
        repair(store, room_recording)
    monkeypatch.undo()
    repair(store, room_recording)
    assert tree(store) == tree(room_store)


def test_zarr_stores_too(room_recording: Path, tmp_path: Path) -> None:
    out = extract.run(recording_config(room_recording, tmp_path / "out", format="zarr"))
    whole = tree(out)
    files(out, "geometry", "000001.zarr/depth/zarr.json").unlink()
    flip_middle(files(out, "features", "000000.zarr/map/c/1/0/0/0"))
    assert whats(repair(out, room_recording)) == {
        ("geometry", 1, "extract"),
        ("features", 0, "extract"),
    }
    assert tree(out) == whole


def test_failures_of_the_recording_stay_as_they_were(tmp_path: Path) -> None:
    root = write_recording(tmp_path / "rooms", 6)
    (root / "frame-000002.color.png").write_bytes(b"no picture")
    (root / "frame-000004.color.png").unlink()
    out = extract.run(recording_config(root, tmp_path / "out"))
    whole = tree(out)
    assert len(whole["failures.jsonl"].splitlines()) == 2
    shutil.rmtree(out / "geometry")
    repair(out, root)
    assert tree(out) == whole


def test_parts_of_the_recording_that_were_not_read_are_no_problem(tmp_path: Path) -> None:
    recording = write_recording(tmp_path / "rooms", 6, sequences=2)
    (recording / "scene-0" / "frame-000001.pose.txt").unlink()
    store = extract.run(recording_config(recording, tmp_path / "store"))
    [row] = map(json.loads, (store / "failures.jsonl").read_text().splitlines())
    assert (row["key"], row["stage"]) == ("scene-0", "recording")
    assert not verify_store(store, deep=False).problems
    before = times(store)
    report = repair(store, recording)
    assert (report.actions, report.failures_file) == ((), False)
    assert times(store) == before
    (store / "failures.jsonl").write_text("")
    [problem] = verify_store(store, deep=False).problems
    assert "does not list the 1 failures" in problem.reason
    assert repair(store, recording).failures_file
    assert not verify_store(store, deep=False).problems


def test_two_teachers_and_other_settings(room_recording: Path, tmp_path: Path) -> None:
    config = recording_config(room_recording, tmp_path / "out", seed=3, limit=5)
    teacher = replace(TEACHER, seed=3)
    extract.run(replace(config, features=FeatureConfig(teacher=teacher, seed=3)))
    other = FeatureConfig(
        teacher=replace(teacher, layer=1, input_size=(32, 24)),
        layout="pixels",
        pairs_per_frame=50,
        seed=8,
    )
    out = extract.run(replace(config, features=other))
    whole = tree(out)
    for path in out.glob("features/*/000000.tar"):
        path.unlink()
    assert len(repair(out, room_recording).actions) == 2
    assert tree(out) == whole


def test_weights_of_a_file_must_be_named(room_recording: Path, tmp_path: Path) -> None:
    import torch

    from p2pkit.teachers.timm_network import timm

    torch.manual_seed(11)
    weights = tmp_path / "weights.pth"
    torch.save(timm.create_model("resnet10t").state_dict(), weights)
    teacher = replace(TEACHER, weights=str(weights))
    config = recording_config(
        room_recording, tmp_path / "out", features=FeatureConfig(teacher=teacher), limit=4
    )
    out = extract.run(config)
    whole = tree(out)
    flip_middle(files(out, "features", "000000.tar"))
    damaged = tree(out)
    with pytest.raises(FingerprintError, match=r"Name the path of weights.pth with --weights"):
        run(RepairConfig(out, SourceConfig(root=room_recording, weights=("random",))))
    assert tree(out) == damaged
    run(RepairConfig(out, SourceConfig(root=room_recording, weights=(str(weights),))))
    assert tree(out) == whole


def test_each_layer_takes_the_weights_of_its_file(room_recording: Path, tmp_path: Path) -> None:
    import torch

    from p2pkit.teachers.timm_network import timm

    torch.manual_seed(11)
    config = recording_config(room_recording, tmp_path / "out", limit=4)
    out = extract.run(config)
    words = ["shards", "repair", str(out), "--source", str(room_recording)]
    for name in ("first.pth", "second.pth"):
        weights = tmp_path / name
        torch.save(timm.create_model("resnet10t").state_dict(), weights)
        features = FeatureConfig(teacher=replace(TEACHER, weights=str(weights)))
        extract.run(replace(config, features=features))
        words += ["--weights", str(weights)]
    whole = tree(out)
    for path in out.glob("features/*/000000.tar"):
        path.unlink()
    result = CliRunner().invoke(commands, words)
    assert result.exit_code == 0, result.output
    assert tree(out) == whole


@pytest.mark.parametrize(
    ("damaged", "given", "taken"),
    [
        ("abt", ["x/b.pth", "y/a.pth"], {"a": "y/a.pth", "b": "x/b.pth"}),
        ("at", ["moved.pth"], {"a": "moved.pth"}),
        ("ab", ["x/b.pth"], {"b": "x/b.pth"}),
        ("ab", ["x/b.pth", "moved.pth"], {"a": "moved.pth", "b": "x/b.pth"}),
        ("t", ["moved.pth"], {"t": "moved.pth"}),
    ],
)
def test_weights_go_by_the_last_name_or_to_the_only_layer(
    damaged: str, given: list[str], taken: dict[str, str]
) -> None:
    assert weights_by_layer(layers_of(a="a.pth", b="b.pth", t="timm"), {*damaged}, given) == taken


def test_a_file_may_stand_for_weights_that_cannot_be_fetched() -> None:
    store = layers_of(t="timm", d="default")
    assert weights_by_layer(store, {"t"}, ["t.pth"]) == {"t": "t.pth"}


@pytest.mark.parametrize(
    ("damaged", "given", "unused"),
    [
        ("ab", ["moved.pth"], "moved.pth"),
        ("a", ["x/a.pth", "y/a.pth"], "y/a.pth"),
        ("td", ["t.pth", "d.pth"], "t.pth, d.pth"),
    ],
)
def test_weights_that_no_layer_takes_are_named(damaged: str, given: list[str], unused: str) -> None:
    store = layers_of(a="a.pth", b="b.pth", t="timm", d="default")
    with pytest.raises(
        ConfigError, match=f"takes the weights {unused}: .* are a from a.pth, b from"
    ):
        weights_by_layer(store, {*damaged}, given)


def layers_of(**weights: str) -> Any:
    """A store of feature layers with these names and weights."""
    layers = {
        name: SimpleNamespace(settings={"teacher": {"name": "resnet10t", "weights": value}})
        for name, value in weights.items()
    }
    return SimpleNamespace(root="s", feature_layers=tuple(layers), layer=layers.__getitem__)


def test_another_recording_is_refused_and_nothing_changed(store: Path, tmp_path: Path) -> None:
    flip_middle(files(store, "geometry", "000001.tar"))
    damaged = tree(store)
    other = write_recording(tmp_path / "other", 6)
    with pytest.raises(FingerprintError, match=r"another recording, .*dataset\.frame_list: files"):
        repair(store, other)
    with pytest.raises(SourceError, match="is not a folder"):
        repair(store, tmp_path / "nothing")
    assert tree(store) == damaged


def test_a_store_made_from_stores_is_not_extracted(
    room_store: Path, room_recording: Path, tmp_path: Path
) -> None:
    stores, out = (room_store, room_store), tmp_path / "merged"
    merge_stores(MergeConfig(stores, out, prefixes=("a_", "b_")))
    with pytest.raises(StoreError, match="made from other stores"):
        repair(out, room_recording)


def test_a_dry_run_changes_nothing(store: Path, room_recording: Path) -> None:
    flip_middle(files(store, "geometry", "000001.tar"))
    files(store, "features", "000002.json").unlink()
    shutil.rmtree(store / ".claims")
    before = times(store)
    config = RepairConfig(store, SourceConfig(root=room_recording))
    dry = run(replace(config, dry_run=True))
    assert dry.verified is None
    assert whats(dry) == {("geometry", 1, "extract"), ("features", 2, "extract")}
    assert times(store) == before
    assert not (store / ".claims").exists()
    assert run(config).actions == dry.actions


@pytest.mark.realdata
def test_a_real_recording_with_the_packaged_weights(data_root: Path, tmp_path: Path) -> None:
    root = data_root / "slambook2_office"
    config = extract.ExtractConfig(
        dataset="posed-rgbd", root=root, out=tmp_path / "out", shard_size=2, limit=4
    )
    out = extract.run(config)
    whole = tree(out)
    flip_middle(files(out, "features", "000000.tar"))
    files(out, "geometry", "000001.tar").unlink()
    assert whats(repair(out, root)) == {("features", 0, "extract"), ("geometry", 1, "extract")}
    assert tree(out) == whole
