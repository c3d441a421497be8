"""`p2pkit completion`: the script that makes a shell complete p2pkit's commands and options."""

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script for a shell to complete commands and options; source it in its start file.

    Example: p2pkit completion zsh
    """
    from p2pkit.cli.main import commands

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(commands, {}, "p2pkit", "_P2PKIT_COMPLETE").source())
