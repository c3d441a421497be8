"""`p2pkit shards push` and `pull`: a store between a folder and an object store."""

from typing import TYPE_CHECKING

import click

from p2pkit.cli.bars import progress_bar

if TYPE_CHECKING:
    from p2pkit.pipelines.transfer import TransferReport

LAYERS = click.option(
    "--layer", "layers", multiple=True, help="Only this layer beside the geometry; may be repeated."
)
WORKERS = click.option(
    "--workers", type=click.IntRange(min=1), default=4, show_default=True, help="Shards at once."
)


@click.command()
@click.argument("store", type=click.Path())
@click.argument("url")
@LAYERS
@WORKERS
def push(store: str, url: str, layers: tuple[str, ...], workers: int) -> None:
    """Copy a store to an object store; each shard is read back and compared.

    Running the same command again goes on where it stopped.

    Example: p2pkit shards push rooms.store s3://bucket/rooms.store
    """
    _transfer(store, url, layers, workers)


@click.command()
@click.argument("url")
@click.argument("store", type=click.Path())
@LAYERS
@WORKERS
def pull(url: str, store: str, layers: tuple[str, ...], workers: int) -> None:
    """Copy a store from a URL into a folder; each shard is compared with its record.

    Running the same command again goes on where it stopped.

    Example: p2pkit shards pull s3://bucket/rooms.store rooms.store
    """
    _transfer(url, store, layers, workers)


def _transfer(source: str, target: str, layers: tuple[str, ...], workers: int) -> None:
    from p2pkit.pipelines.transfer import TransferConfig, run

    with progress_bar("MB") as bar:

        def show(report: "TransferReport") -> None:
            bar.total = round(report.total_bytes / 1e6, 1)
            bar.update(round(report.bytes / 1e6, 1) - bar.n)

        report = run(TransferConfig(source, target, layers, workers), progress=show)
    click.echo(f"{target}: {report.copied} shards copied and verified, {report.kept} were there")
