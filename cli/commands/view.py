"""`p2pkit view`: frames of a store as a picture, a point cloud, a Rerun recording or a window."""

from typing import Any

import click

from p2pkit.cli.options import config_of, options_of, refuse
from p2pkit.pipelines.settings import ViewConfig


@click.command()
@click.argument("store", type=click.Path())
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@options_of(ViewConfig)
def view(store: str, keys: tuple[str, ...], **_: Any) -> None:
    """Show stored frames: colours, depth, labels and features at their points.

    Without KEY, shows the first frame; with no output option, writes KEY.png.

    Example: p2pkit view rooms.store room-0_frame-000000 --png frame.png
    """
    from p2pkit.pipelines import view as stage

    config = config_of(ViewConfig, store=store, keys=keys)
    if config.run is not None and config.layer is not None:
        raise click.UsageError("--run determines the layer; omit --layer")
    if (config.ply or config.window) and not (config.png or config.rrd):
        refuse(["run", "layer"], "it is for features, which --ply and --window do not show")
    if config.rrd is None:
        refuse(["limit"], "it is for --rrd, and other outputs show the named frames; omit it")
    elif keys:
        refuse(["limit"], "the keys say which frames are shown; omit it")
    for path in stage.run(config):
        click.echo(path)
