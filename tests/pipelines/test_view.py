import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from box_points import points_in_boxes
from click.testing import CliRunner
from PIL import Image
from tiny_recording import NAMES, recording_config, tiny_train_config, write_recording

import p2pkit
from p2pkit.cli.main import commands
from p2pkit.errors import ConfigError, MissingDependencyError, StoreError
from p2pkit.geometry.boxes import Upright
from p2pkit.layers.features import FeatureConfig
from p2pkit.pipelines.evaluate.inference import read_cloud
from p2pkit.pipelines.extract.run import ExtractConfig
from p2pkit.pipelines.extract.run import run as extract
from p2pkit.pipelines.held_out import all_keys, samples_in_key_order
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.view import GAP_PX, ViewConfig, run
from p2pkit.store.reading import open_store
from p2pkit.teachers import TeacherOptions


@pytest.fixture(scope="module")
def tiny_run(room_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_train_config(room_store, steps=1, holdout=4)
    return train.run(config, tmp_path_factory.mktemp("run") / "run")


def test_a_picture_needs_no_teacher(room_recording: Path, tmp_path: Path) -> None:
    """As extracted with --teacher none."""
    plain = recording_config(room_recording, tmp_path / "plain.store", limit=1, features=None)
    [png] = run(ViewConfig(str(extract(plain)), png=tmp_path / "frame.png"))
    assert np.asarray(Image.open(png)).shape == (48, 3 * 64 + 2 * GAP_PX, 3)


def test_a_frame_as_a_picture(room_store: Path, tmp_path: Path) -> None:
    key = open_store(room_store).keys(0)[0]
    png = tmp_path / "pictures" / "frame.png"
    done = CliRunner().invoke(commands, ["view", str(room_store), key, "--png", str(png)])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(png)
    picture = np.asarray(Image.open(png))
    # Colours, depth, labels and the teacher, 64 x 48 px each.
    assert picture.shape == (48, 4 * 64 + 3 * GAP_PX, 3)
    assert (picture[:, 64 : 64 + GAP_PX] == 255).all()
    panels = [picture[:, start : start + 64] for start in range(0, 4 * 64, 64 + GAP_PX)]
    assert all(len(np.unique(panel.reshape(-1, 3), axis=0)) > 3 for panel in panels)


def test_without_a_key_the_first_frame_is_shown_and_with_several_one_row_each(
    room_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store(room_store)
    first, second, *_ = sorted(all_keys(store))
    done = CliRunner().invoke(commands, ["view", str(room_store)])
    assert done.stdout == f"{first}.png\n"
    alone = np.asarray(Image.open(f"{first}.png"))
    run(ViewConfig(str(room_store), (first, second), png=Path("both.png")))
    both = np.asarray(Image.open("both.png"))
    assert both.shape == (2 * 48 + GAP_PX, *alone.shape[1:])
    assert (both[:48] == alone).all()
    assert (both[48 + GAP_PX :] != alone).any()


def test_a_frame_as_a_point_cloud(room_store: Path, tmp_path: Path) -> None:
    open3d = pytest.importorskip("open3d", exc_type=ImportError)
    store = open_store(room_store)
    ply = tmp_path / "frame.ply"
    assert run(ViewConfig(str(room_store), ply=ply)) == [ply]
    cloud = read_cloud(store, int(samples_in_key_order(store)[0]))
    assert len(open3d.io.read_point_cloud(str(ply)).points) == len(cloud.points)


def test_a_run_s_student_is_shown_beside_the_teacher(
    room_store: Path, tiny_run: Path, tmp_path: Path
) -> None:
    png = tmp_path / "frame.png"
    run(ViewConfig(str(room_store), png=png, run=tiny_run))
    # Also the student, pretrained and with random weights.
    assert np.asarray(Image.open(png)).shape == (48, 6 * 64 + 5 * GAP_PX, 3)
    # Another recording with fewer frames than the run held out of its own.
    other = extract(recording_config(write_recording(tmp_path / "two", 2), tmp_path / "two.store"))
    run(ViewConfig(str(other), png=png, run=tiny_run))


def rrd_columns(path: Path) -> dict[str, list[Any]]:
    """The values of every component in the file by ENTITY:COMPONENT, in the order of frames."""
    from rerun.chunk import RrdReader

    found: dict[str, list[tuple[int, Any]]] = {}
    for chunk in RrdReader(path).stream():
        batch = chunk.to_record_batch()
        names = batch.schema.names
        frames = batch.column("frame").to_pylist() if "frame" in names else [-1] * len(batch)
        for name in names:
            if ":" in name:
                rows = zip(frames, batch.column(name).to_pylist(), strict=True)
                place = f"{chunk.entity_path}:{name}"
                found.setdefault(place, []).extend(row for row in rows if row[1] is not None)
    return {
        name: [value for _, value in sorted(rows, key=first_of)] for name, rows in found.items()
    }


def first_of(row: tuple[int, Any]) -> int:
    return row[0]


def test_a_rerun_recording_holds_every_frame(
    room_store: Path, tiny_run: Path, tmp_path: Path
) -> None:
    rerun = pytest.importorskip("rerun", reason="needs the extra rerun (rerun-sdk)")
    rerun.set_strict_mode(True)
    store = open_store(room_store)
    shown = samples_in_key_order(store)[:3].tolist()
    rrd = tmp_path / "rooms.rrd"
    config = ViewConfig(str(room_store), rrd=rrd, run=tiny_run, limit=3)
    assert run(config) == [rrd]
    found = rrd_columns(rrd)
    clouds = [read_cloud(store, sample) for sample in shown]
    assert [value[0] for value in found["/key:TextDocument:text"]] == [one.key for one in clouds]
    for number, cloud in enumerate(clouds):
        points = found["/world/sensor/points:Points3D:positions"][number]
        np.testing.assert_allclose(points, cloud.points, atol=1e-6)
        classes = found["/world/sensor/labels:Points3D:class_ids"][number]
        np.testing.assert_array_equal(classes, cloud.labels)
        for name in ("teacher", "student"):
            colors = found[f"/world/sensor/{name}:Points3D:colors"][number]
            assert len(colors) == len(found[f"/world/sensor/{name}:Points3D:positions"][number])
            assert len(set(colors)) > 20
    moved = [value[0] for value in found["/world/sensor:Transform3D:translation"]]
    np.testing.assert_allclose(np.diff(np.array(moved)[:, 0]), 0.013, atol=1e-6)
    camera = "/world/sensor/camera0"
    matrix = np.reshape(found[f"{camera}:Pinhole:image_from_camera"][0][0], (3, 3)).T
    np.testing.assert_allclose(matrix, [[60, 0, 31.5], [0, 60, 23.5], [0, 0, 1]], atol=1e-4)
    assert len(found[f"{camera}/image:Image:buffer"]) == 3
    depth = np.frombuffer(bytes(found[f"{camera}/depth:DepthImage:buffer"][0][0]), np.float32)
    assert depth.size == 64 * 48
    assert depth.max() == pytest.approx(2.0, abs=0.01)
    assert str(NAMES[3]) in str(found["/world:AnnotationContext:context"])


def test_boxes_lie_where_their_points_are(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="needs the extra rerun (rerun-sdk)")
    teacher = TeacherOptions(name="resnet10t", layer=2, weights="random", input_size=(80, 60))
    room = extract(
        ExtractConfig(
            dataset="demo-scene",
            root=None,
            out=tmp_path / "room.store",
            features=FeatureConfig(teacher=teacher),
            limit=1,
        )
    )
    rrd = tmp_path / "room.rrd"
    run(ViewConfig(str(room), rrd=rrd))
    found, boxes = rrd_columns(rrd), p2pkit.open_store(room)[0].boxes
    assert boxes is not None
    place = "/world/sensor/upright"
    half_sizes = np.array(found[f"{place}/boxes:Boxes3D:half_sizes"][0])
    np.testing.assert_allclose(2 * half_sizes, boxes.size, rtol=1e-6)
    assert len(found[f"{place}/boxes:Boxes3D:labels"][0]) == len(boxes.yaw)
    turn = np.reshape(found[f"{place}:Transform3D:mat3x3"][0][0], (3, 3)).T
    points = np.array(found["/world/sensor/points:Points3D:positions"][0], np.float64) @ turn
    x, y, z, w = np.array(found[f"{place}/boxes:Boxes3D:quaternions"][0], np.float64).T
    assert not np.any(x)
    assert not np.any(y)
    centers = np.array(found[f"{place}/boxes:Boxes3D:centers"][0], np.float64)
    inside = points_in_boxes(points, Upright(centers, 2.0 * half_sizes, 2 * np.arctan2(z, w)))
    np.testing.assert_allclose(inside.sum(axis=0), boxes.points, atol=3)


def test_rerun_is_named_where_it_is_missing(
    room_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rerun", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'p2pkit\[rerun\]'"):
        run(ViewConfig(str(room_store), rrd=tmp_path / "x.rrd"))
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_shown(
    room_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = open_store(room_store).keys(0)
    with pytest.raises(StoreError, match="nothing"):
        run(ViewConfig(str(room_store), ("nothing",), png=tmp_path / "x.png"))
    with pytest.raises(ConfigError, match="--ply shows one frame, found 2 keys"):
        run(ViewConfig(str(room_store), (first, second), ply=tmp_path / "x.ply"))
    for name in ("frame", "frame.xyz", "."):
        with pytest.raises(ConfigError, match=r"--png is .*; the file's name must end in \.png"):
            run(ViewConfig(str(room_store), (first,), png=tmp_path / name))
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(ConfigError, match="DISPLAY is not set"):
        run(ViewConfig(str(room_store), (first,), window=True))
    for options in (["--run", "x", "--layer", "y"], ["--run", "x", "--ply", "x.ply"]):
        done = CliRunner().invoke(commands, ["view", str(room_store), *options])
        assert done.exit_code == 2
        assert "--run" in done.output


def test_a_window_without_open3d_names_the_extra(
    room_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = open_store(room_store).keys(0)[0]
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'p2pkit\[view\]'"):
        run(ViewConfig(str(room_store), (key,), window=True))
