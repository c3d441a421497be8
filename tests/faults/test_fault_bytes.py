"""A shard cut anywhere, or with one bad byte anywhere, is reported, and never trained on."""

import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_recording import tiny_train_config
from tiny_store import FEATURES, flip

from p2pkit.cli.commands.shards import shards
from p2pkit.errors import CorruptShardError, StoreError
from p2pkit.store.reading import open_store
from p2pkit.store.tar.writer import BLOCK, INDEX, META
from p2pkit.store.verifying import verify_store
from p2pkit.stream.batches import BatchStream, StreamSource


def members(path: Path) -> list[tarfile.TarInfo]:
    with tarfile.open(path) as tar:
        return tar.getmembers()


def key_and_field(name: str) -> tuple[str | None, str | None]:
    if name in (INDEX, META):
        return None, None
    key, rest = name.split(".", 1)
    return key, rest.removesuffix(".npy")


def read_rows(root: Path, layer: str, shard: int) -> None:
    store = open_store(root)
    for row in range(len(store.keys(shard))):
        store.read(layer, shard, row)


def train(root: Path) -> None:
    store = open_store(root)
    config = tiny_train_config(root).stream
    samples = np.arange(store.samples)
    stream = BatchStream([StreamSource(store, store.feature_layers[0], samples)], config=config)
    list(stream.batches(0, store.samples // 2))


@pytest.mark.parametrize("layer", ["geometry", FEATURES])
def test_cut_at_every_block_names_the_member_that_is_cut(whole_tar: Path, layer: str) -> None:
    path = whole_tar / layer / "000001.tar"
    content, inside = path.read_bytes(), members(path)
    for size in range(0, len(content), BLOCK):
        os.truncate(path, size)
        cut = next((m for m in inside if m.offset < size < m.offset_data + m.size), None)
        reported = [p for p in verify_store(whole_tar, deep=True).problems if p.layer == layer]
        assert [p.shard for p in reported] == [1], size
        expected = key_and_field(cut.name) if cut else (None, None)
        assert (reported[0].key, reported[0].field) == expected, size
        with pytest.raises(CorruptShardError, match=f"has {size} bytes; its record says"):
            open_store(whole_tar).read(layer, 1, 0)
        path.write_bytes(content)


@pytest.mark.parametrize("layer", ["geometry", FEATURES])
def test_a_bad_byte_in_each_part_of_each_member_is_told(whole_tar: Path, layer: str) -> None:
    """Header, first and last byte of the payload, padding; index, meta and the end."""
    path = whole_tar / layer / "000002.tar"
    inside = members(path)
    for member in inside:
        end = member.offset_data + member.size
        padding = [end] if member.size % BLOCK else []
        for position in [member.offset + 5, member.offset_data, end - 1, *padding]:
            flip(path, position)
            problems = verify_store(whole_tar, deep=True).problems
            reported = {(p.layer, p.shard, p.key, p.field) for p in problems}
            assert (layer, 2, *key_and_field(member.name)) in reported, (member.name, position)
            if member.offset_data <= position < end:
                with pytest.raises(CorruptShardError) as error:
                    read_rows(whole_tar, layer, 2)
                named = (error.value.key, error.value.field)
                assert named == key_and_field(member.name)
                assert error.value.shard == str(path)
            flip(path, position)
    for position in (path.stat().st_size - 1, path.stat().st_size - 2 * BLOCK):
        flip(path, position)
        assert {p.shard for p in verify_store(whole_tar, deep=True).problems} == {2}
        flip(path, position)
    assert verify_store(whole_tar, deep=True).ok


@pytest.mark.parametrize("name", ["p2pkit.json", "geometry/000001.json", f"{FEATURES}/000000.json"])
def test_a_bad_byte_in_manifest_or_record_is_told(whole_tar: Path, name: str) -> None:
    path = whole_tar / name
    for position in range(0, path.stat().st_size, 7):
        flip(path, position)
        assert not verify_store(whole_tar, deep=True).ok
        flip(path, position)


def test_the_command_tells_the_place_and_exits_with_1(whole_tar: Path) -> None:
    member = members(whole_tar / FEATURES / "000001.tar")[0]
    flip(whole_tar / FEATURES / "000001.tar", member.offset_data + 200)
    result = CliRunner().invoke(shards, ["verify", str(whole_tar), "--deep"])
    key, field = key_and_field(member.name)
    assert result.exit_code == 1
    assert f"layer {FEATURES}, shard 1, key {key}, field {field}: " in result.output


@pytest.mark.parametrize("layer", ["geometry", "features"])
def test_training_refuses_a_bad_byte_in_any_member(
    room_store: Path, tmp_path: Path, layer: str
) -> None:
    root = shutil.copytree(room_store, tmp_path / "store")
    path = next(root.glob(f"{layer}/**/000001.tar"))
    for member in members(path):
        flip(path, member.offset_data + member.size // 2)
        with pytest.raises(CorruptShardError) as error:
            train(root)
        assert (error.value.key, error.value.field) == key_and_field(member.name)
        flip(path, member.offset_data + member.size // 2)


def test_training_refuses_a_cut_shard_and_a_lost_record(room_store: Path, tmp_path: Path) -> None:
    root = shutil.copytree(room_store, tmp_path / "store")
    path = root / "geometry" / "000002.tar"
    os.truncate(path, path.stat().st_size // BLOCK // 2 * BLOCK)
    with pytest.raises(CorruptShardError, match="it is truncated in"):
        train(root)
    (root / "geometry" / "000002.json").unlink()
    with pytest.raises(StoreError, match="incomplete: 2 of 3 shards"):
        train(root)
