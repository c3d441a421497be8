"""`p2pkit init`: a recording or a store in, a commented settings file out."""

from pathlib import Path

import click

from p2pkit.cli.commands.train import PRESET
from p2pkit.cli.options import NamedPath
from p2pkit.errors import ConfigError


@click.command()
@click.argument("source", required=False, type=NamedPath())
@PRESET
@click.option("--dataset", help="For a recording: its format, if its files do not show it.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="The file to write; printed if not given."
)
def init(source: str | None, preset: str | None, dataset: str | None, out: Path | None) -> None:
    """Write a commented settings file: for extract from a recording, for train from a store.

    Example: p2pkit init my-recording --out extract.toml
    """
    from p2pkit.files import write_atomic

    text = _settings(source, preset, dataset)
    if out is None:
        click.echo(text, nl=False)
        return
    if out.exists():
        raise ConfigError(f"{out} already exists; name another file, or delete it first")
    write_atomic(out, text.encode(errors="surrogateescape"))
    click.echo(out)


def _settings(source: str | None, preset: str | None, dataset: str | None) -> str:
    from p2pkit.pipelines.extract.settings import recognised_settings, starting_settings
    from p2pkit.pipelines.train.presets import starting_training

    if source is not None and dataset is None and _is_store(source):
        return starting_training(source, preset or "paper")
    if preset is not None:
        raise click.UsageError("--preset is for training: name a store, and omit --dataset")
    if dataset is not None:
        return starting_settings(dataset, None if source is None else Path(source))
    if source is None:
        raise click.UsageError("name a recording or a store, or demo-scene with --dataset")
    return recognised_settings(Path(source))


def _is_store(source: str) -> bool:
    """Whether a path is a store; a URL must be one."""
    from p2pkit.store.location import MANIFEST, as_location
    from p2pkit.store.reading import open_store

    location = as_location(source)
    if isinstance(location, Path) and not (location / MANIFEST).exists():
        return False
    open_store(source)  # a StoreError if it cannot be read
    return True
