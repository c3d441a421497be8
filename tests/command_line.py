"""Commands of p2pkit, as typed."""

from click.testing import CliRunner, Result

from p2pkit.cli.main import commands


def p2pkit(*arguments: object, code: int = 0) -> Result:
    """Run `p2pkit ARGUMENTS`, which has to end with `code`."""
    result = CliRunner().invoke(commands, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result
