import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pkit.errors import ConfigError
from p2pkit.store.reading import open_store
from p2pkit.stream.batches import Batch, BatchStream, StreamConfig, StreamSource, collate
from p2pkit.stream.order import locate
from p2pkit.stream.samples import SampleConfig, VoxelSample

CONFIG = StreamConfig(batch_size=5, sample=SampleConfig(voxel_size=0.2, pairs_per_frame=20))


def stream(
    store: Path, config: StreamConfig = CONFIG, *, rank: int = 0, ranks: int = 1
) -> BatchStream:
    opened = open_store(store)
    (layer,) = opened.feature_layers
    source = StreamSource(opened, layer, np.arange(12))
    return BatchStream([source], config=config, rank=rank, ranks=ranks)


def content(batch: Batch) -> tuple[int, ...] | tuple[object, ...]:
    """All but the waiting time."""
    tensors = {name: value for name, value in vars(batch).items() if torch.is_tensor(value)}
    return (batch.step, batch.frames, *(value.numpy().tobytes() for value in tensors.values()))


@pytest.fixture(scope="module")
def expected(room_store: Path) -> list[Batch]:
    """Ten batches of five, over four epochs of twelve frames."""
    return list(stream(room_store).batches(0, 10))


def test_batches_are_well_formed(expected: list[Batch]) -> None:
    assert [batch.step for batch in expected] == list(range(10))
    for batch in expected:
        assert batch.frames == 5
        assert len(torch.unique(batch.coordinates, dim=0)) == len(batch.coordinates)
        assert batch.coordinates[:, 0].unique().tolist() == list(range(5))
        assert len(batch.inputs) == len(batch.coordinates)
        assert len(batch.pair_voxel) == len(batch.pair_feature) == len(batch.pair_cell) == 100
        frame_of_pair = batch.coordinates[batch.pair_voxel, 0]
        assert frame_of_pair.tolist() == [frame for frame in range(5) for _ in range(20)]
        cells = [set(batch.pair_cell[frame_of_pair == frame].tolist()) for frame in range(5)]
        assert sum(map(len, cells)) == len(set.union(*cells))


@settings(deadline=None, max_examples=12)
@given(start=st.integers(0, 9), threads=st.integers(1, 4), ahead=st.integers(1, 4))
def test_resuming_at_any_step_gives_the_same_batches_on_any_threads(
    room_store: Path, expected: list[Batch], start: int, threads: int, ahead: int
) -> None:
    config = replace(CONFIG, threads=threads, ahead=ahead)
    found = list(stream(room_store, config).batches(start, min(start + 3, 10)))
    assert list(map(content, found)) == list(map(content, expected[start : start + 3]))


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_ranks_share_each_batch(room_store: Path, expected: list[Batch], ranks: int) -> None:
    parts = [
        list(stream(room_store, rank=rank, ranks=ranks).batches(0, 4)) for rank in range(ranks)
    ]
    for step in range(4):
        mine = [part[step] for part in parts]
        for name in ("inputs", "pair_feature"):
            joined = torch.cat([getattr(batch, name) for batch in mine])
            assert torch.equal(joined, getattr(expected[step], name))
        voxels = torch.cat([batch.coordinates[:, 1:] for batch in mine])
        assert torch.equal(voxels, expected[step].coordinates[:, 1:])


def test_the_seed_changes_order_and_augmentation(room_store: Path, expected: list[Batch]) -> None:
    other = next(stream(room_store, replace(CONFIG, seed=1)).batches(0, 1))
    assert content(other) != content(expected[0])


def test_a_frame_is_augmented_anew_in_each_epoch(room_store: Path) -> None:
    config = replace(CONFIG, batch_size=1)
    batches = stream(room_store, config)
    sizes = open_store(room_store).sizes("geometry")
    first = [batches.order.batch(step, 1)[0].sample for step in range(24)]
    assert locate(sizes, first[0])[0] < 3
    again = first[12:].index(first[0]) + 12
    found = list(batches.batches(0, again + 1))
    assert content(found[0])[2:] != content(found[again])[2:]


def test_leaving_early_stops_the_threads(room_store: Path) -> None:
    batches = stream(room_store).batches(0, 1000)
    next(batches)
    batches.close()
    names = [thread.name for thread in threading.enumerate()]
    assert not any(name.startswith("p2pkit-prefetch") for name in names)


def test_pinning_is_done_ahead_and_changes_nothing(
    room_store: Path, expected: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def pinned(tensor: torch.Tensor) -> torch.Tensor:
        threads.append(threading.current_thread().name)
        return tensor.clone()

    monkeypatch.setattr(Batch, "pin_memory", lambda batch: batch._mapped(pinned))
    store = open_store(room_store)
    source = StreamSource(store, store.feature_layers[0], np.arange(12))
    found = list(BatchStream([source], config=CONFIG, pin=True).batches(0, 2))
    assert list(map(content, found)) == list(map(content, expected[:2]))
    assert threads
    assert threading.current_thread().name not in threads


def test_collating_keeps_rows_and_cells_of_frames_apart() -> None:
    def sample(cells: list[int]) -> VoxelSample:
        return VoxelSample(
            coordinates=np.array([[0, 0, 0], [1, 2, 3]], np.int32),
            points=np.zeros((2, 3), np.float32),
            inputs=np.zeros((2, 3), np.float32),
            pair_voxel=np.array([1, 0]),
            pair_feature=np.zeros((2, 4), np.float32),
            pair_cell=np.array(cells),
            pair_confidence=np.array([0.5, cells[0] / 7], np.float32),
        )

    batch = collate(3, [sample([7, 7]), sample([0, 7])])
    assert batch.coordinates.tolist() == [[0, 0, 0, 0], [0, 1, 2, 3], [1, 0, 0, 0], [1, 1, 2, 3]]
    assert batch.pair_voxel.tolist() == [1, 0, 3, 2]
    assert batch.pair_cell.tolist() == [7, 7, 8, 15]
    assert batch.pair_confidence.tolist() == [0.5, 1, 0.5, 0]
    assert batch.pair_superpixel is None
    cut = [replace(sample([0, 0]), pair_superpixel=np.array(ids)) for ids in ([0, 5], [5, 3])]
    found = collate(3, cut).pair_superpixel
    assert found is not None
    assert found.tolist() == [0, 5, 11, 9]
    assert (batch.step, batch.frames) == (3, 2)


@pytest.mark.parametrize(
    "changes", [{"batch_size": 0}, {"threads": 0}, {"ahead": 0}, {"seed": -1}, {"seed": 2**64}]
)
def test_impossible_settings_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        StreamConfig(**changes)


def mixture(rooms: Path, *, rank: int = 0, ranks: int = 1) -> BatchStream:
    """The same store twice, as two sources of 8 and 3 frames, 2 : 1, over several epochs each."""
    opened = open_store(rooms)
    (layer,) = opened.feature_layers
    sources = [
        StreamSource(opened, layer, np.arange(8), weight=2),
        StreamSource(opened, layer, np.arange(9, 12), weight=1),
    ]
    return BatchStream(sources, config=replace(CONFIG, batch_size=9), rank=rank, ranks=ranks)


def test_a_mixture_resumes_on_other_ranks_with_the_same_batches(room_store: Path) -> None:
    """Three of eight steps on eight ranks, the others on three."""
    expected = list(mixture(room_store).batches(0, 8))
    for ranks, start, stop in ((8, 0, 3), (3, 3, 8)):
        parts = [
            list(mixture(room_store, rank=rank, ranks=ranks).batches(start, stop))
            for rank in range(ranks)
        ]
        for step in range(start, stop):
            mine = [part[step - start] for part in parts]
            for name in ("inputs", "pair_feature"):
                joined = torch.cat([getattr(batch, name) for batch in mine])
                assert torch.equal(joined, getattr(expected[step], name))
            voxels = torch.cat([batch.coordinates[:, 1:] for batch in mine])
            assert torch.equal(voxels, expected[step].coordinates[:, 1:])
