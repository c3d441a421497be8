"""`p2pkit demo`: everything on generated rooms."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from p2pkit.cli.evaluate import probe_table
from p2pkit.cli.options import config_of, options_of
from p2pkit.cli.train import report_engine
from p2pkit.pipelines.settings import DemoConfig

if TYPE_CHECKING:
    from p2pkit.pipelines.demo import Progress

STAGES = {
    "extract": "Run the 2D network over generated rooms; store its features and the pairs",
    "train": "Pretrain a 3D network on them, without labels",
    "probe": "Fit a linear classifier on frozen features: pretrained, random, colour and position",
    "retrieval": "Match points to their own pixels in the held-out room",
    "report": "Draw the report",
}
UNITS = {"extract": "frames", "train": "steps"}


@click.command()
@options_of(DemoConfig)
def demo(**_: Any) -> None:
    """Extract, pretrain, probe and report on generated rooms, in minutes on a few cores.

    Running it again continues where it stopped. Prints the probe's table and the report's path.

    Example: p2pkit demo --out demo
    """
    import json

    from p2pkit.pipelines import demo as stage

    config = config_of(DemoConfig)
    if not (config.out / "run" / "config.json").is_file():
        report_engine("auto", "cpu", "float32")
    with _Shown() as shown:
        report = stage.run(config, progress=shown)
    probed = json.loads((config.out / "run" / "probe.json").read_text())
    click.echo("\n".join(probe_table(probed)))
    click.echo(report)


@dataclass
class _Shown:
    """Prints on stderr what each stage does, with a progress bar for frames and steps."""

    stage: str = ""
    bar: Any = None

    def __enter__(self) -> "_Shown":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __call__(self, progress: "Progress") -> None:
        if progress.stage != self.stage:
            self._begin(progress)
        if self.bar is not None:
            self.bar.update(progress.done - self.bar.n)

    def _begin(self, progress: "Progress") -> None:
        self._close()
        self.stage = progress.stage
        number = list(STAGES).index(self.stage) + 1
        click.echo(f"{number}/{len(STAGES)} {STAGES[self.stage]}", err=True)
        if self.stage in UNITS:
            from tqdm import tqdm

            unit = f" {UNITS[self.stage]}"
            self.bar = tqdm(total=progress.total, initial=progress.done, unit=unit, file=sys.stderr)

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
