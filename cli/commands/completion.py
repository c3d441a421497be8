"""`p2pkit completion`: a script with which a shell completes commands and options."""

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print a script that completes commands and options; source it in the shell's start-up file.

    Example: p2pkit completion zsh
    """
    from p2pkit.cli.main import commands

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(commands, {}, "p2pkit", "_P2PKIT_COMPLETE").source())
