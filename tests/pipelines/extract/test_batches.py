"""The teacher in batches: which images share one, what a failure costs, what records say."""

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from second_device import second_device
from store_files import tree
from tiny_recording import TEACHER, recording_config

from p2pkit.errors import BadMapError, FrameError, TeacherError, TeacherMemoryError
from p2pkit.layers.features import FeatureConfig
from p2pkit.pipelines.extract import job as job_module
from p2pkit.pipelines.extract.job import open_job, take
from p2pkit.pipelines.extract.mend import RepairConfig, SourceConfig
from p2pkit.pipelines.extract.mend import run as repair
from p2pkit.pipelines.extract.run import ExtractConfig, Progress, run
from p2pkit.pipelines.extract.teacher_batches import Images, in_batches
from p2pkit.pipelines.extract.worker import ShardTask
from p2pkit.store.manifest import GEOMETRY
from p2pkit.store.reading import open_store
from p2pkit.store.verifying import verify_store
from p2pkit.teachers import network_teacher
from p2pkit.teachers.network_teacher import NetworkTeacher


class Sizes:
    """A teacher whose map is its image's first value; it knows the batches that it was given."""

    def __init__(self) -> None:
        self.batches: list[tuple[tuple[int, int], list[int]]] = []

    def features(self, images: list[np.ndarray]) -> np.ndarray:
        values = [int(image[0, 0, 0]) for image in images]
        self.batches.append((images[0].shape[1::-1], values))
        if 13 in values:
            raise BadMapError("a feature has magnitude nan", values.index(13))
        if 14 in values:
            raise TeacherError("the network fails")
        return np.array(values, np.float16).reshape(-1, 1, 1, 1)


def frame(number: int, *images: tuple[int, int, int]) -> Images[tuple[int, list[int]]]:
    """A frame whose images have these widths, heights and values; its result names them."""
    arrays = [np.full((height, width, 3), value, np.uint8) for width, height, value in images]

    def finish(maps: Any) -> tuple[int, list[int]]:
        return number, [int(found[0, 0, 0]) for found in maps["features/a"]]

    views = [None] * len(images)
    named: Any = SimpleNamespace(key=f"frame-{number}", views=views)
    return Images(named, {"features/a": arrays}, finish)


def results(
    frames: list[Any], size: int = 3, threads: int = 2
) -> tuple[list[Any], list[tuple[tuple[int, int], list[int]]]]:
    teacher = Sizes()
    layers: Any = {"features/a": SimpleNamespace(teacher=teacher)}
    found = list(in_batches(frames, layers, sizes={"features/a": size}, threads=threads))
    return found, sorted(teacher.batches)


@pytest.mark.parametrize("threads", [1, 3])
def test_images_of_one_size_share_a_batch_in_the_frames_order(threads: int) -> None:
    frames = [frame(n, (8, 6, 2 * n), (8, 6, 2 * n + 1)) for n in range(4)]
    frames.insert(1, frame(9, (6, 8, 100)))
    frames.insert(4, frame(10, (6, 8, 101), (8, 6, 102)))
    found, batches = results(frames, threads=threads)
    assert found == [
        (0, [0, 1]),
        (9, [100]),
        (1, [2, 3]),
        (2, [4, 5]),
        (10, [101, 102]),
        (3, [6, 7]),
    ]
    assert batches == [
        ((6, 8), [100, 101]),
        ((8, 6), [0, 1, 2]),
        ((8, 6), [3, 4, 5]),
        ((8, 6), [102, 6, 7]),
    ]


def test_a_bad_frame_is_in_no_batch_and_costs_no_other() -> None:
    bad = FrameError("frame-7", "its image is cut")
    found, batches = results([frame(0, (8, 6, 0)), bad, frame(1, (8, 6, 1)), frame(2, (8, 6, 2))])
    assert found == [(0, [0]), bad, (1, [1]), (2, [2])]
    assert batches == [((8, 6), [0, 1, 2])]


def test_a_map_that_cannot_be_stored_names_frame_and_view() -> None:
    frames = [frame(n, (8, 6, 2 * n), (8, 6, 2 * n + 1)) for n in range(9)]
    with pytest.raises(TeacherError, match=r"^frame frame-6, view 1: a feature has magnitude nan"):
        results(frames)


def test_a_failing_teacher_ends_the_frames() -> None:
    threads = threading.active_count()
    with pytest.raises(TeacherError, match="the network fails"):
        results([frame(n, (8, 6, n)) for n in range(14, 60)])
    assert threading.active_count() == threads


def test_results_that_nobody_wants_end_the_threads() -> None:
    threads = threading.active_count()
    layers: Any = {"features/a": SimpleNamespace(teacher=Sizes())}
    frames: Iterator[Any] = (frame(n, (8, 6, 0)) for n in range(60))
    some = in_batches(frames, layers, sizes={"features/a": 2}, threads=2)
    assert next(some) == (0, [0])
    some.close()
    assert threading.active_count() == threads


def on(device: str, config: ExtractConfig, **teacher: Any) -> ExtractConfig:
    """The extraction with its teacher on a device."""
    assert config.features is not None
    options = replace(config.features.teacher, device=device, **teacher)
    return replace(config, features=replace(config.features, teacher=options))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each pass of a network had."""
    sizes: list[int] = []
    run_network = NetworkTeacher._run

    def counted(self: NetworkTeacher, images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return run_network(self, images)

    monkeypatch.setattr(NetworkTeacher, "_run", counted)
    return sizes


def too_small_for(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give networks a memory that this many images do not fit into."""
    run_network = NetworkTeacher._run

    def limited(self: NetworkTeacher, batch: torch.Tensor) -> torch.Tensor:
        if len(batch) >= images:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run_network(self, batch)

    monkeypatch.setattr(NetworkTeacher, "_run", limited)


def test_an_accelerator_gets_batches_and_its_records_say_so(
    room_recording: Path, room_store: Path, tmp_path: Path, seen: list[int]
) -> None:
    config = recording_config(room_recording, tmp_path / "a")
    with second_device() as device:
        first = open_store(run(on(device, config, batch_size=3)))
        assert sorted(seen)[-6:] == [1, 1, 1, 3, 3, 3]
        run(on(device, replace(config, out=tmp_path / "b", threads=1), batch_size=3))
    assert tree(tmp_path / "b") == tree(tmp_path / "a")
    layer = first.feature_layers[0]
    expected = {"batch_size": 3, "device": "meta", "precision": "float32"}
    for shard in range(3):
        accelerator = first.record(layer, shard).accelerator
        assert accelerator is not None
        assert "torch" in accelerator.pop("libraries")
        assert accelerator == expected
        assert first.record(GEOMETRY, shard).accelerator is None
    here = open_store(room_store)
    assert here.manifest == first.manifest
    for shard in range(3):
        assert "accelerator" not in json.loads(
            (room_store / layer / f"{shard:06d}.json").read_text()
        )
        for row in range(len(here.keys(shard))):
            maps = [store.read(layer, shard, row).arrays["map"] for store in (here, first)]
            np.testing.assert_allclose(maps[1], maps[0], rtol=2e-3, atol=2e-3)


def test_on_a_cpu_no_byte_depends_on_the_batch_size(
    room_recording: Path, room_store: Path, tmp_path: Path, seen: list[int]
) -> None:
    config = recording_config(room_recording, tmp_path / "out")
    run(on("cpu", config, batch_size=8))
    assert set(seen) == {1}
    assert tree(config.out) == tree(room_store)


def test_too_little_memory_halves_the_batch_of_its_shard(
    room_recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_small_for(3, monkeypatch)
    config, reports = recording_config(room_recording, tmp_path / "out"), list[Progress]()
    with second_device() as device:
        store = open_store(run(on(device, config, batch_size=4), progress=reports.append))
    lines = sorted(report.line for report in reports if report.line)
    assert [line.partition(":")[0] for line in lines] == [
        f"shard {shard} starts again with batches of 2" for shard in range(3)
    ]
    assert "meta has too little memory for 4 images of 64 x 48 px" in lines[0]
    records = [store.record(store.feature_layers[0], shard) for shard in range(3)]
    assert [record.accelerator and record.accelerator["batch_size"] for record in records] == [
        2
    ] * 3
    assert verify_store(config.out, deep=True).ok
    assert (reports[-1].done, reports[-1].failed) == (12, 0)
    assert max(report.done for report in reports) == 12


def test_too_little_memory_for_one_image_says_what_to_do(
    room_recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recording_config(room_recording, tmp_path / "out")
    with second_device() as device:
        run(on(device, replace(config, limit=4)))
        shutil.rmtree(config.out)
        job = open_job(on(device, config, batch_size=4))
        too_small_for(1, monkeypatch)
        with pytest.raises(TeacherMemoryError, match=r"for 1 image of .*--input-size"):
            take(job, 0)
    assert not (config.out / "geometry" / "000000.json").exists()


def test_an_error_in_one_of_two_shards_ends_the_other(
    room_recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recording_config(room_recording, tmp_path / "out")

    def fail(*_: Any, **__: Any) -> None:
        raise TeacherError("no")

    monkeypatch.setattr(job_module, "stop_if_too_many", fail)
    with second_device() as device, pytest.raises(TeacherError, match=r"^no$"):
        run(on(device, config, batch_size=2))
    assert not list((config.out / ".claims").iterdir())


@pytest.mark.parametrize("default", [2, 32])
def test_a_repair_takes_the_batches_of_the_record(
    room_recording: Path,
    tmp_path: Path,
    seen: list[int],
    default: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the record's are larger than the default."""
    monkeypatch.setattr(network_teacher, "BATCH_SIZE", default)
    config = recording_config(room_recording, tmp_path / "out")
    with second_device() as device:
        store = open_store(run(on(device, config, batch_size=3)))
        before = tree(config.out)
        shard = config.out / store.feature_layers[0] / "000001.tar"
        shard.write_bytes(b"")
        seen.clear()
        source = SourceConfig(root=room_recording, device=device)
        assert [action.what for action in repair(RepairConfig(config.out, source)).actions] == [
            "extract"
        ]
    assert sorted(seen)[-2:] == [1, 3]
    assert tree(config.out) == before


@pytest.mark.parametrize("device", ["cpu", "second"])
def test_after_a_double_claim_the_first_record_stays(
    room_recording: Path, tmp_path: Path, device: str
) -> None:
    """A worker that was asleep while another finished its shard, with batches of another size."""
    config = recording_config(room_recording, tmp_path / "out", limit=4)
    with second_device() as there:
        name = there if device == "second" else "cpu"
        run(on(name, config, batch_size=4))
        before = {file: (config.out / file).stat().st_mtime_ns for file in tree(config.out)}
        late = open_job(on(name, config, batch_size=3))
        task = ShardTask(0, late.shards[0], late.worker.names)
        late.worker.write_shard(task, late.writer)
    assert before == {file: (config.out / file).stat().st_mtime_ns for file in tree(config.out)}
    assert verify_store(config.out, deep=True).ok


def test_views_and_superpixels_come_with_the_batches(room_recording: Path, tmp_path: Path) -> None:
    features = FeatureConfig(teacher=TEACHER, stored_views="flip,scale:0.5", map="pca:8+int8")
    config = recording_config(
        room_recording, tmp_path / "out", features=features, limit=4, superpixels="slic:20"
    )
    with second_device() as device:
        store = open_store(run(on(device, config, batch_size=3)))
    here = open_store(run(replace(config, out=tmp_path / "cpu")))
    for layer in here.manifest.layers:
        for row in range(4):
            one, other = (x.read(layer.name, 0, row) for x in (here, store))
            assert one.meta == other.meta
            for name, array in one.arrays.items():
                close = 1 if array.dtype == np.uint8 else 1e-2
                np.testing.assert_allclose(
                    other.arrays[name].astype(float), array.astype(float), atol=close, rtol=1e-2
                )
