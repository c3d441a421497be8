"""Several processes do what one does; gloo on the CPU, started by torchrun, which takes seconds."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from command_line import p2pkit
from ranked import train_in_double
from safetensors.torch import load_file
from store_files import tree
from tiny_recording import tiny_train_config

from p2pkit.errors import ConfigError
from p2pkit.losses import LossConfig
from p2pkit.pipelines.train.checkpoints import latest_checkpoint
from p2pkit.pipelines.train.distributed import Ranks, ranks_from_environment
from p2pkit.pipelines.train.logs import read_metrics
from p2pkit.pipelines.train.model import build_model
from p2pkit.pipelines.train.run import open_sources
from p2pkit.pipelines.train.step import Trainer, channel_spread, effective_rank
from p2pkit.store.verifying import verify_store
from p2pkit.stream.batches import BatchStream

SETTINGS = {
    "student": "Res16UNet14A",
    "embedding_channels": 16,
    "optimizer.learning_rate": 0.01,
    "optimizer.clip_norm": 1.0,
    "stream.batch_size": 3,
    "stream.sample.voxel_size": 0.15,
    "stream.sample.pairs_per_frame": 64,
    "loss.across_ranks": "true",
}
LOSSES = [
    {"name": "ppnce-symmetric"},
    {"name": "ppnce-soft", "negatives": "mask-similar", "similarity": 0.6},
]
"""What is compared in float64."""
OF_SUPERPIXELS = {
    "student": "Res16UNet14A",
    "embedding_channels": 16,
    "optimizer.learning_rate": 0.01,
    "stream.batch_size": 4,
    "stream.sample.voxel_size": 0.15,
    "stream.sample.pairs_per_frame": 64,
    "loss.name": "superpixel",
    "sync_norm": "false",
}
ENDLESS = 10_000
LIKE_ROOM_STORE = (
    *("--dataset", "posed-rgbd", "--voxel-size", "0.02", "--shard-size", "4"),
    *("--teacher", "resnet10t", "--layer", "2", "--weights", "random"),
)


def words(out: Path, *arguments: object, **settings: object) -> list[str]:
    """The words of a `p2pkit train` with these settings."""
    return [
        *("train", *map(str, arguments), "--out", str(out)),
        *(text for name, value in settings.items() for text in ("--set", f"{name}={value}")),
    ]


def paper(out: Path, *arguments: object, **settings: object) -> list[str]:
    return words(out, *arguments, "--preset", "paper", **{**SETTINGS, **settings})


def stopped(command: list[str], run: Path) -> tuple[int, str, str]:
    """Send SIGTERM when `run` has two steps; the exit code and what was printed."""
    process = subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(read_metrics(run)) < 2 and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    printed, errors = process.communicate(timeout=120)
    return process.returncode, printed, errors


def saved_the_step_in_work(run: Path, errors: str) -> bool:
    done = latest_checkpoint(run).step
    message = f"stopped after {done} of {ENDLESS} steps; continue with `p2pkit train"
    return len(read_metrics(run)) == done < ENDLESS and message in errors


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(latest_checkpoint(run).path / "weights.safetensors")


@dataclass(frozen=True)
class Together:
    """A folder with a store and runs, each named for what was trained, and how torchrun ended."""

    folder: Path
    code: int
    printed: str
    errors: str


@pytest.fixture(scope="module")
def two(
    room_recording: Path,
    room_store: Path,
    cut_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Together:
    """All that two processes do, in one start of torchrun; SIGTERM stops the last training."""
    folder = tmp_path_factory.mktemp("two")
    plan = {
        "in_double": {"store": str(room_store), "out": str(folder), "losses": LOSSES},
        "commands": [
            ["extract", str(room_recording), "--out", str(folder / "store"), *LIKE_ROOM_STORE],
            paper(folder / "whole", room_store, "--steps", 4),
            paper(folder / "apart", room_store, "--steps", 4, sync_norm="false"),
            paper(folder / "begun", room_store, "--steps", 4, "--stop-after", 2),
            words(folder / "superpixels", cut_store, "--steps", 2, **OF_SUPERPIXELS),
            paper(folder / "endless", room_store, "--steps", ENDLESS),
        ],
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    script = str(Path(__file__).parent / "ranked.py")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script]
    ended = stopped([*launch, str(folder / "plan.json")], folder / "endless")
    return Together(folder, *ended)


@pytest.fixture(scope="module")
def one(room_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps by one process."""
    out = tmp_path_factory.mktemp("one") / "run"
    p2pkit(*paper(out, room_store, "--steps", 4))
    return out


@pytest.mark.slow
def test_two_processes_extract_what_one_extracts(two: Together, room_store: Path) -> None:
    """They share the shards by claims; which of them writes one makes no difference."""
    assert two.errors.count("12/12 frames [") == 1
    assert verify_store(two.folder / "store", deep=True).ok
    assert tree(two.folder / "store") == tree(room_store)


@pytest.mark.slow
def test_two_processes_train_what_one_trains(one: Path, two: Together) -> None:
    made = ("store", "whole", "apart", "begun", "superpixels")
    assert two.printed.splitlines()[:5] == [str(two.folder / name) for name in made], two.errors
    torch.testing.assert_close(weights(two.folder / "whole"), weights(one), rtol=0, atol=1e-5)
    rows = [read_metrics(run) for run in (one, two.folder / "whole")]
    for name in ("loss", "gradient_norm"):
        found = [[row[name] for row in part] for part in rows]
        assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert [row["pairs"] for row in rows[0]] == [row["pairs"] for row in rows[1]] == [192] * 4
    assert [row["order"] for row in rows[0]] == [row["order"] for row in rows[1]]
    assert len({row["order"] for row in rows[0]}) == 4
    assert [row["epoch"] for row in rows[0]] == pytest.approx([0.25, 0.5, 0.75, 1.0])


@pytest.mark.slow
def test_in_float64_they_agree_to_rounding(two: Together, room_store: Path, tmp_path: Path) -> None:
    """Rounding in float32 grows with each step; here it cannot hide a term that is left out."""
    train_in_double(str(room_store), str(tmp_path), LOSSES)
    for number in range(len(LOSSES)):
        found = [load_file(out / f"{number}.safetensors") for out in (tmp_path, two.folder)]
        torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-9)


@pytest.mark.slow
def test_without_their_exchange_they_train_something_else(one: Path, two: Together) -> None:
    largest = max(
        float((value - weights(one)[name]).abs().max())
        for name, value in weights(two.folder / "apart").items()
        if value.is_floating_point()
    )
    assert largest > 1e-4


@pytest.mark.slow
def test_one_process_goes_on_where_two_stopped(one: Path, two: Together) -> None:
    out = two.folder / "begun"
    assert latest_checkpoint(out).step == 2
    p2pkit(*words(out, "--resume", **SETTINGS))
    torch.testing.assert_close(weights(out), weights(one), rtol=0, atol=1e-5)
    rows = [read_metrics(run) for run in (out, one)]
    assert [row["step"] for row in rows[0]] == [0, 1, 2, 3]
    assert [row["order"] for row in rows[0]] == [row["order"] for row in rows[1]]


@pytest.mark.slow
def test_two_processes_do_what_one_does_with_two_micro_batches(
    two: Together, cut_store: Path, tmp_path: Path
) -> None:
    """Norms apart, each frame's superpixels are compared with those of its part only."""
    out = tmp_path / "one"
    p2pkit(*words(out, cut_store, "--steps", 2, **OF_SUPERPIXELS, accumulate=2))
    runs = (out, two.folder / "superpixels")
    found = [weights(run) for run in runs]
    for name, value in found[0].items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(found[1][name], value, rtol=0, atol=1e-5)
    rows = [read_metrics(run) for run in runs]
    for name in ("loss", "superpixels", "gradient_norm"):
        alone, together = ([row[name] for row in part] for part in rows)
        assert together == pytest.approx(alone, rel=1e-4)


@pytest.mark.slow
def test_sigterm_saves_the_step_in_work(room_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["-m", "p2pkit.cli.main", *paper(out, room_store, "--steps", ENDLESS)]
    code, _, errors = stopped(command, out)
    assert code == 0, errors
    assert saved_the_step_in_work(out, errors)


@pytest.mark.slow
def test_torchrun_passes_sigterm_on(two: Together) -> None:
    assert two.code == 1, two.errors
    assert saved_the_step_in_work(two.folder / "endless", two.errors)


def test_more_processes_than_frames_are_refused(room_store: Path) -> None:
    config = tiny_train_config(room_store)
    with pytest.raises(ConfigError, match="expected at least 4"):
        BatchStream(open_sources(config), config=config.stream, ranks=2, parts=2)


def test_ranks_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert ranks_from_environment() == Ranks()
    monkeypatch.setenv("RANK", "5")
    with pytest.raises(ConfigError, match="but not WORLD_SIZE"):
        ranks_from_environment()
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert ranks_from_environment() == Ranks(5, 8, 0)
    with pytest.raises(ConfigError, match="but not LOCAL_RANK"):
        ranks_from_environment("cuda")
    monkeypatch.delenv("RANK")
    with pytest.raises(ConfigError, match="but not RANK"):
        ranks_from_environment()
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("LOCAL_RANK", "1")
    found = ranks_from_environment()
    assert found == Ranks(5, 8, 1)
    assert (found.device("cuda"), found.device("cpu"), found.is_first) == ("cuda:1", "cpu", False)
    assert Ranks().device("cuda:1") == "cuda:1"
    with pytest.raises(ConfigError, match="'cuda:1', one GPU for 8 processes: set device=cuda"):
        found.device("cuda:1")
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(ConfigError, match="RANK is 5 of WORLD_SIZE 5"):
        ranks_from_environment()
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(ConfigError, match="torchrun"):
        ranks_from_environment()


def test_micro_batches_add_up_to_the_whole_batch(room_store: Path) -> None:
    """Where frames do not meet: norms with fixed statistics and a loss without negatives."""
    config = tiny_train_config(
        room_store, loss=LossConfig(name="cosine"), pixel_head="fixed", accumulate=2
    )
    sources = open_sources(config)
    found: list[dict[str, torch.Tensor]] = []
    for parts in (1, 2):
        model = build_model(config, sources[0].channels, seed=0).eval()
        stream = BatchStream(sources, config=config.stream, parts=parts)
        trainer = Trainer(model, config, model, Ranks())
        batches = list(stream.batches(0, 1))
        assert len(batches) == parts
        report = trainer.step(batches, 0.1)
        assert report.pairs == 128
        found.append(model.state_dict())
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains(room_store: Path, tmp_path: Path, precision: str) -> None:
    config = tiny_train_config(room_store, engine="torch")
    sources = open_sources(config)
    batches = list(BatchStream(sources, config=config.stream).batches(0, 3))
    losses: dict[str, list[float]] = {}
    for name in ("float32", precision):
        chosen = replace(config, precision=name)
        model = build_model(chosen, sources[0].channels, seed=0).train()
        trainer = Trainer(model, chosen, model, Ranks())
        losses[name] = [trainer.step([batch], 0.05).loss for batch in batches]
        json.dumps(trainer.state()["scaler"])
    assert losses[precision] == pytest.approx(losses["float32"], rel=0.05)
    assert losses[precision] != losses["float32"]


def test_the_effective_rank_tells_a_collapse() -> None:
    random = torch.Generator().manual_seed(0)
    spread = torch.randn(4000, 16, generator=random)
    line = spread[:, :1] @ torch.ones(1, 16)
    assert effective_rank(spread) == pytest.approx(16, rel=0.01)
    assert effective_rank(line) == pytest.approx(1, abs=0.05)
    assert effective_rank(torch.ones(10, 16)) == 0.0


def test_the_spread_tells_a_collapse() -> None:
    random = torch.Generator().manual_seed(0)
    spread = torch.nn.functional.normalize(torch.randn(4000, 16, generator=random))
    assert channel_spread(spread) == pytest.approx(1, rel=0.01)
    assert channel_spread(spread[:1].expand(100, 16)) == pytest.approx(0, abs=1e-6)
