"""Started by torchrun, once for many tests: trainings one after the other in one process group.

ranked.py PLAN.json      The plan has what `train_in_double` takes, and the words of commands.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from safetensors.torch import save_file
from tiny_recording import tiny_train_config

from p2pkit.cli.main import commands, main
from p2pkit.losses import LossConfig
from p2pkit.networks.engines.sync_norm import synchronise_norms
from p2pkit.pipelines.train.distributed import process_group, ranks_from_environment, replicate
from p2pkit.pipelines.train.model import build_model
from p2pkit.pipelines.train.run import open_sources
from p2pkit.pipelines.train.step import Trainer
from p2pkit.stream.batches import Batch, BatchStream, StreamConfig


def in_double(batch: Batch) -> Batch:
    """The same numbers with more places."""
    names = ("inputs", "pair_feature", "pair_confidence")
    return replace(batch, **{name: getattr(batch, name).double() for name in names})


def train_in_double(store: str, out: str, losses: list[dict[str, Any]]) -> None:
    """Three steps in float64 with each loss; OUT/0.safetensors has the weights of the first."""
    for number, settings in enumerate(losses):
        loss = LossConfig(**settings, across_ranks=True)
        _train(store, Path(out) / f"{number}.safetensors", loss)


def _train(store: str, out: Path, loss: LossConfig) -> None:
    """Train on a global batch of 3 frames."""
    config = tiny_train_config(store, loss=loss)
    stream_config = replace(config.stream, batch_size=3)
    assert isinstance(stream_config, StreamConfig)
    ranks, sources = ranks_from_environment(), open_sources(config)
    model = build_model(config, sources[0].channels, seed=0)
    if ranks.ranks > 1:
        synchronise_norms(model)
    model = model.double().train()
    trainer = Trainer(model, config, replicate(model, ranks, "cpu"), ranks)
    stream = BatchStream(sources, config=stream_config, rank=ranks.rank, ranks=ranks.ranks)
    for batch in stream.batches(0, 3):
        trainer.step([in_double(batch)], 0.01)
    if ranks.is_first:
        save_file(model.state_dict(), out)


def run(plan: dict[str, Any]) -> None:
    """The plan's trainings; the last command decides the exit code."""
    with process_group(ranks_from_environment(), "cpu"):
        train_in_double(**plan["in_double"])
        *before, last = plan["commands"]
        for words in before:
            commands.main(words, standalone_mode=False)
        main(last)


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text()))
