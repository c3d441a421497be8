"""Started by torchrun: train some steps in float64 with each loss and save the weights.

ranked.py STORE OUT STEPS LOSS-SETTINGS-AS-JSON...      OUT/0.safetensors is of the first loss
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from safetensors.torch import save_file
from tiny_recording import tiny_train_config

from p2pkit.losses import LossConfig
from p2pkit.networks.sync_norm import synchronise_norms
from p2pkit.pipelines.train.distributed import process_group, ranks_from_environment, replicate
from p2pkit.pipelines.train.model import build_model
from p2pkit.pipelines.train.run import open_sources
from p2pkit.pipelines.train.step import Trainer
from p2pkit.stream.batches import Batch, BatchStream, StreamConfig


def in_double(batch: Batch) -> Batch:
    """The same numbers with more places."""
    names = ("inputs", "pair_feature", "pair_confidence")
    return replace(batch, **{name: getattr(batch, name).double() for name in names})


def train(store: str, out: Path, steps: int, loss: LossConfig) -> None:
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
    for batch in stream.batches(0, steps):
        trainer.step([in_double(batch)], 0.01)
    if ranks.is_first:
        save_file(model.state_dict(), out)


def main(store: str, out: str, steps: str, *losses: str) -> None:
    """Train with one loss after the other in one process group."""
    with process_group(ranks_from_environment(), "cpu"):
        for number, text in enumerate(losses):
            loss = LossConfig(**json.loads(text), across_ranks=True)
            train(store, Path(out) / f"{number}.safetensors", int(steps), loss)


if __name__ == "__main__":
    main(*sys.argv[1:])
