"""The recording that a command is given, and its format where `--dataset` does not name it."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from p2pkit.cli.placement import is_first
from p2pkit.errors import SourceError

if TYPE_CHECKING:
    from p2pkit.datasets.recognise import Recognised


def recognised(source: str | Path | None) -> "Recognised":
    """The format that a recording's files tell, said on stderr.

    Raises:
        SourceError: nothing is there.
        click.UsageError: no recording is named, or a store; or no format has its files, or several
            have: the message lists them.
    """
    from p2pkit.datasets.recognise import recognise
    from p2pkit.store.location import MANIFEST

    if source is None:
        raise click.UsageError(
            "Missing argument 'SOURCE': name a recording; generated rooms need none, only "
            "--dataset demo-scene"
        )
    place = Path(source)
    if (place / MANIFEST).is_file():
        raise click.UsageError(f"{place} is a store; name the recording that it was extracted from")
    try:
        found = recognise(place)
    except SourceError as error:
        if not place.exists():
            raise
        raise click.UsageError(str(error)) from error
    if is_first():
        click.echo(
            f"{' '.join(found.sentences)} If that is wrong, name another --dataset.", err=True
        )
    return found
