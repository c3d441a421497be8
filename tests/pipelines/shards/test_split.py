import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from part_store import contents, keys_of, payloads, write_part
from store_files import tree

from p2pkit.errors import ConfigError, StoreError
from p2pkit.pipelines.shards.split import SplitConfig, SplitResult, split_store
from p2pkit.store.reading import open_store
from p2pkit.store.verifying import verify_store

KEYS = [
    f"{name}_{number}" for name, count in (("a", 5), ("b", 3), ("c", 4)) for number in range(count)
]


def config(tmp_path: Path, **changes: Any) -> SplitConfig:
    base = SplitConfig(tmp_path / "s", tmp_path / "train", tmp_path / "val", val_fraction=0.3)
    return dataclasses.replace(base, **changes)


@pytest.mark.parametrize("storage", ["tar", "zarr"])
def test_the_parts_share_no_sequence_and_lose_no_sample(storage: str, tmp_path: Path):
    write_part(tmp_path / "s", KEYS, storage=storage, failed=["b_1"])
    result = split_store(config(tmp_path))
    train, val = (open_store(tmp_path / part) for part in ("train", "val"))
    assert verify_store(train.root, deep=True).ok
    assert verify_store(val.root, deep=True).ok
    assert contents(train) | contents(val) == contents(open_store(tmp_path / "s"))
    assert not {key[0] for key in keys_of(train)} & {key[0] for key in keys_of(val)}
    assert {key[0] for key in keys_of(val)} == set(result.val_sequences)
    assert (result.train, result.val) == (len(keys_of(train)), len(keys_of(val)))
    assert result.train + result.val == 11
    assert result.left_out == 1


def test_payload_bytes_are_those_of_the_source(tmp_path: Path):
    write_part(tmp_path / "s", KEYS)
    split_store(config(tmp_path))
    train, val = (payloads(open_store(tmp_path / part)) for part in ("train", "val"))
    assert train | val == payloads(open_store(tmp_path / "s"))


def test_the_same_seed_gives_the_same_files_and_seeds_differ(tmp_path: Path):
    write_part(tmp_path / "s", [f"{name}_{number}" for name in "abcd" for number in (1, 2)])
    chosen: set[tuple[str, ...]] = set()
    for seed in range(5):
        outs = {"out_train": tmp_path / f"t{seed}", "out_val": tmp_path / f"v{seed}"}
        result = split_store(config(tmp_path, seed=seed, **outs))
        again = split_store(config(tmp_path, seed=seed, **outs))
        assert result == again
        chosen.add(result.val_sequences)
    assert len(chosen) > 1
    first, second = (open_store(tmp_path / part).manifest.layers for part in ("t0", "v0"))
    assert first[0].fingerprint["made_from"]["split"] == "train"
    assert first[0].fingerprint_sha256 != second[0].fingerprint_sha256
    assert first[1].fingerprint["geometry"] == first[0].fingerprint_sha256


def test_by_key_order_cuts_off_the_end(tmp_path: Path):
    keys = [f"frame-{number}" for number in range(10)]
    write_part(tmp_path / "s", keys)
    with pytest.raises(StoreError, match=r"10 of 10 samples name none.*--by key-order"):
        split_store(config(tmp_path))
    result = split_store(config(tmp_path, by="key-order"))
    assert result == SplitResult(train=7, val=3, val_sequences=(), left_out=0)
    assert sorted(keys_of(open_store(tmp_path / "val"))) == keys[7:]


@pytest.mark.parametrize("keys", [["a_1", "a_2"], ["a_1", "b_1", "frame-3"]])
def test_one_sequence_or_unnamed_frames_cannot_be_split(keys: list[str], tmp_path: Path):
    write_part(tmp_path / "s", keys)
    with pytest.raises(StoreError, match="cannot be split by sequence"):
        split_store(config(tmp_path))
    assert not (tmp_path / "train").exists()


def test_impossible_settings(tmp_path: Path):
    write_part(tmp_path / "s", KEYS)
    for fraction in (0.0, 1.0, -1.0):
        with pytest.raises(ConfigError, match=f"val_fraction is {fraction}"):
            split_store(config(tmp_path, val_fraction=fraction))
    with pytest.raises(ConfigError, match="name two folders"):
        split_store(config(tmp_path, out_val=tmp_path / "train"))
    with pytest.raises(StoreError, match="leaves one side empty"):
        split_store(config(tmp_path, by="key-order", val_fraction=0.01))


def test_an_interrupted_split_goes_on(tmp_path: Path):
    write_part(tmp_path / "s", KEYS)
    split_store(config(tmp_path))
    whole = tree(tmp_path / "train"), tree(tmp_path / "val")
    broken = config(tmp_path, out_train=tmp_path / "t", out_val=tmp_path / "v")
    calls: list[int] = []

    def stop(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        split_store(broken, stop)
    split_store(broken)
    assert (tree(tmp_path / "t"), tree(tmp_path / "v")) == whole


@settings(deadline=None, max_examples=8)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=2, max_size=5),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 99),
)
def test_any_split_is_disjoint_and_nearest(
    sizes: list[int], fraction: float, seed: int, tmp_path_factory: pytest.TempPathFactory
):
    root = tmp_path_factory.mktemp("any")
    write_part(root / "s", [f"s{n}_{i}" for n, size in enumerate(sizes) for i in range(size)])
    result = split_store(config(root, val_fraction=fraction, seed=seed))
    assert 0 < len(result.val_sequences) < len(sizes)
    chosen = {int(name[1:]) for name in result.val_sequences}
    assert result.val == sum(sizes[number] for number in chosen)
    assert result.train == sum(sizes) - result.val
    wanted = fraction * sum(sizes)
    assert abs(result.val - wanted) <= max(sizes)
    assert abs(result.val - wanted) <= min(abs(size - wanted) for size in sizes)
