import json
import socket
from collections.abc import Callable

import numpy as np
import pytest

from p2pkit.datasets.frame import Frame, FrameSource, SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.datasets.rgbd.depth_scale import depth_agreement
from p2pkit.datasets.rooms import textures as demo_textures
from p2pkit.datasets.rooms.furniture import LABELS
from p2pkit.datasets.rooms.layout import Room, make_room
from p2pkit.datasets.rooms.patterns import PATTERNS, pattern_image
from p2pkit.datasets.rooms.render import Rendering, depth_sigma_m, render, sensor_depth
from p2pkit.datasets.rooms.shapes import Material, SceneBuilder
from p2pkit.datasets.rooms.textures import load_textures, mean_color
from p2pkit.errors import FrameError, MissingDependencyError
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.transforms import invert_rigid

SMALL = Camera(width=80, height=60, fx=65.0, fy=65.0, cx=39.5, cy=29.5)

LOOKS_ALONG_Y = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def source() -> FrameSource:
    return open_source("demo-scene", SourceOptions(limit=13))


@pytest.fixture(scope="module")
def frames(source: FrameSource) -> list[Frame]:
    return [source.load(source.keys()[index]) for index in (0, 1, 12)]


def small_rendering(room: Room, pose: np.ndarray) -> Rendering:
    return render(room, load_textures(), camera=SMALL, world_from_camera=pose)


def add_cube(builder: SceneBuilder) -> None:
    """A cube of 1 m whose front shows the cameraman, 2 m in front of the origin along y."""
    material = Material("camera")
    builder.add_box((0.0, 2.5, -0.5), (1.0, 1.0, 1.0), yaw=0.0, material=material, label=7)


def test_keys_sequences_and_shapes(source: FrameSource, frames: list[Frame]):
    assert len(open_source("demo-scene", SourceOptions()).keys()) == 48
    assert source.keys()[:2] == ["room-0_frame-000000", "room-0_frame-000001"]
    assert [frame.sequence for frame in frames] == ["room-0", "room-0", "room-1"]
    for frame in frames:
        assert frame.views[0].image.shape == (240, 320, 3)
        assert frame.views[0].image.std() > 20
        assert frame.labels is not None
        assert frame.labels.shape == (240, 320)
    with pytest.raises(FrameError, match="no such frame among the 13"):
        source.load("room-3_frame-000000")


def test_same_seed_gives_the_same_bytes_and_another_seed_others(frames: list[Frame]):
    key = frames[1].key
    again = open_source("demo-scene", SourceOptions(limit=2)).load(key)
    other = open_source("demo-scene", SourceOptions(limit=2, seed=1)).load(key)
    for name in ("views", "depth", "labels", "world_from_sensor"):
        first, second, third = (getattr(frame, name) for frame in (frames[1], again, other))
        if name == "views":
            first, second, third = (views[0].image for views in (first, second, third))
        if name == "depth":
            first, second, third = (depth.values for depth in (first, second, third))
        assert first.tobytes() == second.tobytes()
        assert first.tobytes() != third.tobytes()


def test_fingerprint_names_the_seed_and_what_is_on_the_surfaces(source: FrameSource):
    fingerprint = source.fingerprint()
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    assert fingerprint["textures"] == load_textures().digest
    assert fingerprint == open_source("demo-scene", SourceOptions(limit=13)).fingerprint()
    assert fingerprint != open_source("demo-scene", SourceOptions(limit=13, seed=5)).fingerprint()
    assert fingerprint != open_source("demo-scene", SourceOptions(limit=13, every=2)).fingerprint()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_room_holds_every_class(source: FrameSource, seed: int):
    assert source.label_names is not None
    for number in range(4):
        room = make_room(load_textures(), np.random.default_rng([seed, number, 0]), 1)
        assert set(room.scene.classes.tolist()) == set(range(1, len(source.label_names)))


def test_every_class_is_seen_and_no_ray_escapes(source: FrameSource):
    assert source.label_names is not None
    room = make_room(load_textures(), np.random.default_rng([0, 0, 0]), 12)
    labels = np.stack([small_rendering(room, pose).labels for pose in room.poses[::2]])
    assert set(np.unique(labels)) == set(range(1, len(source.label_names)))


def test_cameras_stand_level_inside_the_room():
    room = make_room(load_textures(), np.random.default_rng(3), 12)
    assert ((room.poses[:, :3, 3] > 0.2) & (room.poses[:, :3, 3] < np.array(room.size) - 0.2)).all()
    np.testing.assert_allclose(room.poses[:, 2, 0], 0, atol=1e-12)
    assert (room.poses[:, 2, 1] < 0).all()


def test_floor_is_below_and_ceiling_above(frames: list[Frame]):
    for frame in frames:
        assert frame.depth is not None
        assert frame.labels is not None
        assert frame.world_from_sensor is not None
        v, u = np.nonzero((frame.labels == 1) & (frame.depth.values > 0))
        z = frame.depth.values[v, u] / frame.depth.units_per_metre
        camera = frame.depth.camera
        points = np.stack([(u - camera.cx) / camera.fx * z, (v - camera.cy) / camera.fy * z, z])
        height = frame.world_from_sensor[2, :3] @ points + frame.world_from_sensor[2, 3]
        assert np.abs(np.median(height)) < 0.01
        assert np.percentile(np.abs(height), 99) < 0.1


def test_neighbouring_frames_agree_through_their_poses(frames: list[Frame]):
    first, second = frames[:2]
    assert first.depth is not None
    assert second.depth is not None
    assert first.world_from_sensor is not None
    assert second.world_from_sensor is not None
    j_from_i = invert_rigid(second.world_from_sensor) @ first.world_from_sensor
    metres = [frame.depth.values / 1000.0 for frame in (first, second)]
    camera = first.depth.camera
    right = depth_agreement(metres[0], metres[1], camera, j_from_i)
    wrong = depth_agreement(metres[0], metres[1], camera, np.eye(4))
    assert right > 0.6
    assert right > 2 * wrong


def test_noise_grows_with_depth_and_holes_are_few():
    room = make_room(load_textures(), np.random.default_rng(0), 2)
    truth = small_rendering(room, room.poses[0])
    depth = sensor_depth(truth, np.random.default_rng(0))
    valid = depth > 0
    assert 0.8 < valid.mean() < 1.0
    error = depth[valid] / 1000.0 - truth.depth_m[valid]
    in_sigmas = error / np.hypot(depth_sigma_m(truth.depth_m[valid]), 0.001 / np.sqrt(12))
    assert 0.9 < in_sigmas.std() < 1.1
    assert np.abs(in_sigmas).max() < 6


def test_one_box_is_where_the_camera_model_puts_it():
    builder = SceneBuilder(load_textures())
    with builder.group():
        add_cube(builder)
    with builder.group():
        builder.add_sphere((-1.5, 4.0, 0.0), 0.5, material=Material("beach ball"), label=9)
    room = Room(builder.build(), (9.0, 9.0, 9.0), np.array([0.0, -2.0, 5.0]), np.empty((0, 4, 4)))
    seen = small_rendering(room, LOOKS_ALONG_Y)
    row, left = np.nonzero(seen.labels == 7)
    np.testing.assert_allclose(seen.depth_m[seen.labels == 7], 2.0, atol=1e-6)
    half = 0.5 / 2.0 * SMALL.fx
    assert (left.min(), left.max()) == (np.ceil(39.5 - half), np.floor(39.5 + half))
    assert (row.min(), row.max()) == (np.ceil(29.5 - half), np.floor(29.5 + half))
    assert seen.depth_m[seen.labels == 9].min() == pytest.approx(3.51, abs=0.03)
    assert (seen.labels == 0).any()
    assert (seen.depth_m[seen.labels == 0] == 0).all()


def test_pictures_hang_upright_and_are_not_mirrored():
    builder = SceneBuilder(load_textures())
    with builder.group():
        add_cube(builder)
    room = Room(builder.build(), (9.0, 9.0, 9.0), np.array([0.0, -2.0, 0.0]), np.empty((0, 4, 4)))
    seen = small_rendering(room, LOOKS_ALONG_Y)
    row, column = np.nonzero(seen.labels == 7)
    grey = seen.color[row.min() : row.max() + 1, column.min() : column.max() + 1, 0].astype(float)
    start, width, height = load_textures().levels[demo_textures.NAMES.index("camera"), 3]
    photograph = load_textures().texels[start : start + width * height, 0].reshape(height, width)
    turns: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "as is": lambda image: image,
        "mirrored": np.fliplr,
        "upside down": np.flipud,
    }
    match = {
        name: np.corrcoef(turn(photograph).ravel(), grey.ravel())[0, 1]
        for name, turn in turns.items()
    }
    assert match["as is"] > 0.95
    assert max(match["mirrored"], match["upside down"]) < 0.8


def test_no_network_is_used(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the demo scene opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    load_textures.cache_clear()
    assert open_source("demo-scene", SourceOptions(limit=1)).load("room-0_frame-000000").views


def test_missing_photograph_names_the_package(monkeypatch: pytest.MonkeyPatch):
    photographs = {**demo_textures.PHOTOGRAPHS, "cat": ("skimage", "data/gone.png")}
    monkeypatch.setattr(demo_textures, "PHOTOGRAPHS", photographs)
    load_textures.cache_clear()
    with pytest.raises(MissingDependencyError, match="pip install --force-reinstall scikit-image"):
        load_textures()
    load_textures.cache_clear()


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_is_the_same_on_every_call_and_keeps_its_mean_colour(name: str):
    image = pattern_image(name)
    assert np.array_equal(image, pattern_image(name))
    assert (image.min(), image.max()) > (0, 0)
    assert (image == 255).mean() < 0.01
    assert mean_color(load_textures(), name) * 255 == pytest.approx(image.mean(), abs=3)


@pytest.mark.parametrize("seed", range(3))
def test_rooms_differ_in_the_paint_or_paper_of_their_walls(seed: int):
    rooms = [
        make_room(load_textures(), np.random.default_rng([seed, number, 0]), 1).scene
        for number in range(4)
    ]
    walls = [room.materials[room.classes == LABELS["wall"]] for room in rooms]
    assert len({rows[:, 6:].tobytes() for rows in walls}) == len(rooms)
    papers = {
        demo_textures.NAMES.index(name) for name in ("striped paper", "damask paper", "paint")
    }
    skirting = demo_textures.NAMES.index("lacquer")
    for rows in walls:
        found = set(rows[:, 0].astype(int).tolist())
        assert skirting in found
        assert found - {skirting} <= papers
