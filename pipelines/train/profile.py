"""profile: where the time of a training step goes, measured on a run that is not kept."""

import time
from dataclasses import dataclass, replace
from itertools import islice

import torch

from p2pkit.errors import ConfigError
from p2pkit.networks import choose_engine
from p2pkit.pipelines.train.distributed import Ranks
from p2pkit.pipelines.train.optimizer import learning_rate
from p2pkit.pipelines.train.run import trainer_and_stream
from p2pkit.pipelines.train.run_folder import check_device
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.pipelines.train.stores import open_sources
from p2pkit.profiling import START, Laps

PREPARING = ("read", "decode", "augment", "voxelise", "pairs", "prepare")
"""Parts done in the loader's threads, in parallel with the step."""
STEPPING = ("wait", "forward", "loss", "backward", "optimiser", "meters")
WARM_UP = 2


@dataclass(frozen=True)
class StepProfile:
    """Mean times of a step.

    Args:
        steps: number of measured steps, after two for warm-up.
        threads: of the loader.
        step_ms: from asking for a batch to the end of the update.
        preparing_ms: by part of the work on a global batch, summed over the loader's threads, which
            run in parallel with the step.
        stepping_ms: by part of the step; `rest` is the remaining time.
    """

    steps: int
    threads: int
    step_ms: float
    preparing_ms: dict[str, float]
    stepping_ms: dict[str, float]


def run(config: TrainConfig, *, steps: int = 10) -> StepProfile:
    """Train for some steps in this process and measure; nothing is written.

    On a GPU each part waits for the device, so that times are attributed correctly; steps are then
    somewhat slower than in training.

    Raises:
        ConfigError: `steps` is below 1, or the device cannot be used.
        StoreError: a store is incomplete, mixed or corrupt.
    """
    if steps < 1:
        raise ConfigError(f"steps is {steps}; expected at least 1")
    check_device(config.device)
    choice = choose_engine(config.engine, config.device, precision=config.precision)
    config = replace(config, engine=choice.name)
    is_cuda = config.device.startswith("cuda")
    laps = Laps(torch.cuda.synchronize if is_cuda else None)
    loading = Laps()
    trainer, stream = trainer_and_stream(
        config, open_sources(config), Ranks(), stepping=laps, preparing=loading
    )
    for _ in stream.batches(0, 1):  # compiles the kernels
        pass
    loading.seconds.clear()
    batches = stream.batches(0, WARM_UP + steps)
    began = 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            laps.seconds.clear()
            began = time.perf_counter()
        laps(START)
        parts = list(islice(batches, config.accumulate))
        laps("wait")
        trainer.step(parts, learning_rate(config.optimizer, step, config.steps))
    total = time.perf_counter() - began
    named = {part: laps.seconds[part] for part in STEPPING}
    stepping = {**named, "rest": total - sum(named.values())}
    return StepProfile(
        steps=steps,
        threads=config.stream.threads,
        step_ms=1e3 * total / steps,
        preparing_ms={part: 1e3 * loading.seconds[part] / (WARM_UP + steps) for part in PREPARING},
        stepping_ms={part: 1e3 * value / steps for part, value in stepping.items()},
    )
