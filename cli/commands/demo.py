"""`p2pkit demo`: `p2pkit pretrain` on generated rooms."""

from typing import Any

import click

from p2pkit.cli.commands.pretrain import run_shown
from p2pkit.cli.options import config_of, options_of
from p2pkit.pipelines.settings import DemoConfig


@click.command()
@options_of(DemoConfig)
def demo(**_: Any) -> None:
    """Check, extract, pretrain, test and report on generated rooms, in minutes on a few cores.

    It is `p2pkit pretrain` with settings for these rooms. Running it again continues where it
    stopped.

    Example: p2pkit demo --out demo
    """
    from p2pkit.pipelines.demo import pretraining

    run_shown(pretraining(config_of(DemoConfig)))
