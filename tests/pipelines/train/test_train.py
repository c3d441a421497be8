import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny_recording import TEACHER, recording_config, tiny_train_config, write_recording

from p2pkit.cli.main import commands
from p2pkit.errors import (
    ConfigError,
    CorruptShardError,
    GeometryError,
    StoreError,
    TrainingError,
)
from p2pkit.layers.features import FeatureConfig
from p2pkit.losses import LossConfig
from p2pkit.networks import choose_engine
from p2pkit.pipelines import retrieval
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.train.checkpoints import latest_checkpoint, list_checkpoints
from p2pkit.pipelines.train.distributed import Ranks
from p2pkit.pipelines.train.logs import read_metrics
from p2pkit.pipelines.train.model import build_model
from p2pkit.pipelines.train.optimizer import learning_rate
from p2pkit.pipelines.train.presets import PRESETS, preset
from p2pkit.pipelines.train.run import open_sources, read_config, resume, run
from p2pkit.pipelines.train.run_folder import read_provenance, with_free_settings
from p2pkit.pipelines.train.settings import OptimizerConfig, TrainConfig
from p2pkit.pipelines.train.step import StepReport, Trainer
from p2pkit.settings.students import WaffleIronConfig
from p2pkit.store.manifest import Sample
from p2pkit.store.reading import open_store
from p2pkit.store.writing import create_or_open
from p2pkit.stream.batches import Batch, BatchStream

ELSEWHERE = WaffleIronConfig(fov=(50.0, 50.0, 50.0, 51.0, 51.0, 51.0), cells=(4, 4, 4))
COMMITS, STEPS, STOPS = (13, 17), (0, 4), (2,)
PARTS = [
    *(f"commit-{number}" for number in COMMITS),
    *(f"step-{number}" for number in STEPS),
    *(f"stop-{number}" for number in STOPS),
]


@pytest.fixture(scope="module")
def interrupted(
    room_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
    run_killed_at: Callable[..., None],
) -> Path:
    """A folder of runs on one thread: `whole`, and one for each way of breaking off."""
    folder = tmp_path_factory.mktemp("interrupted")
    lists = [",".join(map(str, numbers)) for numbers in (COMMITS, STEPS, STOPS)]
    run_killed_at("train", room_store, folder, *lists)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_a_run_in_parts_equals_a_whole_one_to_the_bit(interrupted: Path, part: str) -> None:
    whole, parts = (latest_checkpoint(interrupted / name) for name in ("whole", part))
    assert parts.step == whole.step == 6
    files = [checkpoint.path / "weights.safetensors" for checkpoint in (whole, parts)]
    assert files[0].read_bytes() == files[1].read_bytes()
    states = [
        torch.load(checkpoint.path / "state.pt", weights_only=True) for checkpoint in (whole, parts)
    ]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["whole", *PARTS])
def test_the_log_has_each_step_once(interrupted: Path, part: str) -> None:
    rows = read_metrics(interrupted / part)
    assert [row["step"] for row in rows] == list(range(6))
    losses = [row["loss"] for row in read_metrics(interrupted / "whole")]
    assert [row["loss"] for row in rows] == losses


@pytest.mark.slow
@pytest.mark.parametrize("part", ["whole", *PARTS])
def test_only_the_newest_checkpoint_stays(interrupted: Path, part: str) -> None:
    names = {path.name for path in (interrupted / part / "checkpoints").iterdir()}
    assert names == {"step-00000006"}


def test_the_loss_falls(room_store: Path, tmp_path: Path) -> None:
    config = tiny_train_config(room_store, steps=30, checkpoint_every=30)
    reports: list[StepReport] = []
    run(config, tmp_path / "run", progress=reports.append)
    losses = [report.loss for report in reports]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.3
    assert all(report.pairs == 128 for report in reports)
    assert all(0 <= report.suspected_false_negatives <= 1 for report in reports)
    assert all(0 <= report.wait_s <= report.step_s for report in reports)


def test_a_run_tells_where_it_came_from(room_store: Path, tiny_run: Path) -> None:
    config, engine = read_config(tiny_run), choose_engine("auto").name
    assert config == tiny_train_config(room_store, steps=2, engine=engine)
    provenance = json.loads((tiny_run / "store.json").read_text())
    manifest = json.loads((room_store / "p2pkit.json").read_text())
    layers = {layer["name"]: layer["fingerprint_sha256"] for layer in manifest["layers"]}
    assert provenance["fingerprints"] == layers
    assert provenance["teacher_channels"] == manifest["layers"][1]["details"]["channels"]
    assert list((tiny_run / "tensorboard").iterdir())


HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PAGES = """
import sys, torch
from p2pkit.pipelines.train.run import resume
resume(sys.argv[1])
kept = torch.zeros(16 << 20)
print([line.split()[1] for line in open("/proc/self/smaps_rollup") if "AnonHuge" in line])
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[never]" in HUGE_PAGES.read_text(), reason="no huge pages here"
)
@pytest.mark.parametrize("asked", [None, "0"])
def test_huge_pages_are_asked_for_before_torch_allocates(
    tiny_run: Path, tmp_path: Path, asked: str | None
) -> None:
    """Torch reads the variable once, when it first allocates memory."""
    run = shutil.copytree(tiny_run, tmp_path / "run")
    environment = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"}
    environment |= {} if asked is None else {"THP_MEM_ALLOC_ENABLE": asked}
    command = [sys.executable, "-c", PAGES, str(run)]
    printed = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
    assert (printed.stdout == "['0']\n") == (asked == "0")


def test_held_out_frames_are_named_and_never_read(room_store: Path, tmp_path: Path) -> None:
    config = tiny_train_config(room_store, steps=3, holdout=10)
    out = run(config, str(tmp_path / "run"))  # as text, too
    assert read_config(str(out)) == replace(config, engine=read_config(out).engine)
    held = json.loads((out / "store.json").read_text())["holdout"]
    assert (
        held
        == [f"scene-{sequence}_frame-{number:06d}" for sequence in range(3) for number in range(4)][
            2:
        ]
    )


def test_a_nan_loss_names_the_step_and_the_last_good_checkpoint(
    room_store: Path, tmp_path: Path
) -> None:
    wild = OptimizerConfig(learning_rate=1e30)
    config = tiny_train_config(room_store, optimizer=wild, checkpoint_every=100)
    with pytest.raises(TrainingError, match=r"at step 1; no checkpoint exists. Lower") as caught:
        run(config, tmp_path / "first")
    assert "nan" in str(caught.value) or "inf" in str(caught.value)
    warming = replace(wild, schedule="constant", warmup_steps=10**31)
    config = tiny_train_config(room_store, optimizer=warming, checkpoint_every=2)
    path = run(config, tmp_path / "second", stop_after=2)
    saved = json.loads((path / "config.json").read_text())
    saved["optimizer"]["warmup_steps"] = 0
    (path / "config.json").write_text(json.dumps(saved))
    with pytest.raises(TrainingError, match=r"at step 3; the newest checkpoint is .*00000002"):
        resume(path)
    assert latest_checkpoint(path).step == 2


def test_a_second_run_into_the_same_folder_is_refused(room_store: Path, tiny_run: Path) -> None:
    with pytest.raises(TrainingError, match="already holds a run; continue with --resume"):
        run(tiny_train_config(room_store), tiny_run)


def test_resuming_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no run"):
        resume(tmp_path)


def test_a_finished_run_resumes_to_itself(tiny_run: Path, tmp_path: Path) -> None:
    out = shutil.copytree(tiny_run, tmp_path / "run")
    reports: list[StepReport] = []
    resume(out, progress=reports.append)
    assert reports == []
    assert [row["step"] for row in read_metrics(out)] == [0, 1]


def test_a_moved_store_is_found_by_name_and_a_swapped_one_refused(
    room_recording: Path, room_store: Path, tiny_run: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(tiny_run, tmp_path / "run")
    resume(out, store=shutil.copytree(room_store, tmp_path / "moved.store"))
    other = FeatureConfig(teacher=replace(TEACHER, layer=1))
    swapped = recording_config(room_recording, tmp_path / "other.store", features=other)
    extract.run(swapped)
    with pytest.raises(TrainingError, match="is not the store that"):
        resume(out, store=swapped.out)


def test_several_layers_need_a_name(room_recording: Path, room_store: Path, tmp_path: Path) -> None:
    store = shutil.copytree(room_store, tmp_path / "store")
    other = FeatureConfig(teacher=replace(TEACHER, layer=1))
    extract.run(recording_config(room_recording, store, features=other))
    with pytest.raises(ConfigError, match=r"2 feature layers .* --set layer=NAME"):
        run(tiny_train_config(store), tmp_path / "run")
    layers = json.loads((store / "p2pkit.json").read_text())["layers"]
    chosen = tiny_train_config(store, layer=layers[2]["name"], steps=1)
    provenance = json.loads((run(chosen, tmp_path / "run") / "store.json").read_text())
    assert provenance["layers"][1] == layers[2]["name"]


@pytest.mark.parametrize("layer", ["geometry", "features"])
def test_nothing_corrupt_is_trained_on(room_store: Path, tmp_path: Path, layer: str) -> None:
    store = shutil.copytree(room_store, tmp_path / "store")
    shard = sorted(store.glob(f"{layer}/**/000001.tar"))[0]
    content = bytearray(shard.read_bytes())
    content[1500] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CorruptShardError, match=r"000001\.tar"):
        run(tiny_train_config(store), tmp_path / "run")


def test_an_unfinished_store_is_refused(room_store: Path, tmp_path: Path) -> None:
    store = shutil.copytree(room_store, tmp_path / "store")
    sorted(store.glob("features/*/000001.json"))[0].unlink()
    with pytest.raises(StoreError, match="incomplete"):
        run(tiny_train_config(store), tmp_path / "run")
    with pytest.raises(StoreError, match="is not a store"):
        run(tiny_train_config(tmp_path / "nothing"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes", [{"steps": 0}, {"checkpoint_every": 0}, {"keep_checkpoints": 0}, {"holdout": -1}]
)
def test_impossible_settings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        tiny_train_config(Path("x"), **changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"student": "Res16UNet99"}, "no student is called 'Res16UNet99'"),
        ({"holdout": 12}, "holdout is 12, but the store has only 12 frames"),
        ({"layer": "features/none"}, "features/none"),
        (
            {"student": "WaffleIron-12-256", "waffleiron": ELSEWHERE},
            "no point of a frame is in the field of view",
        ),
    ],
)
def test_settings_that_do_not_fit_the_store_are_refused_before_a_run_exists(
    room_store: Path, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises((ConfigError, GeometryError, StoreError), match=named):
        run(tiny_train_config(room_store, **changes), tmp_path / "run")
    assert list_checkpoints(tmp_path / "run") == []
    assert not (tmp_path / "run" / "config.json").exists()


def test_schedules() -> None:
    base = OptimizerConfig(learning_rate=2.0, warmup_steps=4, decay=0.5)
    rates = {
        kind: [
            learning_rate(replace(base, schedule=kind), step, 2004)
            for step in (0, 3, 4, 1004, 2003)
        ]
        for kind in ("exponential", "cosine", "constant")
    }
    assert rates["constant"] == [0.5, 2.0, 2.0, 2.0, 2.0]
    np.testing.assert_allclose(rates["exponential"], [0.5, 2, 2, 1, 0.5 ** (1999 / 1000) * 2])
    np.testing.assert_allclose(rates["cosine"], [0.5, 2, 2, 1, 0], atol=1e-5)


def test_presets_are_valid_and_the_papers_is_the_default() -> None:
    for name in PRESETS:
        assert preset(name, Path("store")).store == "store"
    assert preset("paper", Path("store")) == TrainConfig(store="store")
    with pytest.raises(
        ConfigError, match="choose one of paper, slidr, slidr-superpixel, cpu-small"
    ):
        preset("big", Path("store"))


@pytest.fixture(scope="module")
def second_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four frames of another recording by the same teacher; not to be written."""
    folder = tmp_path_factory.mktemp("second")
    root = write_recording(folder / "rooms", 4)
    return extract.run(recording_config(root, folder / "second.store"))


def test_a_mixture_resumes_to_the_same_batches_and_remembers_its_stores(
    room_store: Path, second_store: Path, tmp_path: Path
) -> None:
    config = tiny_train_config(
        room_store, more_stores=(str(second_store),), weights=(1.0, 1.0), holdout=1
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(config, whole)
    run(config, parts, stop_after=4)
    assert read_config(parts) == replace(config, engine=choose_engine("auto").name)
    moved = shutil.copytree(second_store, tmp_path / "moved.store")
    resume(parts, store=room_store, more_stores=[str(moved)])
    losses = [[row["loss"] for row in read_metrics(out)] for out in (whole, parts)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
    first, second = read_provenance(parts).stores
    assert (first.weight, second.weight) == (1, 1)
    for use, path in ((first, room_store), (second, second_store)):
        manifest = json.loads((path / "p2pkit.json").read_text())
        layers = {layer["name"]: layer["fingerprint_sha256"] for layer in manifest["layers"]}
        assert use.fingerprints == layers
    assert first.holdout == ("scene-2_frame-000003",)
    assert second.holdout == ("frame-000003",)
    provenance = read_provenance(parts)
    assert provenance.held_out(open_store(second_store)) == {"frame-000003"}


def test_a_mixture_with_a_swapped_or_missing_store_is_not_resumed(
    room_recording: Path, room_store: Path, second_store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    config = tiny_train_config(room_store, more_stores=(str(second_store),))
    run(config, out, stop_after=1)
    assert [use.weight for use in read_provenance(out).stores] == [3, 1]
    with pytest.raises(TrainingError, match="started on 2 stores, found 1"):
        resume(out, store=room_store)
    with pytest.raises(TrainingError, match="is not the store that"):
        resume(out, store=second_store, more_stores=[str(room_store)])


@pytest.mark.parametrize("changes", [{"layer": 1}, {"seed": 5}])
def test_features_of_two_teachers_are_not_mixed(
    room_recording: Path, room_store: Path, tmp_path: Path, changes: dict[str, int]
) -> None:
    """Another layer has other channels; other weights do not, and would be mixed silently."""
    features = FeatureConfig(teacher=replace(TEACHER, **changes))
    other = extract.run(recording_config(room_recording, tmp_path / "store", features=features))
    with pytest.raises(ConfigError, match="are not of one teacher"):
        run(tiny_train_config(room_store, more_stores=(str(other),)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_stores_of_other_bases_are_mixed_in_the_teachers_channels(
    room_store: Path, room_recording: Path, second_store: Path, tmp_path: Path
) -> None:
    features = FeatureConfig(teacher=TEACHER, map="pca:8")
    coded = extract.run(recording_config(room_recording, tmp_path / "store", features=features))
    channels = open_store(second_store).manifest.layers[1].details["channels"]
    config = tiny_train_config(coded, more_stores=(str(second_store),), steps=2, holdout=1)
    assert [source.channels for source in open_sources(config)] == [channels, channels]
    twice = replace(config, more_stores=(str(coded),))
    assert [source.channels for source in open_sources(twice)] == [8, 8]
    plain = replace(config, store=str(room_store))
    found, exact = (
        next(BatchStream(open_sources(each), config=config.stream).batches(0, 1)).pair_feature
        for each in (config, plain)
    )
    cosine = torch.nn.functional.cosine_similarity(found, exact)
    assert cosine.mean() > 0.98
    out = run(config, tmp_path / "run")
    assert read_provenance(out).teacher_channels == channels
    retrieval.run(retrieval.RetrievalConfig(run=out, store=str(coded), pairs=16))


def test_trainings_that_compare_features_get_the_teachers_channels(
    room_store: Path, room_recording: Path, tmp_path: Path
) -> None:
    """Coefficients are centred: their cosines, about 0 on average, are not those of features."""
    features = FeatureConfig(teacher=TEACHER, map="pca:8")
    coded = extract.run(recording_config(room_recording, tmp_path / "store", features=features))

    def mean_cosine(config: TrainConfig) -> float:
        batch = next(BatchStream(open_sources(config), config=config.stream).batches(0, 1))
        unit = torch.nn.functional.normalize(batch.pair_feature, dim=1)
        return float((unit @ unit.T).mean())

    plain = tiny_train_config(coded)
    expected = mean_cosine(tiny_train_config(room_store))
    assert mean_cosine(plain) < expected - 0.2
    for changes in (
        {"pixel_head": "fixed"},
        {"loss": LossConfig(negatives="mask-similar")},
        {"loss": LossConfig(name="ppnce-soft")},
    ):
        assert mean_cosine(replace(plain, **changes)) == pytest.approx(expected, abs=0.02)


def test_weights_must_fit_the_stores(room_store: Path) -> None:
    with pytest.raises(ConfigError, match="for 2 stores; give one for each store"):
        tiny_train_config(room_store, more_stores=("b",), weights=(1.0,))


def test_mixtures_on_the_command_line(room_store: Path, second_store: Path, tmp_path: Path) -> None:
    arguments = ["train", str(room_store), str(second_store), "--out", str(tmp_path / "run")]
    printed = CliRunner().invoke(commands, [*arguments, "--weights", "0.7,0.3", "--print-config"])
    assert printed.exit_code == 0, printed.output
    config = tomllib.loads(printed.stdout)
    assert config["store"] == str(room_store)
    assert config["more_stores"] == [str(second_store)]
    assert config["weights"] == [0.7, 0.3]
    refused = CliRunner().invoke(commands, [*arguments, "--weights", "1,2,3", "--print-config"])
    assert isinstance(refused.exception, ConfigError)


@pytest.mark.parametrize("layout", ["grid", "pixels"])
def test_coefficients_and_bytes_are_trained_on(
    room_recording: Path, tmp_path: Path, layout: str
) -> None:
    features = FeatureConfig(teacher=TEACHER, map="pca:8+int8", layout=layout)
    store = extract.run(recording_config(room_recording, tmp_path / "store", features=features))
    out = run(tiny_train_config(store, steps=30, checkpoint_every=30), tmp_path / "run")
    losses = [row["loss"] for row in read_metrics(out)]
    assert read_provenance(out).teacher_channels == 8
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.3


def without_confidence(store: Path, out: Path) -> Path:
    """A copy as an older p2pkit would have written it: pairs have no confidence."""
    old = open_store(store)
    geometry, *others = old.manifest.layers
    fields = tuple(spec for spec in geometry.fields if spec.name != "pair_confidence")
    layers = (replace(geometry, fields=fields), *others)
    writer = create_or_open(out, replace(old.manifest, layers=layers))
    for shard in range(old.manifest.plan.shards):
        for layer in layers:
            names = [spec.name for spec in layer.fields]
            rows = range(len(old.keys(shard)))
            samples = [old.read(layer.name, shard, row, names) for row in rows]
            writer.write(layer.name, shard, samples)
    writer.write_failures()
    return out


def test_weighing_by_confidence_needs_stores_that_have_it(room_store: Path, tmp_path: Path) -> None:
    old = without_confidence(room_store, tmp_path / "old.store")
    weighed = LossConfig(confidence="weight")
    with pytest.raises(ConfigError, match=r"old.store was extracted without pair_confidence"):
        run(tiny_train_config(old, loss=weighed), tmp_path / "refused")
    run(tiny_train_config(old, steps=1), tmp_path / "ignored")
    run(tiny_train_config(room_store, steps=1, loss=weighed), tmp_path / "weighed")


def with_zeros(sample: Sample, field: str) -> Sample:
    zeros = np.zeros_like(sample.arrays[field])
    return replace(sample, arrays={**sample.arrays, field: zeros})


def test_weighing_by_confidence_needs_a_pair_that_counts(room_store: Path, tmp_path: Path) -> None:
    store = open_store(room_store)
    out = tmp_path / "doubtful.store"
    writer = create_or_open(out, store.manifest)
    for shard in range(store.manifest.plan.shards):
        for layer in store.manifest.layers:
            rows = range(len(store.keys(shard)))
            samples = [store.read(layer.name, shard, row) for row in rows]
            if layer.name == "geometry":
                samples = [with_zeros(one, "pair_confidence") for one in samples]
            writer.write(layer.name, shard, samples)
    writer.write_failures()
    weighed = LossConfig(confidence="weight")
    with pytest.raises(TrainingError, match=r"every pair in .*doubtful.store has confidence 0"):
        run(tiny_train_config(out, loss=weighed), tmp_path / "refused")


def test_a_device_that_is_not_there_is_named(room_store: Path, tmp_path: Path) -> None:
    for device in ("cuda:99", "nonsense"):
        with pytest.raises(ConfigError, match=f"device '{device}' cannot be used"):
            run(tiny_train_config(room_store, device=device), tmp_path / "run")


def test_a_run_made_on_a_missing_device_is_evaluated_on_the_cpu(
    room_store: Path, tmp_path: Path
) -> None:
    out = run(tiny_train_config(room_store, steps=1, holdout=4), tmp_path / "run")
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "device": "cuda:99"}))
    retrieval.run(retrieval.RetrievalConfig(run=out, store=str(room_store), pairs=16))
    with pytest.raises(ConfigError, match="device 'cuda:99' cannot be used"):
        resume(out)


def test_a_second_teacher_does_not_change_a_run_that_was_begun(
    room_recording: Path, room_store: Path, tmp_path: Path
) -> None:
    store = shutil.copytree(room_store, tmp_path / "store")
    out = run(tiny_train_config(store, holdout=4), tmp_path / "run", stop_after=2)
    other = FeatureConfig(teacher=replace(TEACHER, layer=1))
    extract.run(recording_config(room_recording, store, features=other))
    resume(out)
    assert latest_checkpoint(out).step == 6
    retrieval.run(retrieval.RetrievalConfig(run=out, store=str(store), pairs=16))


def test_resuming_on_other_frames_is_refused(room_store: Path, tmp_path: Path) -> None:
    out = run(tiny_train_config(room_store, holdout=4), tmp_path / "run", stop_after=2)
    begun = json.loads((out / "store.json").read_text())
    (out / "store.json").write_text(json.dumps({**begun, "frames": 13}))
    with pytest.raises(TrainingError, match=r"is not as .* was started on it: frames changed"):
        resume(out)


@pytest.mark.parametrize("left", ["checkpoints", "metrics.jsonl", "best"])
def test_parts_of_another_run_are_not_gone_on_with(
    tiny_run: Path, room_store: Path, tmp_path: Path, left: str
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    if left == "metrics.jsonl":
        shutil.copy(tiny_run / left, out / left)
    else:
        shutil.copytree(tiny_run / "checkpoints", out / left)
    with pytest.raises(TrainingError, match=f"holds {left} of another run, without its config"):
        run(tiny_train_config(room_store, steps=4, seed=7), out)
    assert not (out / "config.json").exists()


def test_float16_gradients_that_stay_infinite_end_the_run(room_store: Path, tmp_path: Path) -> None:
    config = tiny_train_config(room_store, precision="float16", steps=30)
    sources = open_sources(config)
    model = build_model(config, sources[0].channels, seed=0).train()
    trainer = Trainer(model, config, model, Ranks())
    [batch] = BatchStream(sources, config=config.stream).batches(0, 1)
    model.point_projection.linear.weight.register_hook(lambda gradient: gradient * float("inf"))
    for _ in range(19):
        assert not np.isfinite(trainer.step([batch], 0.1).gradient_norm)
    with pytest.raises(FloatingPointError, match="in the last 20 steps"):
        trainer.step([batch], 0.1)


def without_pairs(batch: Batch) -> Batch:
    names = ("pair_voxel", "pair_feature", "pair_cell", "pair_confidence")
    return replace(batch, **{name: getattr(batch, name)[:0] for name in names})


def test_a_micro_batch_without_a_pair_counts_nothing(room_store: Path) -> None:
    config = tiny_train_config(room_store, accumulate=2)
    sources = open_sources(config)
    batches = list(BatchStream(sources, config=config.stream, parts=2).batches(0, 1))
    found: list[dict[str, torch.Tensor]] = []
    for parts in ([batches[0]], [batches[0], without_pairs(batches[1])]):
        model = build_model(config, sources[0].channels, seed=0).eval()
        report = Trainer(model, config, model, Ranks()).step(parts, 0.1)
        assert report.pairs == 64
        assert report.point_rank > 1
        found.append(model.state_dict())
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_a_global_batch_without_a_pair_is_named_by_its_step(room_store: Path) -> None:
    config = tiny_train_config(room_store)
    sources = open_sources(config)
    [batch] = BatchStream(sources, config=config.stream).batches(3, 4)
    model = build_model(config, sources[0].channels, seed=0).train()
    before = {name: value.clone() for name, value in model.named_parameters()}
    with pytest.raises(TrainingError, match="no frame of the global batch of step 3 has a pair"):
        Trainer(model, config, model, Ranks()).step([without_pairs(batch)], 0.1)
    torch.testing.assert_close(dict(model.named_parameters()), before, rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_embeddings_are_float32_in_every_precision(room_store: Path, precision: str) -> None:
    config = tiny_train_config(room_store, precision=precision, engine="torch")
    sources = open_sources(config)
    [batch] = BatchStream(sources, config=config.stream).batches(0, 1)
    model = build_model(config, sources[0].channels, seed=0).train()
    trainer = Trainer(model, config, model, Ranks())
    seen: list[torch.dtype] = []
    model.register_forward_hook(
        lambda model, inputs, contrast: seen.extend(
            [contrast.point_embedding.dtype, contrast.pixel_embedding.dtype]
        )
    )
    assert np.isfinite(trainer.step([batch], 0.1).loss)
    assert seen == [torch.float32, torch.float32]


def test_half_precision_is_refused_with_minkowski_engine(room_store: Path, tmp_path: Path) -> None:
    config = tiny_train_config(room_store, precision="bfloat16", engine="minkowski")
    with pytest.raises(ConfigError, match="MinkowskiEngine computes in float32 only; use engine="):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_list_of_test_scenes_may_have_moved_but_not_become_other_scenes() -> None:
    begun, moved, others = (
        tiny_train_config(Path("x"), holdout_scenes=scenes)
        for scenes in (("official:a.txt",), ("official:b.txt",), ("scene-2",))
    )
    assert with_free_settings(begun, moved) == moved
    assert with_free_settings(begun, others) == begun
    assert with_free_settings(others, begun) == others


def test_settings_that_decide_no_weights_may_change(tiny_run: Path, tmp_path: Path) -> None:
    out = shutil.copytree(tiny_run, tmp_path / "run")
    free = ("keep_checkpoints=3", "stream.threads=1", "stream.ahead=1", "checkpoint_every=1")
    sets = [text for setting in (*free, "device=cpu") for text in ("--set", setting)]
    arguments = ["train", "--out", str(out), "--resume", *sets]
    done = CliRunner().invoke(commands, [*arguments, "--print-config"], catch_exceptions=False)
    printed = tomllib.loads(done.output)
    assert (
        printed["keep_checkpoints"],
        printed["stream"]["threads"],
        printed["checkpoint_every"],
    ) == (
        3,
        1,
        1,
    )
    result = CliRunner().invoke(commands, [*arguments, "--set", "stream.batch_size=1"])
    assert "stream is" in str(result.exception)
    begun = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**begun, "steps": 4}))
    shutil.rmtree(out / "checkpoints" / "step-00000001", ignore_errors=True)
    CliRunner().invoke(commands, arguments, catch_exceptions=False)
    assert [checkpoint.step for checkpoint in list_checkpoints(out)] == [2, 3, 4]
    assert read_config(out).keep_checkpoints == 1
