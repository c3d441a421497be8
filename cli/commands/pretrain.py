"""`p2pkit pretrain`: one command from a recording to a checkpoint and a report."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pkit.cli.commands.extract import recognised
from p2pkit.cli.commands.train import report_engine
from p2pkit.cli.options import NamedPath, config_of, options_of
from p2pkit.cli.progress import progress_bar
from p2pkit.pipelines.settings import PretrainConfig

if TYPE_CHECKING:
    from p2pkit.pipelines.pretrain import Progress

STAGES = {
    "check": "Check that images and points belong together",
    "extract": "Run the 2D network over the frames; store its features and the pairs",
    "train": "Pretrain a 3D network on them, without labels",
    "evaluate": "Test it on frames that were held out",
    "report": "Draw the report",
}
UNITS = {"check": "frames", "extract": "frames", "train": "steps"}
NOT_OFFERED = ("teacher.layer", "teacher.input_size", "teacher.device", "teacher.views")
"""Options of `extract` that are rarely needed here; `--set` reaches them."""


@click.command()
@click.argument("recording", required=False, type=NamedPath(path_type=Path))
@options_of(PretrainConfig, optional=("out",), without=NOT_OFFERED)
def pretrain(recording: Path | None, dataset: str | None, out: Path | None, **_: Any) -> None:
    """Check a recording, extract, pretrain a 3D network for some minutes, test and report.

    Running it again continues where it stopped; what is done is skipped. A failed check stops it.
    The last three lines say what was learned, where it is, and what to do next.

    Example: p2pkit pretrain my-recording --minutes 20
    """
    if dataset is None:
        found = recognised(recording)
        recording, dataset = found.root, found.dataset
    name = dataset if recording is None else recording.resolve().name
    run_shown(
        config_of(
            PretrainConfig,
            source=recording,
            dataset=dataset,
            out=Path(f"{name}-pretrained") if out is None else out,
        )
    )


def run_shown(config: PretrainConfig) -> None:
    """Run it with its progress on stderr, and print the three lines."""
    from p2pkit.pipelines import pretrain as stage

    if not (config.out / "run" / "config.json").is_file():
        training = stage.known_training(config)
        report_engine(training.engine, training.device, training.precision)
    with _Shown() as shown:
        done = stage.run(config, progress=shown)
    for line in done.summary():
        click.echo(line)


@dataclass
class _Shown:
    """Prints on stderr what each stage does, with a progress bar for frames and steps."""

    stage: str = ""
    bar: Any = None
    closing: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> "_Shown":
        return self

    def __exit__(self, *error: Any) -> None:
        self.closing.__exit__(*error)

    def __call__(self, progress: "Progress") -> None:
        if progress.stage != self.stage:
            self._begin(progress)
        if progress.note:
            click.echo(f"    {progress.note}", err=True)
        if self.bar is not None and progress.total:
            self.bar.total = progress.total
            self.bar.update(progress.done - self.bar.n)

    def _begin(self, progress: "Progress") -> None:
        self.closing.close()
        self.bar, self.stage = None, progress.stage
        number = list(STAGES).index(self.stage) + 1
        click.echo(f"{number}/{len(STAGES)} {STAGES[self.stage]}", err=True)
        if self.stage in UNITS:
            self.bar = self.closing.enter_context(progress_bar(UNITS[self.stage]))
