"""Several processes train the same weights as one; gloo on the CPU, started by torchrun."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_recording import tiny_train_config

from p2pkit.errors import ConfigError
from p2pkit.losses import LossConfig
from p2pkit.pipelines.train.checkpoints import latest_checkpoint
from p2pkit.pipelines.train.distributed import Ranks, ranks_from_environment
from p2pkit.pipelines.train.logs import read_metrics
from p2pkit.pipelines.train.model import build_model
from p2pkit.pipelines.train.run import open_sources
from p2pkit.pipelines.train.step import Trainer, channel_spread, effective_rank
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
LOSSES = (
    {"name": "ppnce-symmetric"},
    {"name": "ppnce-soft", "negatives": "mask-similar", "similarity": 0.6},
)
"""What is compared in float64."""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(out: Path, *arguments: object, ranks: int = 1, **settings: object) -> list[str]:
    """`p2pkit train` by one process, or by several under torchrun."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    chosen = {**SETTINGS, **settings}
    return [
        sys.executable,
        *(launch if ranks > 1 else []),
        *("-m", "p2pkit.cli.main", "train", *map(str, arguments), "--out", str(out)),
        *(() if "--resume" in arguments else ("--preset", "paper")),
        *(text for name, value in chosen.items() for text in ("--set", f"{name}={value}")),
    ]


def train(out: Path, *arguments: object, ranks: int = 1, **settings: object) -> str:
    done = subprocess.run(
        command(out, *arguments, ranks=ranks, **settings),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def train_in_double(store: Path, out: Path, ranks: int) -> Path:
    """Three steps in float64 with each of LOSSES; gives the folder of their weights."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    script = Path(__file__).parent / "ranked.py"
    done = subprocess.run(
        [sys.executable, *launch, str(script), str(store), str(out), "3", *map(json.dumps, LOSSES)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(latest_checkpoint(run).path / "weights.safetensors")


@pytest.fixture(scope="module")
def one(room_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps by one process."""
    out = tmp_path_factory.mktemp("one") / "run"
    train(out, room_store, "--steps", 4)
    return out


@pytest.mark.slow
def test_two_processes_train_what_one_trains(one: Path, room_store: Path, tmp_path: Path) -> None:
    told = train(tmp_path / "two", room_store, "--steps", 4, ranks=2)
    assert told.splitlines() == [str(tmp_path / "two")]
    torch.testing.assert_close(weights(tmp_path / "two"), weights(one), rtol=0, atol=1e-5)
    rows = [read_metrics(run) for run in (one, tmp_path / "two")]
    for name in ("loss", "gradient_norm"):
        found = [[row[name] for row in part] for part in rows]
        assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert [row["pairs"] for row in rows[0]] == [row["pairs"] for row in rows[1]] == [192] * 4
    assert [row["order"] for row in rows[0]] == [row["order"] for row in rows[1]]
    assert len({row["order"] for row in rows[0]}) == 4
    assert [row["epoch"] for row in rows[0]] == pytest.approx([0.25, 0.5, 0.75, 1.0])


@pytest.fixture(scope="module")
def in_double(room_store: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same training in float64 by one process and by two."""
    folders = [tmp_path_factory.mktemp(f"double-{ranks}") for ranks in (1, 2)]
    return [train_in_double(room_store, out, ranks) for ranks, out in enumerate(folders, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(LOSSES)), ids=[loss["name"] for loss in LOSSES])
def test_in_float64_they_agree_to_rounding(in_double: list[Path], number: int) -> None:
    """Rounding in float32 grows with each step; here it cannot hide a term that is left out."""
    found = [load_file(folder / f"{number}.safetensors") for folder in in_double]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-9)


@pytest.mark.slow
def test_without_their_exchange_they_train_something_else(
    one: Path, room_store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "apart"
    train(out, room_store, "--steps", 4, ranks=2, sync_norm="false")
    largest = max(
        float((value - weights(one)[name]).abs().max())
        for name, value in weights(out).items()
        if value.is_floating_point()
    )
    assert largest > 1e-4


@pytest.mark.slow
def test_one_process_goes_on_where_two_stopped(one: Path, room_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out, room_store, "--steps", 4, "--stop-after", 2, ranks=2)
    assert latest_checkpoint(out).step == 2
    train(out, "--resume")
    torch.testing.assert_close(weights(out), weights(one), rtol=0, atol=1e-5)
    rows = [read_metrics(run) for run in (out, one)]
    assert [row["step"] for row in rows[0]] == [0, 1, 2, 3]
    assert [row["order"] for row in rows[0]] == [row["order"] for row in rows[1]]


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "code"), [(1, 0), (2, 1)])
def test_sigterm_saves_the_step_in_work(
    room_store: Path, tmp_path: Path, ranks: int, code: int
) -> None:
    """One process exits with 0; torchrun passes the signal on and has an exit code of its own."""
    out = tmp_path / "run"
    process = subprocess.Popen(
        command(out, room_store, "--steps", 10_000, ranks=ranks),
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(read_metrics(out)) < 2 and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=120)[1]
    assert process.returncode == code, told
    done = latest_checkpoint(out).step
    assert len(read_metrics(out)) == done < 10_000
    assert f"stopped after {done} of 10000 steps; continue with `p2pkit train" in told


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
