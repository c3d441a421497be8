"""An option that the others leave without use is a usage error, not passed over in silence."""

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from p2pkit.cli.main import commands
from p2pkit.errors import ConfigError

DEMO = ["extract", "--dataset", "demo-scene", "--out", "x.store", "--print-config"]
POINTS = ["extract", "rooms", "--dataset", "s3dis", "--out", "x.store", "--print-config"]
EVALUATE = ["evaluate", "run", "--on", "x.store", "--out", "scores"]
STORED = '[features]\nstored_views = "flip"\n'


def usage_error(*words: str) -> str:
    result = CliRunner().invoke(commands, words)
    assert result.exit_code == 2, (result.output, result.exception)
    return " ".join(result.stderr.split())


@pytest.mark.parametrize("views", [[], ["--views", ""]])
@pytest.mark.parametrize("file", ["", STORED, '[features.teacher]\nviews = "flip"\n'])
def test_what_becomes_of_views_needs_views(views: list[str], file: str, tmp_path: Path) -> None:
    config = tmp_path / "extract.toml"
    config.write_text(file)
    words = [*DEMO, "--config", str(config), *views, "--views-as", "stored"]
    message = usage_error(*words)
    assert "--views-as would be ignored" in message
    assert "add --views, such as --views flip" in message
    assert "in [features] (stored_views)" in message
    assert "--views-as would be ignored" in usage_error("plan", *words[1:3], *words[-2:])


def test_views_of_a_file_alone_stay_as_it_says(tmp_path: Path) -> None:
    config = tmp_path / "extract.toml"
    config.write_text(STORED)
    result = CliRunner().invoke(commands, [*DEMO, "--config", str(config)])
    assert 'stored_views = "flip"' in result.stdout
    over = [*DEMO, "--config", str(config), "--views", "scale:0.5", "--views-as", "average"]
    assert 'views = "scale:0.5"' in CliRunner().invoke(commands, over).stdout


@pytest.mark.parametrize(
    ("option", "setting"),
    [
        ("--depth-range 1 2", "geometry.depth_max=6"),
        ("--depth-range 1 2", 'geometry={"depth_min": 3}'),
        ("--superpixels slic:150:20", "superpixels.segments=100"),
        ("--teacher resnet18", "features=null"),
        ("--teacher resnet18", 'features.teacher={"name": "resnet50"}'),
        ("--codec map=lz4", "codecs.map=zstd"),
    ],
)
def test_no_setting_is_given_twice_by_another_name(option: str, setting: str) -> None:
    message = usage_error(*DEMO, *option.split(), "--set", setting)
    assert f"{option.split()[0]} and --set {setting} name the same setting; keep one" in message


@pytest.mark.parametrize("views", [["--views", "flip"], ["--set", "features.teacher.views=flip"]])
@pytest.mark.parametrize("kept", ["average", "stored"])
def test_views_are_named_once(views: list[str], kept: str) -> None:
    stored = ["--set", "features.stored_views=scale:0.5"]
    message = usage_error(*DEMO, *views, "--views-as", kept, *stored)
    assert "--set features.stored_views would be ignored" in message


def test_set_and_options_may_share_a_table() -> None:
    words = ["--voxel-size", "0.02", "--set", 'geometry={"depth_max": 6}', "--seed", "5"]
    words += ["--codec", "map=lz4", "--set", "codecs.colors=zstd", "--set", "features.seed=7"]
    printed = tomllib.loads(CliRunner().invoke(commands, [*DEMO, *words]).stdout)
    assert (printed["geometry"]["voxel_size"], printed["geometry"]["depth_max"]) == (0.02, 6)
    assert printed["codecs"] == {"map": "lz4", "colors": "zstd"}
    assert (printed["seed"], printed["features"]["seed"]) == (5, 7)
    words = [*DEMO, "--codec", "map=lz4", "--set", 'codecs={"colors": "zstd"}']
    printed = tomllib.loads(CliRunner().invoke(commands, words).stdout)
    assert printed["codecs"] == {"map": "lz4", "colors": "zstd"}


def test_views_may_be_named_by_set() -> None:
    words = [*DEMO, "--views-as", "stored", "--set", "features.teacher.views=flip"]
    assert 'stored_views = "flip"' in CliRunner().invoke(commands, words).stdout


def test_what_set_names_is_refused_as_the_option_is(room_store: Path) -> None:
    for words in (["--seed", "3"], ["--set", "seed=3"]):
        message = usage_error("check", str(room_store), *words)
        assert f"{' '.join(words).partition('=')[0].removesuffix(' 3')} would be ignored" in message


def test_set_does_not_name_what_the_command_takes_in_another_place(
    room_store: Path, tiny_run: Path
) -> None:
    store, run = str(room_store), str(tiny_run)
    for words, message in (
        (["pretrain", "rooms", "--dataset", "tum", "--set", "out=x"], "use --out"),
        (["pretrain", "rooms", "--dataset", "tum", "--set", "source=x"], "the argument RECORDING"),
        (["report", run, "--set", "out=x.html"], "use --out"),
        (["report", run, "--set", "run=x"], "the argument STORE|RUN [STORE]"),
        (["check", store, "--set", "dataset=tum"], "use --dataset"),
        (["view", "x.store", "--set", "keys=[]"], "the argument [KEY]..."),
        (["retrieval", run, store, "--set", "store=x"], "the argument STORE"),
        (["train", store, "--out", "r", "--set", "store=x"], "the argument [STORE]..."),
        (["train", store, "--out", "r", "--set", "more_stores=[]"], "the argument [STORE]..."),
        (["profile", store, "--set", "store=x"], "the argument [STORE]..."),
        ([*DEMO, "--set", "root=x"], "the argument SOURCE"),
        (["plan", "--dataset", "demo-scene", "--set", "root=x"], "the argument SOURCE"),
    ):
        name = words[-1].partition("=")[0]
        found = usage_error(*words)
        assert f"--set {name} would be ignored" in found
        assert found.endswith(message)


@pytest.mark.parametrize("output", [["--ply", "x.ply"], ["--window"]])
@pytest.mark.parametrize("word", ["--run", "--layer"])
def test_what_shows_no_features_takes_no_layer_of_them(word: str, output: list[str]) -> None:
    message = usage_error("view", "x.store", word, "y", *output)
    assert f"{word} would be ignored: it is for features, which --ply and" in message


@pytest.mark.parametrize("limit", ["--limit 3", "--set limit=3"])
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--png x.png", "it is for --rrd"),
        ("", "it is for --rrd"),
        ("frame-0 --rrd x.rrd", "the keys say which frames are shown"),
    ],
)
def test_only_a_recording_of_unnamed_frames_has_a_limit(
    words: str, reason: str, limit: str
) -> None:
    message = usage_error("view", "x.store", *words.split(), *limit.split())
    assert f"{limit.removesuffix(' 3').removesuffix('=3')} would be ignored: {reason}" in message


def test_a_long_list_of_scenes_is_no_file_name(
    room_store: Path, tiny_run: Path, tmp_path: Path
) -> None:
    scenes = ",".join(f"scene{number:04d}_00" for number in range(40))
    words = [str(tiny_run), "--on", str(room_store), "--out", str(tmp_path / "out")]
    error = CliRunner().invoke(commands, ["evaluate", *words, "--test-scenes", scenes]).exception
    assert isinstance(error, ConfigError)
    assert "scene0000" in str(error)


@pytest.mark.parametrize("without", [[*DEMO, "--teacher", "none"], POINTS])
@pytest.mark.parametrize(
    "words",
    [
        *("--layer -2", "--weights random", "--input-size 64 48", "--views flip", "--device cpu"),
        *("--features pixels", "--map int8", "--upsampling bilinear", "--pairs-per-frame 9"),
    ],
)
def test_what_is_of_a_teacher_needs_one(without: list[str], words: str) -> None:
    message = usage_error(*without, *words.split())
    assert f"{words.split()[0]} would be ignored: the teacher is none" in message


def test_settings_of_a_file_may_be_without_use(tmp_path: Path) -> None:
    """It holds every setting; only what was typed was meant for this extraction."""
    config = tmp_path / "extract.toml"
    config.write_text('[features]\nmap = "int8"\npairs_per_frame = 9\n')
    for more in ([], ["--teacher", "none"]):
        result = CliRunner().invoke(commands, [*DEMO, "--config", str(config), *more])
        assert result.exit_code == 0, result.output


def test_the_number_of_pairs_is_for_pixels() -> None:
    message = usage_error(*DEMO, "--pairs-per-frame", "50")
    assert "--pairs-per-frame would be ignored: the layout grid stores the whole map" in message
    pixels = [*DEMO, "--pairs-per-frame", "50", "--features", "pixels"]
    assert CliRunner().invoke(commands, pixels).exit_code == 0


def test_a_generated_scene_reads_no_folder(tmp_path: Path) -> None:
    for command in ("extract", "check"):
        words = [command, "here", "--dataset", "demo-scene", "--out", str(tmp_path / "out")]
        error = CliRunner().invoke(commands, words).exception
        assert isinstance(error, ConfigError)
        assert "demo-scene is generated and reads no folder; leave out here" in str(error)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--steps", "20", "--set", "steps=30"],
            "--steps and --set steps=30 name the same setting",
        ),
        (["--weights", "1,2", "--set", "weights=[3,4]"], "--weights and --set weights=[3,4] name"),
    ],
)
def test_a_training_is_told_each_setting_once(words: list[str], message: str) -> None:
    assert message in usage_error("train", "a.store", "b.store", "--out", "run", *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "3", "--set", "seeds=5"], "--seeds and --set seeds=5 name the same setting"),
        (["--set", "store=y"], "--on and --set store=y name the same setting"),
        (
            ["--split-unit", "scene", "--set", "split.unit=time-block"],
            "--split-unit and --set split.unit=time-block name the same setting",
        ),
        (["--set", "finetune.steps=5"], "finetune.steps would be ignored: add finetune to"),
        (
            ["--mode", "finetune", "--set", "frozen.points_per_frame=9"],
            "frozen.points_per_frame would be ignored: add linear or knn to",
        ),
        (["--mode", "knn", "--set", "frozen.probe.iterations=9"], "add linear to --mode"),
        (["--set", "frozen.neighbours=9"], "add knn to --mode"),
        (
            ["--mode", "detect", "--set", "finetune.augment.drop_fraction=0.3"],
            "finetune.augment.drop_fraction would be ignored: use --mode finetune, or omit it",
        ),
        (["--set", "split.gap_frames=3"], "add --split-unit time-block, or omit it"),
        (
            ["--test-scenes", "a", "--set", "test=0.5"],
            "drop --test-scenes, which names the test part",
        ),
    ],
)
def test_an_evaluation_is_told_what_it_uses(words: list[str], message: str) -> None:
    assert message in usage_error(*EVALUATE, *words)


def test_a_probe_has_one_test_part() -> None:
    words = ["evaluate", "run", "--preset", "probe", "--test-scenes", "a", "--test-fraction", "0.5"]
    assert "--test-fraction would be ignored" in usage_error(*words)


@pytest.mark.parametrize("words", [["--mode", "knn"], ["--seeds", "2"], ["--out", "x"]])
def test_a_probe_has_settings_of_its_own(words: list[str]) -> None:
    message = usage_error("evaluate", "run", "--preset", "probe", *words)
    assert f"{words[0]} would be ignored: --preset probe has no such setting" in message
    assert "takes one RUN, found 2" in usage_error("evaluate", "a", "b", "--preset", "probe")


def test_options_of_a_probe_need_its_preset() -> None:
    message = usage_error(*EVALUATE, "--random-seeds", "2")
    assert "--random-seeds would be ignored: add --preset probe" in message
    for missing, words in (("--on", ["--out", "x"]), ("--out", ["--on", "x"])):
        assert f"Missing option '{missing}'" in usage_error("evaluate", "run", *words)


def test_a_repair_extracts_only_from_a_recording() -> None:
    repair = ["shards", "repair", "x.store"]
    for words in (["--weights", "random"], ["--teacher", "hf:a"], ["--camera", "c.json"]):
        message = usage_error(*repair, *words)
        assert f"{words[0]} would be ignored: nothing is extracted without the recording" in message
    message = usage_error(*repair, "--source", "here", "--drop")
    assert "--drop would be ignored" in message


def test_a_check_of_a_store_takes_its_calibration(room_store: Path) -> None:
    message = usage_error("check", str(room_store), "--camera", "c.json")
    assert "--camera would be ignored: a store has its own calibration" in message


@pytest.mark.parametrize("words", ["--depth-range 1 80", "--flying-margin 0.1"])
@pytest.mark.parametrize("dataset", ["pandaset", "s3dis"])
def test_what_is_for_depth_images_needs_them(dataset: str, words: str) -> None:
    arguments = ["sweeps", "--dataset", dataset, "--out", "x.store", *words.split()]
    message = usage_error("extract", *arguments)
    assert f"{words.split()[0]} would be ignored: it is for depth images, but {dataset}" in message


def test_a_recording_is_not_drawn_by_a_seed() -> None:
    message = usage_error("check", "sweeps", "--dataset", "kitti-raw", "--seed", "3")
    assert "--seed would be ignored: it seeds generated scenes, but kitti-raw is a rec" in message
