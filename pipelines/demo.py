"""demo: `pretrain` on generated rooms, from frames to a report, in minutes on a few cores."""

from p2pkit.pipelines import pretrain
from p2pkit.pipelines.settings import DemoConfig, PretrainConfig
from p2pkit.settings.layers import TeacherOptions

# Twice the size of the rooms' images, so that the teacher's map has as many cells as at the
# 640 x 480 px of the paper.
TEACHER_INPUT = (640, 480)
# Over the preset `cpu-small`, so that a step takes less than a second on two cores.
TRAINING = ("stream.sample.voxel_size=0.1",)


def run(config: DemoConfig, *, progress: pretrain.Show | None = None) -> pretrain.Pretrained:
    """`pretrain.run` on generated rooms, with a fixed number of steps.

    Raises:
        ConfigError: `out` holds a demo with other settings.
    """
    return pretrain.run(pretraining(config), progress=progress)


def pretraining(config: DemoConfig) -> PretrainConfig:
    """The settings of `pretrain` that a demo stands for."""
    return PretrainConfig(
        source=None,
        dataset="demo-scene",
        out=config.out,
        limit=config.frames,
        steps=config.steps,
        teacher=TeacherOptions(input_size=TEACHER_INPUT),
        training=TRAINING,
        random_seeds=config.random_seeds,
        device="cpu",
        seed=config.seed,
    )
