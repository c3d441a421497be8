import os
from pathlib import Path
from typing import Any

import pytest
from tiny_store import FEATURES, feature_layer, feature_sample, geometry_layer, manifest, write_all

from p2pkit.errors import StoreError
from p2pkit.pipelines.shards.drop_layer import drop_layer, layer_files
from p2pkit.store.reading import open_store
from p2pkit.store.verifying import verify_store
from p2pkit.store.writing import create_or_open

OTHER = "features/other-89abcdef"


@pytest.fixture(params=["tar", "zarr"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store with two feature layers."""
    root = tmp_path / "store"
    write_all(root, request.param)
    layers = (geometry_layer(), feature_layer(OTHER))
    writer = create_or_open(root, manifest(request.param, *layers))
    for shard in range(3):
        keys = open_store(root).keys(shard)
        writer.write(OTHER, shard, [feature_sample(key) for key in keys])
    return root


def test_a_dropped_layer_is_gone_and_the_rest_stays(store: Path):
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    expected = layer_files(store, "other")
    found = drop_layer(store, "other")
    assert found == expected
    assert found.name == OTHER
    gone = {path for path in before if "other-89abcdef" in str(path)}
    assert (found.files, found.bytes) == (len(gone), sum(len(before[path]) for path in gone))
    assert not (store / OTHER).exists()
    assert [layer.name for layer in open_store(store).manifest.layers] == ["geometry", FEATURES]
    assert verify_store(store, deep=True).ok
    after = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    del before[store / "p2pkit.json"], after[store / "p2pkit.json"]
    assert after == {path: data for path, data in before.items() if path not in gone}


def test_a_layer_is_dropped_by_the_url_of_its_folder(store: Path):
    url = Path(store.as_uri())
    assert layer_files(url, "other").files > 0
    drop_layer(url, "other")
    assert not (store / OTHER).exists()


def test_counting_passes_over_what_a_worker_renames(store: Path, monkeypatch: pytest.MonkeyPatch):
    expected, writing = layer_files(store, "other"), store / OTHER / ".tmp-000003.zarr"
    writing.mkdir()
    scandir = os.scandir

    def scandir_late(path: str | Path) -> Any:
        if Path(path) == writing:
            writing.rename(store / "elsewhere")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scandir_late)
    assert layer_files(store, "other") == expected
    assert not writing.exists()


def test_the_geometry_and_unknown_layers_are_refused(store: Path):
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    with pytest.raises(StoreError, match="geometry cannot be dropped"):
        drop_layer(store, "geometry")
    with pytest.raises(StoreError, match="does not exist"):
        drop_layer(store, "nothing")
    with pytest.raises(StoreError, match="does not exist"):
        drop_layer(store, "../store/features/x")
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before


def test_a_drop_that_was_cut_short_is_finished(store: Path, monkeypatch: pytest.MonkeyPatch):
    removed: list[Path] = []
    unlink = Path.unlink

    def stop(path: Path, missing_ok: bool = False) -> None:
        if "other" in str(path.parent):
            removed.append(path)
            if len(removed) == 2:
                raise KeyboardInterrupt
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", stop)
    with pytest.raises(KeyboardInterrupt):
        drop_layer(store, OTHER)
    monkeypatch.undo()
    assert verify_store(store, deep=True).ok
    assert (store / OTHER).is_dir()
    drop_layer(store, OTHER)
    assert not (store / OTHER).exists()
    assert os.listdir(store / "features") == [FEATURES.split("/")[1]]
