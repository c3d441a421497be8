"""The student's inputs: what stores have, which are chosen, and how they follow augmentation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_recording import recording_config

from p2pkit.errors import ConfigError
from p2pkit.geometry.students.point_inputs import height_above_ground, surface_normals
from p2pkit.layers.frames import FrameStore, open_store
from p2pkit.layers.geometry import PointCloud
from p2pkit.pipelines.extract import run as extract
from p2pkit.settings.stream import AugmentConfig, Input, SampleConfig
from p2pkit.stream.augmentation import NO_AUGMENTATION
from p2pkit.stream.inputs import (
    CHANNELS,
    Z_UP,
    available_inputs,
    blanked_inputs,
    check_inputs,
    chosen_inputs,
    input_channels,
    see,
    stored_up,
    unaugmented,
)

STILL = SampleConfig(voxel_size=0.1, augment=NO_AUGMENTATION)
EVERY = tuple(CHANNELS)


@pytest.fixture(scope="module")
def rooms(room_store: Path) -> FrameStore:
    return open_store(room_store)


@pytest.fixture(scope="module")
def sweeps(sweep_store: Path) -> FrameStore:
    return open_store(sweep_store)


@pytest.fixture(scope="module")
def fused(room_recording: Path, tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    out = tmp_path_factory.mktemp("fused") / "fused.store"
    extract.run(recording_config(room_recording, out, fuse=2, features=None))
    return open_store(out)


def seen(cloud: PointCloud, config: SampleConfig, seed: int = 0) -> np.ndarray:
    return see(cloud, config, np.random.default_rng(seed), up_axis=Z_UP).inputs


def test_defaults_follow_the_sensor(
    rooms: FrameStore, fused: FrameStore, sweeps: FrameStore
) -> None:
    assert chosen_inputs(STILL, [rooms]) == ("color",)
    assert chosen_inputs(STILL, [fused, rooms]) == ("color",)
    assert chosen_inputs(STILL, [sweeps]) == ("intensity",)
    with pytest.raises(ConfigError, match=r"different default inputs .*color, .*intensity"):
        chosen_inputs(STILL, [rooms, sweeps])


def test_painted_colours_come_with_whether_there_is_one(
    rooms: FrameStore, sweeps: FrameStore
) -> None:
    config = replace(STILL, inputs=("ones", "color", "range"))
    assert chosen_inputs(config, [rooms]) == ("ones", "color", "range")
    resolved = chosen_inputs(config, [sweeps])
    assert resolved == ("ones", "color", "colored", "range")
    assert chosen_inputs(replace(config, inputs=resolved), [rooms, sweeps]) == resolved
    assert input_channels(replace(config, inputs=resolved)) == 6


def test_a_store_that_lacks_an_input_names_those_it_has(
    rooms: FrameStore, sweeps: FrameStore
) -> None:
    assert available_inputs(sweeps) == EVERY
    config = replace(STILL, inputs=("color", "intensity"))
    message = r"name intensity, .* lacks; it has color, colored, position, range, normal, ones"
    with pytest.raises(ConfigError, match=message):
        chosen_inputs(config, [sweeps, rooms])
    height = replace(STILL, inputs=("height",))
    with pytest.raises(ConfigError, match=r"lacks; it has .*up is not known .*augment\.up_axis"):
        check_inputs(height, rooms)
    check_inputs(replace(height, augment=AugmentConfig(up_axis=(0.0, -1.0, 0.0))), rooms)
    check_inputs(height, sweeps)


def test_inputs_that_are_still_to_be_chosen_are_an_error(rooms: FrameStore) -> None:
    with pytest.raises(ConfigError, match="name the student's inputs"):
        input_channels(STILL)
    with pytest.raises(ConfigError, match=r"inputs are .*; name each once"):
        SampleConfig(inputs=("ones", "ones"))
    with pytest.raises(ConfigError, match=r"inputs.0 is 'rgb'; choose one of color, "):
        SampleConfig(inputs=("rgb",))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="has no intensity"):
        seen(rooms[0].cloud, replace(STILL, inputs=("intensity",)))


def test_the_order_gives_the_channels(sweeps: FrameStore) -> None:
    cloud = sweeps[0].cloud
    inputs = seen(cloud, replace(STILL, inputs=EVERY))
    assert inputs.dtype == np.float32
    assert inputs.shape[1] == sum(CHANNELS.values())
    begins = 0
    for name, width in CHANNELS.items():
        alone = seen(cloud, replace(STILL, inputs=(name,)))
        np.testing.assert_array_equal(inputs[:, begins : begins + width], alone)
        begins += width
    backwards = seen(cloud, replace(STILL, inputs=EVERY[::-1]))
    np.testing.assert_array_equal(backwards[:, 0], 1)
    np.testing.assert_array_equal(backwards[:, -3:], inputs[:, :3])


def test_values_are_those_of_the_voxels_first_points(sweeps: FrameStore) -> None:
    cloud = sweeps[0].cloud
    config = replace(STILL, inputs=("intensity", "height", "range"), intensity_scale=255.0)
    frame = see(cloud, config, np.random.default_rng(0), up_axis=stored_up(sweeps))
    points = cloud.points[frame.first]
    intensity, height, distance = frame.inputs.T
    assert cloud.intensity is not None
    np.testing.assert_allclose(intensity, 255 * cloud.intensity[frame.first], rtol=1e-6)
    np.testing.assert_allclose(distance, np.linalg.norm(points, axis=1), rtol=1e-6)
    np.testing.assert_allclose(height, height_above_ground(cloud.points, Z_UP)[frame.first])
    ground = points[:, 2] < -1.69
    assert ground.sum() > 100
    assert np.abs(height[ground]).max() < 0.01


def test_a_point_that_no_camera_sees_is_not_black(sweeps: FrameStore) -> None:
    cloud = sweeps[0].cloud
    config = replace(STILL, inputs=("color", "colored"))
    frame = see(cloud, config, np.random.default_rng(0), up_axis=Z_UP)
    colors, colored = frame.inputs[:, :3], frame.inputs[:, 3]
    paired = np.isin(frame.first, cloud.pair_point)
    np.testing.assert_array_equal(colored, paired)
    assert 0.1 < colored.mean() < 0.4
    assert not colors[~paired].any()
    expected = cloud.colors[frame.first[paired]] / 127.5 - 1
    np.testing.assert_allclose(colors[paired], expected, atol=1e-6)
    dropped = replace(NO_AUGMENTATION, drop_color=1.0)
    assert not seen(cloud, replace(config, augment=dropped)).any()
    jittered = replace(NO_AUGMENTATION, color_jitter=0.5)
    inputs = seen(cloud, replace(STILL, inputs=("color",), augment=jittered))
    assert not inputs[~paired].any()


def test_black_seen_by_a_camera_stays_black(rooms: FrameStore) -> None:
    cloud = rooms[0].cloud
    black = replace(cloud, colors=np.zeros_like(cloud.colors))
    inputs = seen(black, replace(STILL, inputs=("color", "colored")))
    np.testing.assert_array_equal(np.unique(inputs, axis=0), [[-1, -1, -1, 1]])


def test_geometry_follows_augmentation(sweeps: FrameStore) -> None:
    """Turned, mirrored and scaled points have the inputs of where they are."""
    cloud = sweeps[0].cloud
    augment = replace(NO_AUGMENTATION, rotation_deg=180.0, scale=(2.0, 2.0), flip_x=1.0, flip_y=0.5)
    inputs = ("height", "range", "normal", "position")
    config = replace(STILL, inputs=inputs, voxel_size=1e-3, augment=augment)
    still = see(cloud, unaugmented(config), np.random.default_rng(0), up_axis=Z_UP)
    moved = see(cloud, config, np.random.default_rng(0), up_axis=Z_UP)
    np.testing.assert_array_equal(still.first, moved.first)
    np.testing.assert_allclose(moved.inputs[:, :2], 2 * still.inputs[:, :2], atol=1e-4)
    np.testing.assert_array_equal(np.floor(moved.points / np.float64(1e-3)), moved.coordinates)
    aligned = np.einsum("ij,ij->i", surface_normals(moved.points), moved.inputs[:, 2:5])
    assert np.mean(aligned > 0.99) > 0.95
    assert not np.allclose(moved.inputs[:, 2:4], still.inputs[:, 2:4], atol=0.1)
    np.testing.assert_array_equal(moved.inputs[:, 5:], moved.points)
    np.testing.assert_array_equal(still.inputs[:, 5:], cloud.points[still.first])


def test_waffleirons_inputs_are_the_published_ones(sweeps: FrameStore, published: Path) -> None:
    case = np.load(published / "waffleiron_small.npz")
    expected, cloud = case["feats"][0].T, sweeps[0].cloud
    values = {"points": case["points"][0], "intensity": expected[:, 0]}
    cloud = replace(cloud, colors=cloud.colors[: len(expected)], labels=None, **values)
    config = replace(STILL, inputs=("intensity", "position", "range"), voxel_size=1e-3)
    frame = see(cloud, config, np.random.default_rng(0), up_axis=Z_UP)
    np.testing.assert_allclose(frame.inputs, expected[frame.first], rtol=1e-5)
    assert len(frame.first) == len(expected)


@pytest.mark.parametrize("name", EVERY)
def test_blank_inputs_are_zero_and_the_others_stay(sweeps: FrameStore, name: Input) -> None:
    augment = AugmentConfig(color_jitter=0.1, intensity_jitter=0.1, drop_cuboids=1.0)
    config = replace(STILL, inputs=EVERY, augment=augment)
    blank = blanked_inputs(config, [name])
    assert blank == (("color", "colored") if name == "color" else (name,))

    def fed(*without: Input, config: SampleConfig = config) -> np.ndarray:
        random = np.random.default_rng(0)
        return see(sweeps[0].cloud, config, random, up_axis=Z_UP, blank=without).inputs

    is_blank = np.concatenate([[part in blank] * width for part, width in CHANNELS.items()])
    found = fed(*blank)
    assert fed()[:, is_blank].any(axis=0).all()
    assert not found[:, is_blank].any()
    assert found[:, ~is_blank].any(axis=0).all()
    still = replace(config, augment=NO_AUGMENTATION)
    np.testing.assert_array_equal(
        fed(*blank, config=still)[:, ~is_blank], fed(config=still)[:, ~is_blank]
    )


def test_only_the_students_inputs_can_be_blank_and_a_store_may_lack_them(
    rooms: FrameStore,
) -> None:
    config = replace(STILL, inputs=("color", "intensity", "height"))
    with pytest.raises(ConfigError, match=r"blank names range, colored, which .* inputs are color"):
        blanked_inputs(config, ["range", "color", "colored"])
    check_inputs(config, rooms, blank=("intensity", "height"))
    with pytest.raises(ConfigError, match=r"name intensity, which"):
        check_inputs(config, rooms, blank=("color", "height"))
    random = np.random.default_rng(0)
    blank = ("intensity", "height")
    inputs = see(rooms[0].cloud, config, random, up_axis=Z_UP, blank=blank).inputs
    assert inputs.shape[1] == 5
    assert inputs[:, :3].any()
    assert not inputs[:, 3:].any()


def test_dropped_points_have_no_voxel(sweeps: FrameStore) -> None:
    augment = replace(NO_AUGMENTATION, drop_fraction=0.3)
    config = replace(STILL, inputs=("range",), augment=augment)
    cloud = sweeps[0].cloud
    frame = see(cloud, config, np.random.default_rng(0), up_axis=Z_UP)
    assert (frame.voxel_of_point < 0).sum() == int(0.3 * len(cloud.points))
    assert (frame.voxel_of_point[frame.first] == np.arange(len(frame.first))).all()
    distance = np.linalg.norm(cloud.points[frame.first], axis=1)
    np.testing.assert_allclose(frame.inputs[:, 0], distance, rtol=1e-6)


def test_cylindrical_grids_replace_the_cubes(sweeps: FrameStore) -> None:
    cloud = sweeps[0].cloud
    config = replace(STILL, inputs=("ones",), grid="cylindrical", cylindrical_size=(0.7, 5.0, 0.7))
    frame = see(cloud, config, np.random.default_rng(0), up_axis=Z_UP)
    x, y, z = cloud.points.astype(np.float64).T
    parts = np.hypot(x, y) / 0.7, np.degrees(np.arctan2(y, x)) / 5, z / 0.7
    expected = np.floor(np.column_stack(parts))
    agree = (frame.coordinates[frame.voxel_of_point] == expected).all(axis=1)
    assert agree.mean() > 0.999  # rounding at a voxel's face


def test_a_dropped_box_takes_its_pairs_along(sweeps: FrameStore) -> None:
    """Without cameras nothing limits the box; what is left has the voxels of a plain frame."""
    cloud = sweeps[0].cloud
    bare = replace(
        cloud,
        image_sizes=(),
        pair_point=cloud.pair_point[:0],
        pair_view=cloud.pair_view[:0],
        pixels=cloud.pair_uv[:0],
        pair_confidence=None,
    )
    augment = replace(NO_AUGMENTATION, drop_cuboids=1.0, drop_fraction=0.1)
    config = replace(STILL, inputs=("range",), augment=augment)
    frame = see(bare, config, np.random.default_rng(5), up_axis=Z_UP)
    dropped = frame.voxel_of_point < 0
    assert dropped.sum() > int(0.1 * len(cloud.points))
    left = bare.points[~dropped]
    still = see(
        replace(bare, points=left, intensity=None, labels=None, colors=cloud.colors[~dropped]),
        unaugmented(config),
        np.random.default_rng(0),
        up_axis=Z_UP,
    )
    np.testing.assert_array_equal(still.coordinates, frame.coordinates)
    np.testing.assert_array_equal(still.inputs, frame.inputs)
    few = see(cloud, config, np.random.default_rng(5), up_axis=Z_UP)
    assert (few.voxel_of_point < 0).sum() == int(0.1 * len(cloud.points))
